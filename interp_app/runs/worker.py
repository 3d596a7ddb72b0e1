"""The worker process: its row in the table, its heartbeat, its warm models, and the loop that claims and executes.

Both modes use this one class. Embedded: `manage.py worker` polls the queue. Services: each Celery pool process holds
one and is called by the task `work`. The heartbeat thread, busy or idle,
1. extends the lease of the run in hand and passes on a cancel or the loss of the claim,
2. keeps the worker's row fresh, reaps what other workers lost, and nudges when something claimable waits,
3. ends the process where the computing thread does not stop in time, or its parent is gone.
Should the heartbeat itself fail, the process ends too: computing on without a lease would only lose the run.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from interp_app.catalog import files
from interp_app.catalog.models import ModelSource
from interp_app.runs import claims, doorbell, executor, wake
from interp_app.runs.claims import Claim, ClaimState
from interp_app.runs.control import Control, Stop
from interp_app.runs.events import ClaimLost
from interp_app.runs.models import Run, Status, Worker
from interp_app.runs.warm_models import WarmModels, pick_device

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 0.5
POLL_SECONDS: Final = 0.25
STOP_SECONDS: Final = 7.0
"""How long a shutdown waits for the tile in hand before the process ends without it."""
CANCEL_SECONDS: Final = 30.0
"""How long a cancel, or the loss of the claim, waits before the process is ended for it."""
EXIT_STUCK: Final = 71
EXIT_NO_HEARTBEAT: Final = 72


class WorkerProcess:
    """One process that computes runs, one after another, on one device."""

    def __init__(self, name: str, *, end_with_parent: bool = True, leave: Callable[[int], None] = os._exit) -> None:
        """`end_with_parent`: stop once the parent process is gone. `leave` ends the process at once."""
        self.name = name
        self._leave = leave
        self._stopping = threading.Event()
        self._parent = os.getppid() if end_with_parent else None
        self._held: tuple[Claim, Control] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._ended = threading.Event()
        device = pick_device(settings.DEVICE)
        self.warm = WarmModels(device)
        self.row = self._register(device)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self) -> None:
        """Take back what an earlier process of this name held, and start the heartbeat."""
        claims.take_back(self.row)
        self._thread.start()
        log.info("worker_started", worker=self.name, device=self.row.device, mode=settings.MODE)

    def stop(self) -> None:
        """Ask for a stop: the run in hand is given back after its tile. Safe in a signal handler."""
        self._stopping.set()
        held = self._held
        if held is not None:
            held[1].stop(Stop.SHUTDOWN)

    def close(self) -> None:
        """End the heartbeat and sign off."""
        self._stopping.set()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        Worker.objects.filter(pk=self.row.pk).update(stopped_at=timezone.now(), models_warm=[])
        doorbell.flush()
        log.info("worker_stopped", worker=self.name)

    def work_until_empty(self) -> int:
        """Claim and execute until nothing is left that this worker may take; how many runs that were."""
        count = 0
        while self.work_once():
            count += 1
        return count

    def work_once(self) -> bool:
        """Claim one run and execute it; False where there is none."""
        if self.stopping:
            return False
        return self._carry_out(claims.claim_next(self.row, self.warm.source_ids))

    def work_on(self, run_id: uuid.UUID) -> bool:
        """Claim this very run and execute it; False where it is not to be had: taken by another worker, say."""
        return not self.stopping and self._carry_out(claims.claim_run(self.row, run_id))

    def _carry_out(self, claim: Claim | None) -> bool:
        if claim is None:
            return False
        control = Control()
        with self._lock:
            self._held = (claim, control)
        if self._stopping.is_set():  # asked for between the claim and here
            control.stop(Stop.SHUTDOWN)
        try:
            executor.execute(claim, self.row, self.warm, control)
        finally:
            with self._lock:
                self._held = None
        self.row.models_warm = self.warm.slugs
        return True

    def run_forever(self) -> None:
        """Poll the queue until `stop`; the database may be away for a while."""
        while not self.stopping:
            try:
                worked = self.work_once()
            except (DatabaseError, InterfaceError) as error:
                log.warning("database_away", error=type(error).__name__)
                connection.close()
                worked = False
                self._stopping.wait(1.0)
            if not worked:
                self._stopping.wait(POLL_SECONDS)

    def _register(self, device: str) -> Worker:
        description, memory = describe_device(device)
        now = timezone.now()
        row, _ = Worker.objects.update_or_create(
            name=self.name,
            defaults={
                "device": description,
                "device_memory_bytes": memory,
                "models_available": readable_models(),
                "models_warm": [],
                "started_at": now,
                "heartbeat_at": now,
                "stopped_at": None,
            },
        )
        return row

    def _beat(self) -> None:
        """The heartbeat thread."""
        try:
            self._tick_until_ended()
        except BaseException:
            log.exception("heartbeat_ended")
            doorbell.flush()
            self._leave(EXIT_NO_HEARTBEAT)
        finally:
            connection.close()

    def _tick_until_ended(self) -> None:
        last_lease = last_row = last_care = 0.0
        confirmed = time.monotonic()
        while not self._ended.wait(min(TICK_SECONDS, settings.RUN_HEARTBEAT_SECONDS / 2)):
            self._watch()
            now = time.monotonic()
            try:
                if now - last_row >= settings.RUN_HEARTBEAT_SECONDS:
                    self._write_row()
                    last_row = now
                if self._keep_claim(extend=now - last_lease >= settings.RUN_HEARTBEAT_SECONDS):
                    last_lease = now
                confirmed = now
                if now - last_care >= settings.RUN_REAP_SECONDS:
                    self._care()
                    last_care = now
            except (DatabaseError, InterfaceError) as error:
                log.warning("heartbeat_failed", error=type(error).__name__)
                connection.close()
                if time.monotonic() - confirmed > settings.RUN_LEASE_SECONDS:
                    self._stop_held(Stop.LOST)  # the lease ran out unseen: write nothing more

    def _keep_claim(self, *, extend: bool) -> bool:
        """Extend the lease, or only look for a cancel between two extensions; whether it was extended."""
        held = self._held
        if held is None:
            return False
        claim, control = held
        if not extend:
            if Run.objects.filter(pk=claim.run_id, attempt=claim.attempt, cancel_requested_at__isnull=False).exists():
                control.stop(Stop.CANCEL)
            return False
        state = claims.heartbeat(claim)
        if self._held is not held:
            return True  # it ended in between, and its end looks like a loss from here
        if state is not ClaimState.HELD:
            control.stop(Stop.CANCEL if state is ClaimState.CANCEL else Stop.LOST)
        return True

    def _write_row(self) -> None:
        self.row.models_available = readable_models()
        Worker.objects.filter(pk=self.row.pk).update(
            heartbeat_at=timezone.now(),
            stopped_at=None,
            models_available=self.row.models_available,
            models_warm=self.warm.slugs,
        )

    def _care(self) -> None:
        """Look after the queue: what others lost, and nudges that a broker lost."""
        claims.reap()
        if settings.BROKER_URL and self._held is None and not self.stopping:
            waited = timezone.now() - timedelta(seconds=1)
            if Run.objects.filter(status=Status.QUEUED, queued_at__lt=waited).exists():
                wake.publish()

    def _watch(self) -> None:
        """End what does not end by itself."""
        if self._parent not in (None, os.getppid()) and not self.stopping:
            log.warning("parent_gone")
            self.stop()
        held = self._held
        if held is None:
            return
        claim, control = held
        waited = control.seconds_since_asked()
        if control.reason is Stop.SHUTDOWN and waited > STOP_SECONDS:
            self._end_with(
                control, 0, lambda: claims.release(claim, "The worker is stopping; the run is queued again.")
            )
        elif control.reason is Stop.CANCEL and waited > CANCEL_SECONDS:
            log.error("cancel_ignored", run_id=str(claim.run_id))
            self._end_with(control, EXIT_STUCK, lambda: claims.lose(claim, "it did not stop when it was cancelled"))
        elif control.reason is Stop.LOST and waited > (STOP_SECONDS if self.stopping else CANCEL_SECONDS):
            log.error("loss_ignored", run_id=str(claim.run_id))
            self._leave(EXIT_STUCK)

    def _end_with(self, control: Control, status: int, give_up: Callable[[], object]) -> None:
        """Give the run up and leave; a database that is away keeps nobody, since the reaper finds the run."""
        try:
            give_up()
        except ClaimLost:
            control.stop(Stop.LOST)  # it ended in between, or another has it: the thread gets its time to notice
            return
        except (DatabaseError, InterfaceError) as error:
            log.warning("database_away", error=type(error).__name__)
        self._leave(status)

    def _stop_held(self, reason: Stop) -> None:
        held = self._held
        if held is not None:
            held[1].stop(reason)


def readable_models() -> list[str]:
    """Slugs of the allowed models whose folder this machine has."""
    rows = ModelSource.objects.filter(allowed=True).values_list("slug", "location")
    return sorted(slug for slug, location in rows if files.is_readable(location))


def describe_device(device: str) -> tuple[str, int]:
    """A name for people and the memory in bytes."""
    import torch

    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        return properties.name, int(properties.total_memory)
    return f"cpu ({torch.get_num_threads()} threads)", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
