"""run_experiment: an experiment from a JSON file: check it, say what it takes, run it, follow it, keep its results."""

import json
import threading
import time
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from interp_app.core.errors import ServiceError
from interp_app.core.middleware import LOCAL_USERNAME
from interp_app.core.models import User
from interp_app.runs import estimates, exporting, planning, queue, selectors, services, spec_files
from interp_app.runs.models import TERMINAL, Run, Status
from interp_app.runs.worker import WorkerProcess

POLL_SECONDS: Final = 0.25
FAILED: Final = 1
BAD_FILE: Final = 2
CANCELLED: Final = 3
INTERRUPTED: Final = 130


class Command(BaseCommand):
    """The file has the body of POST /api/v1/runs/: method, params, model, prompts (a slug, or {id or slug, version}).

    What it prints is the run's own log: the one that browsers and API clients read.
    """

    help = (
        "Run the experiment in a JSON file and follow it to its end. "
        "Exit status: 0 succeeded, 1 failed, 2 the file is faulty, 3 cancelled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, nargs="?", help="the experiment; --example prints one")
        parser.add_argument("--list", action="store_true", help="list the methods and stop")
        parser.add_argument("--example", metavar="METHOD", help="print a file for a method and stop")
        parser.add_argument("--preview", action="store_true", help="check the file, say what it takes, and stop")
        parser.add_argument("--here", action="store_true", help="compute in this process instead of a worker's")
        parser.add_argument("--no-wait", action="store_true", help="queue it and stop")
        parser.add_argument("--wait", action="store_true", help="follow the run to its end; this is the default")
        parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results, tables and the notebook there")
        parser.add_argument("--user", default=LOCAL_USERNAME, help="owner of the run")
        parser.add_argument("--force", action="store_true", help="compute even if an identical run succeeded")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            self._handle(options)
        except ServiceError as error:
            raise CommandError(spec_files.sentence(error), returncode=BAD_FILE) from error

    def _handle(self, options: dict[str, Any]) -> None:
        if options["list"]:
            self.stdout.write(spec_files.listing())
            return
        if options["example"]:
            self.stdout.write(spec_files.example(options["example"]))
            return
        if options["file"] is None:
            raise CommandError("Give a file; `--example METHOD` prints one, `--list` the methods.", returncode=BAD_FILE)
        if options["no_wait"] and (options["out"] or options["here"]):
            raise CommandError("--no-wait leaves nothing to write or to compute here.", returncode=BAD_FILE)
        owner = User.objects.filter(username=options["user"], is_active=True).first()
        if owner is None:
            raise CommandError(f"There is no active account {options['user']!r}.", returncode=BAD_FILE)
        body = spec_files.read(options["file"])
        asked = self._asked(body, owner)
        if options["preview"]:
            return
        run = services.submit_run(**asked, owner=owner, **_filing(body, force=options["force"]))
        reused = f" (answered from {run.reused_from_id})" if run.reused_from_id else ""
        self.stdout.write(f"run {run.pk}{reused}")
        if options["no_wait"]:
            return
        if options["here"] and run.status == Status.QUEUED:
            self._compute_here(run)
        else:
            self._tell_queue(run, owner)
            self._follow(run)
        self._end(run, owner, options["out"])

    def _asked(self, body: dict[str, Any], owner: User) -> dict[str, Any]:
        """What to run on what, checked; says what it takes."""
        model, prompts = spec_files.choose(body, owner)
        asked = {"model": model, "prompts": prompts, "method": body["method"], "params": body.get("params", {})}
        plan = planning.plan(**asked)
        estimate = estimates.of_plan(plan.method.name, model, plan.normalised, plan.cost)
        cells = f"{plan.cost.cells} cells, " if plan.cost.cells else ""
        took = "time not known yet" if estimate is None else f"about {estimate.seconds:.2g} s"
        pairs = f"{plan.prompts.pairs} pairs of up to {plan.prompts.max_length} tokens"
        self.stdout.write(f"{plan.method.title} on {model.title}, {pairs}: {cells}{plan.cost.flops:.3g} FLOP, {took}")
        return asked

    def _tell_queue(self, run: Run, owner: User) -> None:
        entry = queue.queue_entry(run, owner)
        if entry is not None:
            self.stdout.write(f"position {entry.position} in the queue: {entry.reason}")

    def _compute_here(self, run: Run) -> None:
        """Claim the run for a worker that lives as long as it, in a thread; follow its log from here."""
        worker = WorkerProcess(f"here-{run.pk}", end_with_parent=False)

        def work() -> None:
            try:
                worker.work_on(run.pk)
            finally:
                connection.close()

        worker.start()
        thread = threading.Thread(target=work, name="here")
        thread.start()
        try:
            self._follow(run, working=thread)
        except KeyboardInterrupt:
            services.cancel_run(run=run, actor=run.owner)
            raise
        finally:
            thread.join()
            worker.close()

    def _follow(self, run: Run, working: threading.Thread | None = None) -> None:
        """Print the log as it grows, until the run has ended."""
        seq = 0
        try:
            while True:
                alive = working is None or working.is_alive()
                run.refresh_from_db()
                for event in selectors.events_after(run.source_id, seq):
                    seq = event.seq
                    line = _line(event)
                    if line:
                        self.stdout.write(line)
                if run.status in TERMINAL and seq >= run.last_seq:
                    return
                if not alive and run.status == Status.QUEUED:
                    raise CommandError("The run could not be computed here; it is in the queue.", returncode=FAILED)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if working is not None:
                raise
            message = f"Interrupted. The run goes on at /runs/{run.pk}/; it can be cancelled there."
            raise CommandError(message, returncode=INTERRUPTED) from None

    def _end(self, run: Run, owner: User, out: Path | None) -> None:
        run.refresh_from_db()
        if run.status != Status.SUCCEEDED:
            code = CANCELLED if run.status == Status.CANCELLED else FAILED
            raise CommandError(f"The run is {run.status}. {run.failure_text}".strip(), returncode=code)
        if out is not None:
            try:
                written = exporting.write(selectors.run_detail(owner, run.pk), out, owner)
            except OSError as error:
                raise CommandError(f"{out.name} cannot be written: {error.strerror}.", returncode=FAILED) from error
            self.stdout.write(f"{len(written)} files in {out}: {', '.join(path.name for path in written)}")


def _filing(body: dict[str, Any], *, force: bool) -> dict[str, Any]:
    return {
        "title": body.get("title", ""),
        "visibility": body.get("visibility", "lab"),
        "tags": body.get("tags", []),
        "force": force or body.get("force", False),
    }


def _line(event: selectors.LoggedEvent) -> str:
    """What to print of an event; nothing for tiles and panels."""
    data = event.payload
    if event.kind == "status":
        return " ".join(part for part in (data["status"], data.get("stage"), data.get("reason")) if part)
    if event.kind == "progress":
        return _progress(data)
    if event.kind == "log":
        return f"  {data['level']}: {data['message']}"
    if event.kind == "result":
        summary = json.dumps(data.get("summary", {}), ensure_ascii=False)
        return f"  result {data['name']} ({data['type']}): {summary[:200]}"
    return ""


def _progress(data: dict[str, Any]) -> str:
    unit = data.get("unit", "cells")
    amount = f"{data['done']}/{data['total']} {unit}" if data["total"] else data["stage"]
    rate = f", {data['rate']:g} {unit}/s" if "rate" in data else ""
    left = f", {data['eta_seconds']:g} s left" if data.get("eta_seconds") else ""
    return f"  {amount}{rate}{left}"
