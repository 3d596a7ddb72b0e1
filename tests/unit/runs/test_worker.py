"""The worker process: its row, its heartbeat, and what it does about a run that does not stop."""

import os
import signal
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from celery import Celery
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.test import override_settings
from django.utils import timezone

from interp_app.runs import claims, executor, pool, wake
from interp_app.runs import worker as worker_module
from interp_app.runs.control import Control, Stop
from interp_app.runs.models import Run, Status, Worker
from interp_app.runs.worker import WorkerProcess
from tests.deadlines import eventually
from tests.factories import RunFactory, WorkerFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def quick():
    with override_settings(RUN_HEARTBEAT_SECONDS=0.1, RUN_LEASE_SECONDS=3.0, RUN_REAP_SECONDS=0.2):
        yield


@pytest.fixture
def left() -> list[int]:
    """Statuses with which the worker would have ended its process."""
    return []


@pytest.fixture
def process(tiny_model, left):
    found = WorkerProcess("w1", leave=left.append)
    yield found
    found.close()


@pytest.fixture
def held(process, tiny_model, monkeypatch):
    """A run in the worker's hands that goes on until it is told to stop: (run, control, done)."""
    run = RunFactory(model=tiny_model)
    taken = SimpleNamespace(run=run, control=None, finished=threading.Event(), entered=threading.Event())

    def compute(claim, row, warm, control: Control) -> None:
        taken.control = control
        taken.entered.set()
        eventually(lambda: control.stopping, seconds=20)
        taken.finished.set()

    monkeypatch.setattr(executor, "execute", compute)
    process.start()
    thread = threading.Thread(target=process.work_once)
    thread.start()
    assert taken.entered.wait(20)
    yield taken
    taken.control.stop(Stop.LOST)
    thread.join(20)


def test_a_worker_registers_its_device_and_the_models_it_can_read(process, tiny_model):
    row = Worker.objects.get(name="w1")
    assert row.device.startswith("cpu")
    assert row.device_memory_bytes > 0
    assert row.models_available == [tiny_model.slug]


def test_an_idle_worker_keeps_its_heartbeat(process):
    process.start()
    first = Worker.objects.get(name="w1").heartbeat_at
    eventually(lambda: Worker.objects.get(name="w1").heartbeat_at > first, seconds=10)


def test_a_worker_that_ends_signs_off(process):
    process.start()
    process.close()
    assert Worker.objects.get(name="w1").stopped_at is not None


def test_a_worker_that_starts_takes_back_what_its_name_held(tiny_model, left):
    row = WorkerFactory(name="w2")
    run = RunFactory(model=tiny_model, status=Status.RUNNING, worker=row)
    again = WorkerProcess("w2", leave=left.append)
    again.start()
    again.close()
    run.refresh_from_db()
    assert (run.status, run.losses) == (Status.QUEUED, 1)


def test_the_lease_is_extended_while_a_run_is_computed(held):
    first = Run.objects.get(pk=held.run.pk).lease_until
    eventually(lambda: Run.objects.get(pk=held.run.pk).lease_until > first, seconds=10)


def test_a_cancel_reaches_the_computing_thread(held):
    Run.objects.filter(pk=held.run.pk).update(cancel_requested_at=timezone.now())
    assert held.finished.wait(2.5)
    assert held.control.reason is Stop.CANCEL


def test_a_lost_claim_reaches_the_computing_thread(held):
    Run.objects.filter(pk=held.run.pk).update(attempt=9)
    assert held.finished.wait(10)
    assert held.control.reason is Stop.LOST


def test_a_stop_reaches_the_computing_thread(held, process):
    process.stop()
    assert held.finished.wait(2)
    assert held.control.reason is Stop.SHUTDOWN


def test_a_run_that_does_not_stop_for_a_shutdown_is_given_back_and_the_process_ends(
    process, tiny_model, left, monkeypatch
):
    run = RunFactory(model=tiny_model)
    monkeypatch.setattr(worker_module, "STOP_SECONDS", 0.0)
    claim = claims.claim_next(process.row)
    assert claim is not None
    control = Control()
    process._held = (claim, control)
    control.stop(Stop.SHUTDOWN)
    process._watch()
    run.refresh_from_db()
    assert (run.status, run.losses, left) == (Status.QUEUED, 0, [0])


def test_a_run_that_ignores_a_cancel_is_cancelled_and_the_process_ends(process, tiny_model, left, monkeypatch):
    run = RunFactory(model=tiny_model)
    monkeypatch.setattr(worker_module, "CANCEL_SECONDS", 0.0)
    claim = claims.claim_next(process.row)
    assert claim is not None
    Run.objects.filter(pk=run.pk).update(cancel_requested_at=timezone.now())
    control = Control()
    process._held = (claim, control)
    control.stop(Stop.CANCEL)
    process._watch()
    run.refresh_from_db()
    assert (run.status, left) == (Status.CANCELLED, [worker_module.EXIT_STUCK])


def holding(process, monkeypatch, reason: Stop, attempt: int = 1) -> tuple[Run, Control]:
    """A claimed run whose thread ignores `reason`."""
    monkeypatch.setattr(worker_module, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(worker_module, "CANCEL_SECONDS", 0.0)
    claim = claims.claim_next(process.row)
    assert claim is not None
    control = Control()
    control.stop(reason)
    process._held = (claim, control)
    Run.objects.filter(pk=claim.run_id).update(attempt=attempt)
    return Run.objects.get(pk=claim.run_id), control


def test_a_shutdown_of_a_claim_already_lost_does_not_end_the_heartbeat(process, tiny_model, left, monkeypatch):
    RunFactory(model=tiny_model)
    run, control = holding(process, monkeypatch, Stop.SHUTDOWN, attempt=9)
    process._watch()
    assert (control.reason, left) == (Stop.LOST, [])
    process._watch()  # the thread does not notice that either
    run.refresh_from_db()
    assert (run.status, left) == (Status.RUNNING, [worker_module.EXIT_STUCK])


@pytest.mark.parametrize(("reason", "status"), [(Stop.SHUTDOWN, 0), (Stop.CANCEL, worker_module.EXIT_STUCK)])
def test_a_database_that_is_away_does_not_keep_a_process_that_has_to_go(
    process, tiny_model, left, monkeypatch, reason, status
):
    def away(*_: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(claims, "release", away)
    monkeypatch.setattr(claims, "lose", away)
    RunFactory(model=tiny_model)
    holding(process, monkeypatch, reason)
    process._watch()
    assert left == [status]


@pytest.mark.parametrize("place", ["_watch", "_write_row", "_care"])
def test_a_heartbeat_that_fails_for_an_unforeseen_reason_ends_the_process(process, left, monkeypatch, place):
    def broken() -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(process, place, broken)
    process.start()
    eventually(lambda: left == [worker_module.EXIT_NO_HEARTBEAT], seconds=10)


def test_a_heartbeat_outlives_a_database_that_is_away(process, left, monkeypatch):
    written, calls = threading.Event(), []
    write = process._write_row

    def away_at_first() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("away")
        write()
        written.set()

    monkeypatch.setattr(process, "_write_row", away_at_first)
    process.start()
    assert written.wait(10)
    assert left == []


def test_every_pool_process_is_told_to_stop_though_one_has_just_ended(monkeypatch):
    told = []

    def kill(pid: int, number: int) -> None:
        if pid == 11:
            raise ProcessLookupError(pid)
        told.append((pid, number))

    monkeypatch.setattr(pool, "active_children", lambda: [SimpleNamespace(pid=pid) for pid in (11, None, 12)])
    monkeypatch.setattr(pool.os, "kill", kill)
    pool.pass_on()
    assert told == [(12, signal.SIGUSR2)]


def test_a_worker_without_a_parent_stops(process, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    process._watch()
    assert process.stopping


def test_any_worker_reaps_what_another_lost(process, tiny_model):
    run = RunFactory(model=tiny_model, status=Status.RUNNING)
    Run.objects.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=9))
    process.start()
    eventually(lambda: Run.objects.get(pk=run.pk).status == Status.QUEUED, seconds=10)


@override_settings(BROKER_URL="redis://unused")
def test_an_idle_worker_nudges_for_runs_whose_message_was_lost(process, tiny_model, monkeypatch):
    nudged = threading.Event()
    monkeypatch.setattr(wake, "publish", nudged.set)
    RunFactory(model=tiny_model, queued_at=timezone.now() - timedelta(seconds=5))
    process.start()
    assert nudged.wait(10)


def test_a_greater_reason_to_stop_replaces_a_lesser_one_and_not_the_reverse():
    control = Control()
    control.stop(Stop.CANCEL)
    control.stop(Stop.SHUTDOWN)
    assert control.reason is Stop.CANCEL
    control.stop(Stop.LOST)
    assert control.reason is Stop.LOST


def started_with(**changes):
    values = {"concurrency": 1, "autoscale": None, "pool_cls": SimpleNamespace(__module__="celery.concurrency.prefork")}
    conf = SimpleNamespace(worker_prefetch_multiplier=changes.pop("prefetch", 1))
    pool.check_worker(instance=SimpleNamespace(**(values | changes)), conf=conf)


def test_a_worker_with_the_labs_options_starts():
    started_with()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concurrency": 4}, "concurrency is 4"),
        ({"prefetch": 4}, "prefetch"),
        ({"autoscale": (3, 1)}, "autoscale"),
        ({"pool_cls": SimpleNamespace(__module__="celery.concurrency.solo")}, "prefork"),
    ],
)
def test_a_worker_with_other_options_is_refused(changes, words):
    with pytest.raises(ImproperlyConfigured, match=words):
        started_with(**changes)


def test_messages_carry_no_code_no_results_and_are_acknowledged_early():
    from interp_app.celery import app
    from interp_app.runs import tasks

    assert isinstance(app, Celery)
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.worker_pool_start_method == "spawn"
    assert tasks.work.ignore_result
    assert not tasks.work.acks_late
    assert tasks.work.name == wake.WORK_TASK
