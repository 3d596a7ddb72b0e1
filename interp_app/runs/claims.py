"""Who works on which run: claims, leases, and what happens when a worker is lost.

1. `claim_next` picks a queued run (a warm model first unless something waits too long, then the owner with the fewest
   running runs, then the one served least recently, then the oldest run), locks it with SKIP LOCKED, and makes it
   running with `attempt + 1`, this worker and a lease.
2. `heartbeat` extends the lease while the attempt holds the run, and tells when a cancel was asked for.
3. Every other write goes through `events.append(attempt=…)`, which refuses an attempt that no longer holds the run.
4. `reap` requeues runs whose lease expired; after `RUN_MAX_LOSSES` losses in a row the run fails as `worker_lost`.

Lock order, always: run, then owner. Leases are written and compared with the database's clock.
"""

import enum
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, DateTimeField, Exists, ExpressionWrapper, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from interp_app.core.models import User
from interp_app.runs import events, wake
from interp_app.runs.models import Run, Status, Worker
from interp_app.runs.selectors import online_workers

log = structlog.get_logger(__name__)

WARM_BOUND_SECONDS: Final = 60.0
"""Once any claimable run has waited this long, warm models get no preference."""
REAPER_LOCK: Final = 0x50415443
"""Key of the Postgres advisory lock under which one process reaps."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run held by one attempt of one worker."""

    run_id: uuid.UUID
    attempt: int
    worker_id: uuid.UUID


class ClaimState(enum.Enum):
    """What a heartbeat learns: still ours, ours but to be cancelled, or no longer ours."""

    HELD = "held"
    CANCEL = "cancel"
    LOST = "lost"


def claim_next(worker: Worker, warm: Collection[uuid.UUID] = ()) -> Claim | None:
    """Claim the best queued run this worker can compute, or None. `warm` are the ids of the models it has loaded."""
    claimable = _claimable(worker)
    if not claimable.exists():  # outside a transaction: an idle SQLite worker must not take the write lock
        return None
    late = timezone.now() - timedelta(seconds=WARM_BOUND_SECONDS)
    prefer_warm = bool(warm) and not claimable.filter(queued_at__lt=late).exists()
    passes = [claimable.filter(model__in=list(warm)), claimable] if prefer_warm else [claimable]
    for candidates in passes:
        for owner_id in _owners_in_turn(candidates):
            claim = _claim_of_owner(candidates, owner_id, worker)
            if claim is not None:
                return claim
    return None


def claim_run(worker: Worker, run_id: uuid.UUID) -> Claim | None:
    """Claim this queued run, whoever's turn it is; None where it is not queued, or this worker may not take it."""
    owner_id = Run.objects.filter(pk=run_id).values_list("owner_id", flat=True).first()
    if owner_id is None:
        return None
    return _claim_of_owner(_claimable(worker).filter(pk=run_id), owner_id, worker)


def heartbeat(claim: Claim) -> ClaimState:
    """Extend the lease; LOST where the attempt no longer holds the run."""
    held = Run.objects.filter(pk=claim.run_id, attempt=claim.attempt, status=Status.RUNNING)
    if not held.update(lease_until=_lease_end()):
        return ClaimState.LOST
    asked = held.values_list("cancel_requested_at", flat=True).first()
    return ClaimState.CANCEL if asked else ClaimState.HELD


def finish(
    claim: Claim,
    status: Status,
    *,
    fields: Mapping[str, Any] | None = None,
    failure: Mapping[str, Any] | None = None,
) -> int:
    """End the run as `status`, with `failure` {code, text, detail} where it failed. Raises `events.ClaimLost`."""
    columns: dict[str, Any] = {
        "status": status,
        "stage": "",
        "lease_until": None,
        "cancel_requested_at": None,
        "finished_at": timezone.now(),
        "losses": 0,
        **(fields or {}),
    }
    if failure:
        columns |= {f"failure_{name}": failure[name] for name in ("code", "text", "detail")}
    event = events.status_event(status, attempt=claim.attempt, failure=failure)
    last = events.append(claim.run_id, [event], attempt=claim.attempt, fields=columns)
    wake.wake_workers()  # the owner has room for one more
    return last


def release(claim: Claim, reason: str) -> None:
    """Give the run back unfinished without counting a loss (a worker that is told to stop). Raises `ClaimLost`."""
    events.append(
        claim.run_id,
        [events.status_event(Status.QUEUED, attempt=claim.attempt, reason=reason)],
        attempt=claim.attempt,
        fields=_requeued(),
    )
    wake.wake_workers()


def reap() -> int:
    """Requeue or fail every running run whose lease expired; how many there were. Safe to call from anywhere."""
    expired = Run.objects.filter(status=Status.RUNNING, lease_until__lt=Now())
    if not expired.exists():  # outside a transaction: an idle process must not take SQLite's write lock
        return 0
    with transaction.atomic():
        if not _hold_reaper_lock():
            return 0
        return _lose(expired.select_related("worker"), "the worker stopped answering", worker_gone=True)


def take_back(worker: Worker) -> int:
    """A worker that starts has no run: whatever its row still holds was lost with its earlier process."""
    with transaction.atomic():
        held = Run.objects.filter(status=Status.RUNNING, worker=worker)
        return _lose(held.select_related("worker"), "the worker process ended")


def lose(claim: Claim, reason: str) -> int:
    """Count this attempt as lost and requeue the run, as the reaper would (a device that has to be reset)."""
    with transaction.atomic():
        held = Run.objects.filter(pk=claim.run_id, status=Status.RUNNING, attempt=claim.attempt)
        return _lose(held.select_related("worker"), reason)


def _claimable(worker: Worker) -> QuerySet[Run]:
    return Run.objects.filter(
        status=Status.QUEUED, model__slug__in=worker.models_available, model__allowed=True, owner__is_active=True
    )


def _running_of_owner(outer: str) -> Any:
    counted = (
        Run.objects.filter(owner=OuterRef(outer), status=Status.RUNNING)
        .order_by()
        .values("owner")
        .annotate(number=Count("pk"))
    )
    return Coalesce(Subquery(counted.values("number")), 0)


def _owners_in_turn(candidates: QuerySet[Run]) -> list[int]:
    """Owners below their running quota, in the order in which they are served."""
    served = Run.objects.filter(owner=OuterRef("pk"), started_at__isnull=False).order_by("-started_at")
    owners = (
        User.objects.filter(Exists(candidates.filter(owner=OuterRef("pk"))))
        .annotate(running=_running_of_owner("pk"), served_at=Subquery(served.values("started_at")[:1]))
        .filter(running__lt=settings.QUOTA_RUNNING_RUNS)
        .order_by("running", F("served_at").asc(nulls_first=True), "pk")
    )
    return list(owners.values_list("pk", flat=True))


def _claim_of_owner(candidates: QuerySet[Run], owner_id: int, worker: Worker) -> Claim | None:
    """A transaction of its own for each owner, so that no claimer waits for one owner while it holds another."""
    with transaction.atomic():
        run = (
            candidates.filter(owner_id=owner_id)
            .select_for_update(skip_locked=True, of=("self",), no_key=True)
            .order_by("queued_at", "id")
            .first()
        )
        if run is None or not _owner_has_room(owner_id):
            return None
        return _take(run, worker)


def _owner_has_room(owner_id: int) -> bool:
    """Count again under the owner's lock: two workers may not both take an owner's last place."""
    User.objects.select_for_update(no_key=True).only("pk").get(pk=owner_id)
    running: int = Run.objects.filter(owner_id=owner_id, status=Status.RUNNING).count()
    return running < int(settings.QUOTA_RUNNING_RUNS)


def _take(run: Run, worker: Worker) -> Claim:
    attempt = run.attempt + 1
    Run.objects.filter(pk=run.pk).update(
        status=Status.RUNNING,
        attempt=attempt,
        worker=worker,
        lease_until=_lease_end(),
        started_at=timezone.now(),
        stage="loading",
    )
    events.append(run.pk, [events.status_event(Status.RUNNING, attempt=attempt, stage="loading")], attempt=attempt)
    log.info("run_claimed", run_id=str(run.pk), attempt=attempt, worker=worker.name)
    return Claim(run.pk, attempt, worker.pk)


def _lose(runs: QuerySet[Run], reason: str, *, worker_gone: bool = False) -> int:
    count = 0
    for run in runs.select_for_update(skip_locked=True, of=("self",), no_key=True):
        event, fields = _after_loss(run, reason, worker_gone=worker_gone)
        events.append(run.pk, [event], attempt=run.attempt, fields=fields)
        log.warning("run_lost", run_id=str(run.pk), attempt=run.attempt, losses=run.losses + 1, reason=reason)
        count += 1
    if count:
        wake.wake_workers()
    return count


def _after_loss(run: Run, reason: str, *, worker_gone: bool) -> tuple[events.NewEvent, dict[str, Any]]:
    # No names: whoever sees a public run reads these texts. The lab has them in the log and in the provenance.
    losses = run.losses + 1
    if run.cancel_requested_at:
        event = events.status_event(Status.CANCELLED, attempt=run.attempt, reason=reason)
        return event, {**_ended(Status.CANCELLED), "losses": 0}
    if losses < settings.RUN_MAX_LOSSES:
        text = f"Attempt {run.attempt} was lost: {reason}. The run is queued again."
        if worker_gone and not {row.pk for row in online_workers()} - {run.worker_id}:
            text += " No other worker is online."
        event = events.status_event(Status.QUEUED, attempt=run.attempt, reason=text)
        return event, {**_requeued(), "losses": losses}
    failure = {
        "code": "worker_lost",
        "text": f"The run lost its worker {losses} times in a row; last: {reason}. "
        "What was computed is kept. Try fewer rows a batch, then resume the run.",
        "detail": {"losses": losses},
    }
    event = events.status_event(Status.FAILED, attempt=run.attempt, failure=failure)
    columns = {f"failure_{name}": value for name, value in failure.items()}
    return event, {**_ended(Status.FAILED), **columns, "losses": losses}


def _requeued() -> dict[str, Any]:
    return {"status": Status.QUEUED, "stage": "", "worker": None, "lease_until": None}


def _ended(status: Status) -> dict[str, Any]:
    return {
        "status": status,
        "stage": "",
        "lease_until": None,
        "cancel_requested_at": None,
        "finished_at": timezone.now(),
    }


def _lease_end() -> Any:
    length = timedelta(seconds=settings.RUN_LEASE_SECONDS)
    return ExpressionWrapper(Now() + length, output_field=DateTimeField())


def _hold_reaper_lock() -> bool:
    if connection.vendor != "postgresql":
        return True  # SQLite: the IMMEDIATE transaction is the lock
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [REAPER_LOCK])
        return bool(cursor.fetchone()[0])
