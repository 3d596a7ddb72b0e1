"""Writes what a run yields to its event log, from a thread of its own, so that computing never waits for the database.

1. `put` queues events in order. 2. At most every `FLUSH_SECONDS` the thread writes all that is queued in one
transaction, fenced by the attempt, with the run's counters; the first event after a pause is written at once.
3. At most every `PROGRESS_SECONDS` such a batch ends with a `progress` event that carries the rate and the time left.
A database that is away is retried until the lease is gone.

Progress is counted in cells, by the tiles that arrive; a method whose own `Progress` has another total than its cells
counts in steps of its present stage instead (one that computes no map, or that refines one).
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import structlog
from django.db import InterfaceError, OperationalError, close_old_connections, connection

from interp_app.core.canonical import json_safe
from interp_app.runs import events
from interp_app.runs.claims import Claim
from interp_app.runs.control import Control, Stop
from interp_app.runs.events import ClaimLost, NewEvent
from interp_app.runs.models import RunEvent, progress_of

log = structlog.get_logger(__name__)
T = TypeVar("T")

FLUSH_SECONDS: Final = 0.1
PROGRESS_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 120.0
STAGE_LENGTH: Final = 40
PREPARING: Final = ("loading", "baselines")
"""Stages in which nothing is computed yet that a rate could be told from."""
MAX_BATCH: Final = 2000
"""Events in one transaction; a row for each is written in one statement."""


class Recorder:
    """The log writer of one attempt. Use as a context manager; `drain` waits until all that was put is stored."""

    def __init__(
        self,
        claim: Claim,
        control: Control,
        *,
        total: int,
        done: dict[tuple[int, int, int], int],
        expected_seconds: float | None = None,
    ) -> None:
        """`done` are the cells of stored tiles by (panel, r0, c0), so that a resumed run counts on.

        `expected_seconds` is what the whole run was estimated at: the time left until there is a rate to tell it from.
        """
        self._claim = claim
        self._control = control
        self._places = dict(done)
        self._done = self._started_with = sum(done.values())
        self._told = self._done
        self._total = total
        self._expected = expected_seconds
        self._steps = (0, 0)
        self._steps_since: tuple[int, float] | None = None
        self._stage = "loading"
        self._message = ""
        self._pending: list[NewEvent] = []
        self._dirty = False  # there is progress to tell
        self._condition = threading.Condition()
        self._closing = False
        self._writing = False
        self._draining = 0
        self._error: BaseException | None = None
        self._computing_since: float | None = None
        self._last_progress = self._last_write = -math.inf
        self._last_seq = 0
        self._thread = threading.Thread(target=self._serve, name="recorder", daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()

    @property
    def cells_done(self) -> int:
        return self._done

    @property
    def computing_since(self) -> float | None:
        """Monotonic time at which the first cells began to be computed."""
        return self._computing_since

    def put(self, *new: NewEvent) -> None:
        """Queue events. Raises what the thread failed with, `ClaimLost` above all."""
        with self._condition:
            self._raise()
            for event in new:
                self._count(event)
                self._pending.append(event)
            self._condition.notify_all()

    def stage(self, stage: str, message: str | None = None, done: int = 0, total: int = 0) -> None:
        """Tell where the attempt is; a new stage is a status event at once, else it waits for the next progress.

        No `message` keeps the present one as long as the stage stays. `done` of `total` are a method's own count; a
        total of 0, or of the run's cells, leaves the count to the tiles. What says nothing new causes no write.
        """
        with self._condition:
            self._raise()
            stage = stage[:STAGE_LENGTH]
            moved = stage != self._stage
            if message is None:
                message = "" if moved else self._message
            steps = self._counted(done, total, moved=moved)
            self._dirty = self._dirty or moved or (message, steps) != (self._message, self._steps)
            self._message, self._steps = message, steps
            now = time.monotonic()
            if moved:
                self._stage = stage
                self._pending.append(events.status_event("running", attempt=self._claim.attempt, stage=stage))
            if stage not in PREPARING and self._computing_since is None:
                self._computing_since = now
            if steps[1] and (moved or self._steps_since is None or steps[0] < self._steps_since[0]):
                self._steps_since = (steps[0], now)
            self._condition.notify_all()

    def opened(self, cells: int) -> None:
        """The panels announced so far have `cells` cells together: more than were planned make the total grow."""
        with self._condition:
            self._total = max(self._total, cells)

    def _counted(self, done: int, total: int, *, moved: bool) -> tuple[int, int]:
        """Steps (done, total) after a method's own count; those of the last stage say nothing about a new one."""
        if total and total != self._total:
            return min(done, total), total
        if total == self._total or moved:
            return 0, 0
        return self._steps

    def drain(self) -> None:
        """Return once everything put so far is committed. Raises what the thread failed with."""
        with self._condition:
            self._draining += 1
            self._dirty = self._dirty or self._told != self._done  # the last progress tells of every cell
            self._condition.notify_all()
            while (self._pending or self._dirty or self._writing) and self._error is None:
                self._condition.wait()
            self._draining -= 1
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _count(self, event: NewEvent) -> None:
        if event.tile is None:
            return
        _, rows, columns = event.tile.values.shape
        place = (event.tile.panel, event.tile.r0, event.tile.c0)
        self._done += rows * columns - self._places.get(place, 0)
        self._places[place] = rows * columns
        self._dirty = True

    def _serve(self) -> None:
        try:
            while self._write_next():
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the computing thread, which raises it
            self._control.stop(Stop.LOST if isinstance(error, ClaimLost) else Stop.BROKEN)
            with self._condition:
                self._error = error
                self._writing = False
                self._condition.notify_all()
        finally:
            connection.close()

    def _write_next(self) -> bool:
        with self._condition:
            while (seconds := self._due_in()) != 0:
                if seconds is None and self._closing:
                    return False
                self._condition.wait(seconds)
            self._last_write = time.monotonic()
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            final = bool(self._closing or self._draining) and not self._pending
            self._writing = True
            progress = self._progress_due(final) if self._dirty else []
            self._dirty = self._dirty and not progress
            fields = {
                "cells_done": min(self._done, self._total),
                "cells_total": self._total,
                "steps_done": self._steps[0],
                "steps_total": self._steps[1],
                "stage": self._stage,
            }
        self._write([*batch, *progress], fields)
        with self._condition:
            self._writing = False
            self._condition.notify_all()
        return True

    def _due_in(self) -> float | None:
        """Seconds until the next write is due; None while there is nothing to write."""
        if not (self._pending or self._dirty):
            return None
        if self._closing or self._draining:
            return 0.0
        due = self._last_write + FLUSH_SECONDS
        if not self._pending:
            due = max(due, self._last_progress + PROGRESS_SECONDS)
        return max(0.0, due - time.monotonic())

    def _progress_due(self, final: bool) -> list[NewEvent]:
        now = time.monotonic()
        if not final and now - self._last_progress < PROGRESS_SECONDS:
            return []
        self._last_progress = now
        self._told = self._done
        payload: dict[str, Any] = {
            **progress_of(min(self._done, self._total), self._total, *self._steps),
            "stage": self._stage,
            "message": self._message,
        }
        rate = self._rate(payload["unit"], now)
        left = payload["total"] - payload["done"]
        if rate:
            payload["rate"] = round(rate, 3)
            payload["eta_seconds"] = round(max(0, left) / rate, 1)
        elif self._expected is not None and self._computing_since and not self._started_with:
            payload["eta_seconds"] = round(max(0.0, self._expected - (now - self._computing_since)), 1)
        return [NewEvent("progress", payload)]

    def _rate(self, unit: str, now: float) -> float:
        """What this attempt computes a second: cells, or steps of the present stage; 0 while nothing can be said."""
        if unit == "steps":
            first, since = self._steps_since or (0, now)
            fresh = self._steps[0] - first
        else:
            since = self._computing_since or now
            fresh = self._done - self._started_with
        return fresh / (now - since) if fresh > 0 and now > since else 0.0

    def _write(self, batch: list[NewEvent], fields: dict[str, Any]) -> None:
        def write() -> int:
            return events.append(self._claim.run_id, batch, attempt=self._claim.attempt, fields=fields)

        self._last_seq = retrying(write, self._control, already=lambda: self._already_written(batch))

    def _already_written(self, batch: Sequence[NewEvent]) -> int | None:
        """After a connection died during a commit: the last seq, if the batch did get stored."""
        mine = RunEvent.objects.filter(
            run_id=self._claim.run_id, attempt=self._claim.attempt, seq__gt=self._last_seq
        ).order_by("seq")
        if not batch:
            return None  # nothing that could be there twice: writing the columns again changes nothing
        first = dict(batch[0].payload)
        if not any(row.kind == batch[0].kind and row.payload == first for row in mine):
            return None
        return mine.values_list("seq", flat=True).last()


def retrying(
    write: Callable[[], T], control: Control | None = None, *, already: Callable[[], T | None] | None = None
) -> T:
    """`write()`, again after a moment while the database is away and the claim is not known to be lost.

    `already` is asked before each retry whether the first try was stored after all. Raises the database's error when
    it stays away.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    pause = 0.2
    tried = False
    while True:
        try:
            if tried and already is not None and (stored := already()) is not None:
                return stored
            return write()
        except (OperationalError, InterfaceError) as error:
            lost = control is not None and control.reason is Stop.LOST
            if lost or time.monotonic() > deadline or connection.in_atomic_block:
                raise
            log.warning("database_away", error=type(error).__name__)
            connection.close()
            close_old_connections()
            time.sleep(pause)
            pause = min(pause * 2, 3.0)
            tried = True


def payload(event: Any) -> dict[str, Any]:
    """The JSON payload of one of the library's events, with nothing JSON cannot hold."""
    safe: dict[str, Any] = json_safe(event.payload())
    return safe
