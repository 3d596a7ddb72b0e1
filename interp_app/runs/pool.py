"""Joins Celery's processes with `WorkerProcess`: one in each pool process, and a clean end when the parent stops.

The parent never imports torch (CUDA does not survive a fork, and the parent has no use for it); the pool spawns fresh
interpreters. A pool process ignores SIGTERM's warm shutdown, which would wait for the whole run: the parent sends it
SIGUSR2 instead, and the run is given back after the tile in hand.
"""

import contextlib
import os
import signal
from typing import Any

import structlog
from billiard.process import active_children
from celery import signals
from django.core.exceptions import ImproperlyConfigured

from interp_app.runs.worker import WorkerProcess

log = structlog.get_logger(__name__)

_worker: WorkerProcess | None = None


def worker() -> WorkerProcess:
    """The worker of this pool process."""
    assert _worker is not None, "tasks run in pool processes only"
    return _worker


@signals.celeryd_after_setup.connect
def check_worker(instance: Any, conf: Any, **_: Any) -> None:
    """Refuse options under which runs would be computed two at a time or messages hoarded. Runs in the parent."""
    problems = []
    if instance.concurrency != 1:
        problems.append(f"concurrency is {instance.concurrency}: start one worker a GPU, each with -c 1")
    if conf.worker_prefetch_multiplier != 1:
        problems.append("worker_prefetch_multiplier must stay 1")
    if instance.autoscale:
        problems.append("autoscale must stay off")
    if instance.pool_cls.__module__.rsplit(".", 1)[-1] != "prefork":
        problems.append("the pool must be prefork: -P prefork (others cannot be ended from outside)")
    if problems:
        raise ImproperlyConfigured(f"This worker cannot start: {'; '.join(problems)}.")


@signals.worker_process_init.connect
def start_worker(sender: str, **_: Any) -> None:
    """Runs in each pool process before it takes work; `sender` is the Celery worker's name."""
    global _worker
    _worker = WorkerProcess(sender)
    signal.signal(signal.SIGUSR2, lambda *_: worker().stop())
    _worker.start()


@signals.worker_process_shutdown.connect
def end_worker(**_: Any) -> None:
    """Runs in a pool process that ends in order."""
    if _worker is not None:
        _worker.close()


@signals.worker_shutting_down.connect
def pass_on(**_: Any) -> None:
    """Runs in the parent when it is told to stop."""
    for child in active_children():
        if child.pid is None:
            continue
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself; the others are still told
            os.kill(child.pid, signal.SIGUSR2)
            log.info("worker_stopping", pid=child.pid)
