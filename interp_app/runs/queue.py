"""The queue as people see it: the position of each queued run, why it waits, and when it should start.

The order is the one `claims` follows (fewest running runs of the owner, least recently served, oldest), played forward:
each run goes to the worker that is free first and has its model. Warm models are left out, since that preference
only ever swaps neighbours for a minute.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import DateTimeField, JSONField, Max, OuterRef, Subquery
from django.utils import timezone

from interp_app.catalog.models import ModelSource
from interp_app.runs import estimates
from interp_app.runs.models import Calibration, Run, RunEvent, Status, Worker
from interp_app.runs.selectors import online_workers
from interp_app.runs.shapes import for_slim

MAX_SHOWN = 1000
PROGRESS_WITHIN = 1000
"""Events at the end of a log among which an attempt's last progress is looked for; it tells at least every second."""


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A queued run: `position` counts from 1 over everybody's runs; `eta_seconds` until it starts, None if unknown."""

    run: Run
    position: int
    reason: str
    eta_seconds: float | None


@dataclass(slots=True)
class _Slot:
    """An online worker during the simulation: when it is free (seconds from now, None unknown) and what it runs.

    `shown` is whether the viewer may know what that is.
    """

    worker: Worker
    free_in: float | None
    busy_with: Run | None
    shown: bool


def queue_view(viewer: Any) -> list[QueueEntry]:
    """The queued runs `viewer` may see, in the order in which they will be claimed. A constant number of queries."""
    visible = set(Run.objects.visible_to(viewer).filter(status=Status.QUEUED).values_list("pk", flat=True))
    return [entry for entry in _entries(viewer) if entry.run.pk in visible]


def queue_entry(run: Run, viewer: Any) -> QueueEntry | None:
    """Where `run` stands in the queue; None where it is not queued. Behind the first 1000 only that is known."""
    if run.status != Status.QUEUED:
        return None
    entries = _entries(viewer)
    found = next((entry for entry in entries if entry.run.pk == run.pk), None)
    if found is None and len(entries) == MAX_SHOWN:
        return QueueEntry(run, MAX_SHOWN + 1, f"More than {MAX_SHOWN} runs are ahead of it.", None)
    return found


def would_queue(model: ModelSource, viewer: Any) -> tuple[int, str]:
    """Position and reason that a run on `model` would get if `viewer` submitted it now."""
    slots = _slots(viewer)
    waiting = Run.objects.filter(status=Status.QUEUED).count()
    running = Run.objects.filter(owner=viewer, status=Status.RUNNING).count() if viewer.pk else 0
    return waiting + 1, _reason(model, running, slots, mine=True)


def _entries(viewer: Any) -> list[QueueEntry]:
    waiting = estimates.with_dtype(for_slim(Run.objects.filter(status=Status.QUEUED)))
    queued = list(waiting.order_by("queued_at", "id")[:MAX_SHOWN])
    if not queued:
        return []
    slots = _slots(viewer)
    known = estimates.calibrations([slot.worker for slot in slots], [run.model_id for run in queued])
    running = _running_counts()
    order = _in_turn(queued, dict(running), _served({run.owner_id for run in queued}))
    free: dict[uuid.UUID, float | None] = {slot.worker.pk: slot.free_in for slot in slots}
    entries = []
    for position, run in enumerate(order, start=1):
        mine = run.owner_id == getattr(viewer, "pk", None)
        barred = _barred(run, mine=mine)
        reason = barred or _reason(run.model, running.get(run.owner_id, 0), slots, mine=mine)
        entries.append(QueueEntry(run, position, reason, None if barred else _start_in(run, slots, free, known)))
    return entries


def _slots(viewer: Any) -> list[_Slot]:
    """The online workers, in four queries."""
    workers = online_workers()
    progress = RunEvent.objects.filter(
        run=OuterRef("pk"),
        attempt=OuterRef("attempt"),
        seq__gt=OuterRef("last_seq") - PROGRESS_WITHIN,
        kind="progress",
    ).order_by("-seq")
    running_now = for_slim(Run.objects.filter(status=Status.RUNNING, worker__in=workers))
    held = estimates.with_dtype(running_now).annotate(
        last_progress=Subquery(progress.values("payload")[:1], output_field=JSONField()),
        last_progress_at=Subquery(progress.values("created_at")[:1], output_field=DateTimeField()),
    )
    running = {run.worker_id: run for run in held}
    known = estimates.calibrations(workers, [run.model_id for run in running.values()]) if running else {}
    visible = Run.objects.visible_to(viewer).filter(pk__in=[run.pk for run in running.values()])
    shown = set(visible.values_list("pk", flat=True)) if running else set()
    slots = []
    for worker in workers:
        run = running.get(worker.pk)
        free_in = _remaining_seconds(run, worker, known) if run else 0.0
        slots.append(_Slot(worker, free_in, run, run is not None and run.pk in shown))
    return slots


def _remaining_seconds(run: Any, worker: Worker, known: Mapping[estimates.Key, Calibration]) -> float | None:
    """What the attempt itself last said; else from what a first attempt has done so far; else from its estimate.

    Cells that an earlier attempt computed took none of this attempt's time, so they tell nothing about its rate.
    """
    now = timezone.now()
    said = (run.last_progress or {}).get("eta_seconds")
    if said is not None:
        return max(0.0, float(said - (now - run.last_progress_at).total_seconds()))
    if run.attempt == 1 and run.cells_total and run.cells_done and run.started_at:
        elapsed = (now - run.started_at).total_seconds()
        return max(0.0, float(elapsed * (run.cells_total - run.cells_done) / run.cells_done))
    left = 1 - run.cells_done / run.cells_total if run.cells_total else 1.0
    whole = estimates.of_run(run, worker, known)
    return None if whole is None else max(0.0, left) * whole


def _running_counts() -> dict[int, int]:
    counts: dict[int, int] = {}
    for owner in Run.objects.filter(status=Status.RUNNING).values_list("owner_id", flat=True):
        counts[owner] = counts.get(owner, 0) + 1
    return counts


def _served(owners: set[int]) -> dict[int, datetime]:
    rows = Run.objects.filter(owner__in=owners, started_at__isnull=False).order_by()
    return dict(rows.values("owner").annotate(at=Max("started_at")).values_list("owner", "at"))


def _in_turn(queued: Sequence[Run], running: dict[int, int], served: dict[int, datetime]) -> list[Run]:
    """`queued` (oldest first) as turns among owners: each pick makes its owner the last one served."""
    waiting: dict[int, list[Run]] = {}
    for run in queued:
        waiting.setdefault(run.owner_id, []).append(run)
    turn = {owner: served[owner].timestamp() if owner in served else 0.0 for owner in waiting}
    now = timezone.now().timestamp()
    order: list[Run] = []
    while waiting:
        owner = min(waiting, key=lambda one: (running.get(one, 0), turn[one], waiting[one][0].queued_at))
        order.append(waiting[owner].pop(0))
        turn[owner] = now + len(order)
        if not waiting[owner]:
            del waiting[owner]
    return order


def _start_in(
    run: Run, slots: Sequence[_Slot], free: dict[uuid.UUID, float | None], known: Mapping[estimates.Key, Calibration]
) -> float | None:
    able = [slot.worker for slot in slots if run.model.slug in slot.worker.models_available]
    when = [(seconds, worker) for worker in able if (seconds := free[worker.pk]) is not None]
    if not when:
        return None
    start, worker = min(when, key=lambda one: one[0])
    takes = estimates.of_run(run, worker, known)
    free[worker.pk] = None if takes is None else start + takes
    return start


def _barred(run: Run, *, mine: bool) -> str:
    """Why no worker may claim the run, whatever is free; empty where one may."""
    if not run.model.allowed:
        return f"The model {run.model.title} is not allowed at the moment: an administrator took it out."
    if not run.owner.is_active:
        return "Your account is switched off." if mine else "Its owner's account is switched off."
    return ""


def _reason(model: ModelSource, running: int, slots: Sequence[_Slot], *, mine: bool) -> str:
    if not slots:
        return f"No worker is online: start one with `{start_command()}`."
    able = [slot for slot in slots if model.slug in slot.worker.models_available]
    if not able:
        return f"No online worker has the model {model.title}."
    if running >= settings.QUOTA_RUNNING_RUNS:
        who = "You already have" if mine else "Its owner already has"
        return f"{who} {running} running; at most {settings.QUOTA_RUNNING_RUNS} run at a time."
    if all(slot.busy_with for slot in able):
        first = min(able, key=lambda slot: slot.free_in if slot.free_in is not None else float("inf"))
        return _busy(first)
    return "A worker is about to take it."


def _busy(slot: _Slot) -> str:
    what = f"“{slot.busy_with.title}”" if slot.busy_with and slot.shown else "another run"
    if slot.free_in is None:
        return f"Worker {slot.worker.name} is busy with {what}."
    until = timezone.now() + timedelta(seconds=slot.free_in)
    return f"Worker {slot.worker.name} is busy with {what} until about {until:%H:%M} UTC."


def start_command() -> str:
    """The command that starts a worker in this mode."""
    if settings.BROKER_URL:
        return "celery -A interp_app.celery worker -P prefork -c 1 -Q gpu"
    return "python manage.py serve"
