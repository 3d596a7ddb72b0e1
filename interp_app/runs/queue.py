"""The queue as people see it: the position of each queued run, why it waits, and when it should start.

The order is the one `claims` follows (fewest running runs of the owner, least recently served, oldest), played forward:
each run goes to the worker that is free first and has its model. Warm models are left out, since that preference
only ever swaps neighbours for a minute.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Max
from django.utils import timezone

from interp_app.catalog.models import ModelSource
from interp_app.runs.models import Run, Status, Worker
from interp_app.runs.selectors import online_workers
from interp_app.runs.shapes import for_slim

MAX_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A queued run: `position` counts from 1 over everybody's runs; `eta_seconds` until it starts, None if unknown."""

    run: Run
    position: int
    reason: str
    eta_seconds: float | None


@dataclass(slots=True)
class _Slot:
    """An online worker during the simulation: when it is free (seconds from now, None unknown) and what it runs."""

    worker: Worker
    free_in: float | None
    busy_with: Run | None


def queue_view(viewer: Any) -> list[QueueEntry]:
    """The queued runs `viewer` may see, in the order in which they will be claimed. A constant number of queries."""
    visible = set(Run.objects.visible_to(viewer).filter(status=Status.QUEUED).values_list("pk", flat=True))
    return [entry for entry in _entries(viewer) if entry.run.pk in visible]


def queue_entry(run: Run, viewer: Any) -> QueueEntry | None:
    """Where `run` stands in the queue; None where it is not queued."""
    if run.status != Status.QUEUED:
        return None
    return next((entry for entry in _entries(viewer) if entry.run.pk == run.pk), None)


def would_queue(model: ModelSource, viewer: Any) -> tuple[int, str]:
    """Position and reason that a run on `model` would get if `viewer` submitted it now."""
    slots = _slots()
    waiting = Run.objects.filter(status=Status.QUEUED).count()
    running = Run.objects.filter(owner=viewer, status=Status.RUNNING).count() if viewer.pk else 0
    return waiting + 1, _reason(model, viewer.pk, running, slots, viewer)


def _entries(viewer: Any) -> list[QueueEntry]:
    queued = list(for_slim(Run.objects.filter(status=Status.QUEUED)).order_by("queued_at", "id")[:MAX_SHOWN])
    if not queued:
        return []
    slots = _slots()
    running = _running_counts()
    order = _in_turn(queued, dict(running), _served({run.owner_id for run in queued}))
    free: dict[uuid.UUID, float | None] = {slot.worker.pk: slot.free_in for slot in slots}
    entries = []
    for position, run in enumerate(order, start=1):
        reason = _reason(run.model, run.owner_id, running.get(run.owner_id, 0), slots, viewer)
        entries.append(QueueEntry(run, position, reason, _start_in(run, slots, free)))
    return entries


def _slots() -> list[_Slot]:
    workers = online_workers()
    running = {run.worker_id: run for run in for_slim(Run.objects.filter(status=Status.RUNNING, worker__in=workers))}
    slots = []
    for worker in workers:
        run = running.get(worker.pk)
        slots.append(_Slot(worker, _remaining_seconds(run, worker) if run else 0.0, run))
    return slots


def _remaining_seconds(run: Run, worker: Worker) -> float | None:
    """From what it has done so far, or from its FLOPs and the worker's measured rate while nothing is done."""
    if run.cells_total and run.cells_done and run.started_at:
        elapsed = (timezone.now() - run.started_at).total_seconds()
        return max(0.0, elapsed * (run.cells_total - run.cells_done) / run.cells_done)
    return run.flops / worker.flops_per_second if worker.flops_per_second else None


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


def _start_in(run: Run, slots: Sequence[_Slot], free: dict[uuid.UUID, float | None]) -> float | None:
    able = [slot.worker for slot in slots if run.model.slug in slot.worker.models_available]
    known = [(seconds, worker) for worker in able if (seconds := free[worker.pk]) is not None]
    if not known:
        return None
    start, worker = min(known, key=lambda one: one[0])
    free[worker.pk] = start + run.flops / worker.flops_per_second if worker.flops_per_second else None
    return start


def _reason(model: ModelSource, owner_id: int | None, running: int, slots: Sequence[_Slot], viewer: Any) -> str:
    if not slots:
        return f"No worker is online: start one with `{start_command()}`."
    able = [slot for slot in slots if model.slug in slot.worker.models_available]
    if not able:
        return f"No online worker has the model {model.title}."
    if running >= settings.QUOTA_RUNNING_RUNS:
        who = "You already have" if owner_id == getattr(viewer, "pk", None) else "Its owner already has"
        return f"{who} {running} running; at most {settings.QUOTA_RUNNING_RUNS} run at a time."
    if all(slot.busy_with for slot in able):
        first = min(able, key=lambda slot: slot.free_in if slot.free_in is not None else float("inf"))
        return _busy(first, viewer)
    return "A worker is about to take it."


def _busy(slot: _Slot, viewer: Any) -> str:
    run = slot.busy_with
    assert run is not None
    seen = Run.objects.visible_to(viewer).filter(pk=run.pk).exists()
    what = f"“{run.title}”" if seen else "another run"
    if slot.free_in is None:
        return f"Worker {slot.worker.name} is busy with {what}."
    until = timezone.now() + timedelta(seconds=slot.free_in)
    return f"Worker {slot.worker.name} is busy with {what} until about {until:%H:%M} UTC."


def start_command() -> str:
    """The command that starts a worker in this mode."""
    if settings.BROKER_URL:
        return "celery -A interp_app.celery worker -P prefork -c 1 -Q gpu"
    return "python manage.py serve"
