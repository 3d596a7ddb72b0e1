"""run_experiment: submit an experiment from a JSON file and follow its event log."""

import json
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.catalog import selectors as catalog
from interp_app.catalog.models import PromptSet
from interp_app.core.errors import ServiceError
from interp_app.core.middleware import LOCAL_USERNAME
from interp_app.core.models import User
from interp_app.runs import selectors, services
from interp_app.runs.models import TERMINAL, Run, Status

POLL_SECONDS = 0.25


class Command(BaseCommand):
    """The file has the body of POST /api/v1/runs/: method, params, model, prompts {id or slug, version}."""

    help = "Submit the experiment in a JSON file; --wait follows it to its end."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--user", default=LOCAL_USERNAME, help="owner of the run")
        parser.add_argument("--wait", action="store_true", help="print progress until the run ends")
        parser.add_argument("--force", action="store_true", help="compute even if an identical run succeeded")

    def handle(self, *_: Any, **options: Any) -> None:
        owner = User.objects.filter(username=options["user"], is_active=True).first()
        if owner is None:
            raise CommandError(f"There is no active account {options['user']!r}.")
        try:
            run = self._submit(_read(options["file"]), owner, force=options["force"])
        except ServiceError as error:
            raise CommandError(str(error)) from error
        reused = f" (answered from {run.reused_from_id})" if run.reused_from_id else ""
        self.stdout.write(f"run {run.pk}{reused}")
        if options["wait"]:
            self._follow(run)

    def _submit(self, body: dict[str, Any], owner: User, *, force: bool) -> Run:
        wanted = body.get("prompts") or {}
        id_ = wanted.get("id")
        if id_ is None and wanted.get("slug"):
            id_ = PromptSet.objects.filter(slug=wanted["slug"]).values_list("pk", flat=True).first()
        return services.submit_run(
            owner=owner,
            model=catalog.model_by_slug(str(body.get("model", ""))),
            prompts=catalog.version_for(owner, str(id_), wanted.get("version")),
            method=str(body.get("method", "activation_patching")),
            params=body.get("params") or {},
            title=str(body.get("title", "")),
            visibility=str(body.get("visibility", "lab")),
            tags=body.get("tags") or [],
            force=force or bool(body.get("force")),
        )

    def _follow(self, run: Run) -> None:
        seq = 0
        while True:
            run.refresh_from_db()
            for event in selectors.events_after(run.source_id, seq):
                seq = event.seq
                line = _line(event)
                if line:
                    self.stdout.write(line)
            if run.status in TERMINAL and seq >= run.last_seq:
                break
            time.sleep(POLL_SECONDS)
        if run.status != Status.SUCCEEDED:
            raise CommandError(f"The run is {run.status}. {run.failure_text}".strip())


def _read(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{file.name} cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise CommandError(f"{file.name} does not hold a JSON object.")
    return body


def _line(event: selectors.LoggedEvent) -> str:
    """What to print of an event; nothing for tiles and panels."""
    data = event.payload
    if event.kind == "status":
        return " ".join(part for part in (data["status"], data.get("stage"), data.get("reason")) if part)
    if event.kind == "progress":
        rate = f", {data['rate']:g} cells/s" if "rate" in data else ""
        return f"  {data['done']}/{data['total']} cells{rate}"
    if event.kind == "log":
        return f"  {data['level']}: {data['message']}"
    if event.kind == "result":
        return f"  result {data['name']}: artifact {data['artifact']['sha256'][:12]}"
    return ""
