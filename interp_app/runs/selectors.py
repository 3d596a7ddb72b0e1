"""Reads of runs, each through the visibility of the user who asks. The queue has a module of its own: `queue`."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils import timezone

from interp_app.catalog.models import PromptSet
from interp_app.core.errors import not_found
from interp_app.core.visibility import VisibleQuerySet
from interp_app.runs.models import Run, RunArtifact, RunEvent, Tile, Worker
from interp_app.runs.shapes import for_slim
from interp_app.runs.states import RESUMABLE


@dataclass(frozen=True, slots=True)
class HistoryFilters:
    """What the history page and the API filter by; None or empty means any."""

    q: str = ""
    status: str = ""
    model: str = ""
    prompts: str = ""
    method: str = ""
    tag: str = ""
    owner: str = ""
    archived: bool = False
    since: datetime | None = None
    until: datetime | None = None
    sort: str = "-created_at"


SORTS = ("-created_at", "created_at", "-finished_at", "finished_at", "title", "-title", "status", "-status")


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event as read back. `tile` is None for other kinds, and where a later attempt replaced that tile."""

    seq: int
    attempt: int
    kind: str
    payload: dict[str, Any]
    at: datetime
    tile: Tile | None


def visible_runs(user: Any) -> VisibleQuerySet:
    """Every run `user` may see, with what the slim form shows; big columns are left in the database."""
    return for_slim(Run.objects.visible_to(user))


def run_detail(user: Any, id_: uuid.UUID | str) -> Run:
    """One run with everything its page shows. Raises `ServiceError` 404 where `user` may not see it."""
    related = ("owner", "model", "prompts__prompt_set", "worker", "reused_from", "cloned_from")
    runs = Run.objects.visible_to(user).select_related(*related).prefetch_related("tags").defer("prompts__pairs")
    try:
        run: Run | None = runs.filter(pk=id_).first()
    except (ValidationError, ValueError):
        run = None
    if run is None:
        raise not_found("run")
    return run


def history(user: Any, filters: HistoryFilters) -> VisibleQuerySet:
    """The runs `user` may see that match `filters`, sorted."""
    runs = visible_runs(user).filter(archived_at__isnull=not filters.archived)
    exact = {
        "status": filters.status,
        "model__slug": filters.model,
        "method": filters.method,
        "tags__name": filters.tag.strip().lower(),
        "owner__username": filters.owner,
    }
    runs = runs.filter(**{name: value for name, value in exact.items() if value})
    if filters.prompts:
        wanted = PromptSet.objects.visible_to(user).filter(_prompt_set(filters.prompts))
        runs = runs.filter(prompts__prompt_set__in=wanted)
    if filters.q:
        # A run may be visible while its prompt set is not: its title then is no way to find it.
        titled = PromptSet.objects.visible_to(user).filter(title__icontains=filters.q)
        runs = runs.filter(Q(title__icontains=filters.q) | Q(prompts__prompt_set__in=titled))
    if filters.since:
        runs = runs.filter(created_at__gte=filters.since)
    if filters.until:
        runs = runs.filter(created_at__lt=filters.until)
    sort = filters.sort if filters.sort in SORTS else SORTS[0]
    return runs.order_by(sort, "-id")


def can(user: Any, run: Run) -> dict[str, bool]:
    """Which actions `user` has on `run`, for buttons and the API's `can`."""
    signed_in = getattr(user, "is_authenticated", False) and user.is_active
    mine = bool(signed_in and (run.owner_id == user.pk or user.is_lab_admin))
    live = run.status in ("queued", "running")
    return {
        "edit": mine,
        "cancel": mine and live and run.cancel_requested_at is None,
        "resume": mine and user.can_run and run.status in RESUMABLE,
    }


def events_after(run_id: uuid.UUID, seq: int, limit: int = 500) -> list[LoggedEvent]:
    """The run's events with a number above `seq`, oldest first, at most `limit`. Two queries.

    Give `run.source_id` for a run that was answered from another.
    """
    rows = list(RunEvent.objects.filter(run_id=run_id, seq__gt=seq).order_by("seq")[:limit])
    tiles = _tiles_of(run_id, rows)
    return [
        LoggedEvent(row.seq, row.attempt, row.kind, row.payload, row.created_at, tiles.get(row.seq)) for row in rows
    ]


def last_logs(run_id: uuid.UUID, limit: int = 200) -> list[LoggedEvent]:
    """The newest `log` and `status` events, oldest first: what a viewer who gets a snapshot still wants to read."""
    rows = RunEvent.objects.filter(run_id=run_id, kind__in=("log", "status")).order_by("-seq")[:limit]
    return [LoggedEvent(row.seq, row.attempt, row.kind, row.payload, row.created_at, None) for row in reversed(rows)]


def artifacts_of(run: Run) -> list[RunArtifact]:
    """The run's artifacts by name (of the run it was answered from, if any)."""
    return list(RunArtifact.objects.filter(run_id=run.source_id).select_related("artifact").order_by("name"))


def online_workers() -> list[Worker]:
    """Workers that did not sign off and were heard from within the lease time."""
    since = timezone.now() - timedelta(seconds=settings.RUN_LEASE_SECONDS)
    return list(Worker.objects.filter(heartbeat_at__gte=since, stopped_at__isnull=True))


def workers() -> list[tuple[Worker, bool]]:
    """Every worker of the last day with whether it is online, the online ones first."""
    online = {worker.pk for worker in online_workers()}
    recent = Worker.objects.filter(heartbeat_at__gte=timezone.now() - timedelta(days=1))
    return sorted(((worker, worker.pk in online) for worker in recent), key=lambda one: (not one[1], one[0].name))


def _prompt_set(text: str) -> Q:
    try:
        return Q(pk=uuid.UUID(text))
    except ValueError:
        return Q(slug=text)


def _tiles_of(run_id: uuid.UUID, rows: Sequence[RunEvent]) -> dict[int, Tile]:
    seqs = [row.seq for row in rows if row.kind == "tile"]
    if not seqs:
        return {}
    tiles = Tile.objects.filter(run_id=run_id, seq__gte=seqs[0], seq__lte=seqs[-1]).defer("examples")
    return {tile.seq: tile for tile in tiles}
