"""Tells the web processes that a run's log has grown. A hint, never the data: a lost bell costs two seconds at most.

`ring` is called after a commit, from any thread, and returns at once: one long-lived thread with an event loop of its
own sends the bells (building a loop and a connection for each bell would cost milliseconds in the worker's hot path).
A run rings at most `BELLS_PER_SECOND` times a second; the last bell of a burst is always sent. Errors of Redis are
counted and otherwise ignored. Where the channel layer lives inside one process (embedded mode), ringing does nothing:
the feed polls.
"""

import asyncio
import contextlib
import os
import threading
import time
import uuid
from typing import Any, Final

import structlog
from channels.layers import get_channel_layer
from django.conf import settings
from prometheus_client import Counter

logger = structlog.get_logger(__name__)

BELLS_PER_SECOND: Final = 4
SEND_TIMEOUT_SECONDS: Final = 2.0
REMEMBERED_RUNS: Final = 1000

BELLS = Counter("patchbay_doorbell_bells_total", "Bells of run logs by what became of them.", ("outcome",))


def group_name(run_id: uuid.UUID | str) -> str:
    """The channel layer's group of one run's bells."""
    return f"run.{uuid.UUID(str(run_id)).hex}"


def crosses_processes() -> bool:
    """Whether the configured channel layer reaches other processes at all."""
    return not settings.CHANNEL_LAYERS["default"]["BACKEND"].endswith("InMemoryChannelLayer")


class Doorbell:
    """The sending thread of one process, started by the first bell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[str, int] = {}
        self._sending = False
        self._earned: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._failing = False

    def ring(self, run_id: uuid.UUID | str, seq: int) -> None:
        """Note that the log of `run_id` reaches to `seq`."""
        with self._lock:
            self._pending[str(run_id)] = max(seq, self._pending.get(str(run_id), 0))
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._wake = asyncio.Event()
                threading.Thread(target=self._serve, name="doorbell", daemon=True).start()
            wake = self._wake
        if wake is not None:
            self._loop.call_soon_threadsafe(wake.set)

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until nothing is left to send; False where that did not happen in time. For a process about to end."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            with self._lock:
                if not self._pending and not self._sending:
                    return True
            time.sleep(0.01)
        return False

    def _serve(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._send_for_ever())

    async def _send_for_ever(self) -> None:
        assert self._wake is not None
        layer = get_channel_layer()
        while True:
            due, wait = self._due()
            for run_id, seq in due.items():
                await self._send(layer, run_id, seq)
            if due:
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
            self._wake.clear()

    def _due(self) -> tuple[dict[str, int], float | None]:
        """The bells that may be sent now, and how long until the next may (None: until somebody rings).

        `_earned[run]` is the time by which the bells sent so far are within the rate; one bell may run ahead of it.
        Without that, a run that writes as often as bells may ring would carry one late bell's delay on for ever.
        """
        now = time.monotonic()
        gap = 1 / BELLS_PER_SECOND
        with self._lock:
            due = {run: seq for run, seq in self._pending.items() if self._earned.get(run, 0.0) - gap <= now}
            for run in due:
                del self._pending[run]
                self._earned[run] = max(now, self._earned.get(run, 0.0)) + gap
            self._sending = bool(due)
            if len(self._earned) > REMEMBERED_RUNS:
                self._earned = {run: at for run, at in self._earned.items() if at > now}
            waits = [self._earned[run] - gap - now for run in self._pending]
        return due, max(0.0, min(waits)) if waits else None

    async def _send(self, layer: Any, run_id: str, seq: int) -> None:
        message = {"type": "bell", "run": run_id, "seq": seq}
        try:
            await asyncio.wait_for(layer.group_send(group_name(run_id), message), SEND_TIMEOUT_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever the layer's transport raises, the log itself is safe
            BELLS.labels("failed").inc()
            if not self._failing:
                logger.warning("doorbell_unreachable", error=str(error))
            self._failing = True
        else:
            BELLS.labels("sent").inc()
            if self._failing:
                logger.info("doorbell_reachable_again")
            self._failing = False


_current: tuple[int, Doorbell] | None = None
_current_lock = threading.Lock()


def _doorbell() -> Doorbell:
    """The process's doorbell; a forked child does not inherit its parent's thread, so it gets one of its own."""
    global _current
    with _current_lock:
        if _current is None or _current[0] != os.getpid():
            _current = (os.getpid(), Doorbell())
        return _current[1]


def ring(run_id: uuid.UUID | str, seq: int) -> None:
    """Ring for `run_id`, whose log now reaches to `seq`. Call it after the commit. Never raises, never waits."""
    if crosses_processes():
        _doorbell().ring(run_id, seq)


def flush(timeout_seconds: float = 1.0) -> bool:
    """Give pending bells a moment to leave before the process ends."""
    return not crosses_processes() or _doorbell().flush(timeout_seconds)
