"""The queue as people see it: positions, reasons and estimates."""

from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from interp_app.core.visibility import Visibility
from interp_app.runs import claims, queue
from interp_app.runs.models import Run, Status
from tests.factories import ModelSourceFactory, RunEventFactory, RunFactory, UserFactory, WorkerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def source():
    return ModelSourceFactory(slug="tiny", title="Tiny")


def reason(run: Run) -> str:
    entry = queue.queue_entry(run, run.owner)
    assert entry is not None
    return entry.reason


def ago(seconds: float):
    return timezone.now() - timedelta(seconds=seconds)


def test_without_a_worker_the_reason_names_the_command_that_starts_one(source):
    assert reason(RunFactory(model=source)) == "No worker is online: start one with `python manage.py serve`."


@override_settings(BROKER_URL="redis://x")
def test_in_services_mode_the_command_is_celerys(source):
    assert "celery -A interp_app.celery worker" in reason(RunFactory(model=source))


def test_a_worker_that_is_not_heard_from_is_not_online(source):
    WorkerFactory(models_available=["tiny"], heartbeat_at=ago(120))
    WorkerFactory(models_available=["tiny"], stopped_at=ago(1))
    assert reason(RunFactory(model=source)).startswith("No worker is online")


def test_a_model_no_worker_has_is_named(source):
    WorkerFactory(models_available=["other"])
    assert reason(RunFactory(model=source)) == "No online worker has the model Tiny."


def test_a_quota_is_told_to_its_owner_and_to_others(source, colleague):
    WorkerFactory(models_available=["tiny"])
    run = RunFactory(model=source)
    for _ in range(2):
        RunFactory(model=source, owner=run.owner, status=Status.RUNNING)
    assert reason(run) == "You already have 2 running; at most 2 run at a time."
    entry = queue.queue_entry(run, colleague)
    assert entry is not None
    assert entry.reason.startswith("Its owner already has 2 running")


def test_a_busy_worker_is_named_with_its_run_and_the_time_it_needs(source):
    worker = WorkerFactory(name="w1", models_available=["tiny"])
    busy = RunFactory(
        model=source, status=Status.RUNNING, worker=worker, title="Long one", cells_done=50, cells_total=100,
        started_at=ago(60),
    )  # fmt: skip
    run = RunFactory(model=source, owner=busy.owner)
    until = (timezone.now() + timedelta(seconds=60)).strftime("%H:%M")
    assert reason(run).startswith("Worker w1 is busy with “Long one” until about ")
    assert until[:2] in reason(run)
    entry = queue.queue_entry(run, run.owner)
    assert entry is not None
    assert entry.eta_seconds == pytest.approx(60, abs=3)


def test_a_private_run_of_another_is_not_named(source):
    worker = WorkerFactory(name="w1", models_available=["tiny"])
    RunFactory(model=source, status=Status.RUNNING, worker=worker, title="Secret", visibility=Visibility.PRIVATE)
    run = RunFactory(model=source)
    assert "another run" in reason(run)
    assert "Secret" not in reason(run)


def test_a_free_worker_is_about_to_take_it(source):
    WorkerFactory(models_available=["tiny"])
    assert reason(RunFactory(model=source)) == "A worker is about to take it."


def test_positions_count_everybodys_runs_but_show_only_visible_ones(source, colleague):
    hidden = RunFactory(model=source, visibility=Visibility.PRIVATE, queued_at=ago(50))
    shown = RunFactory(model=source, queued_at=ago(20))
    entries = queue.queue_view(colleague)
    assert [(entry.run, entry.position) for entry in entries] == [(shown, 2)]
    assert [entry.position for entry in queue.queue_view(hidden.owner)] == [1, 2]


def test_owners_take_turns_as_the_claims_do(source):
    worker = WorkerFactory(models_available=["tiny"])
    greedy, patient = UserFactory(), UserFactory()
    for n in range(3):
        RunFactory(model=source, owner=greedy, queued_at=ago(90 - n))
    RunFactory(model=source, owner=patient, queued_at=ago(10))
    shown = [entry.run.pk for entry in queue.queue_view(greedy)]
    claimed = []
    with override_settings(QUOTA_RUNNING_RUNS=99):
        while claim := claims.claim_next(worker):
            claimed.append(claim.run_id)
            Run.objects.filter(pk=claim.run_id).update(
                status=Status.SUCCEEDED, finished_at=timezone.now(), lease_until=None
            )
    assert shown == claimed
    assert Run.objects.get(pk=shown[1]).owner == patient


def test_the_queue_costs_the_same_number_of_queries_however_long(source, colleague, django_assert_max_num_queries):
    for _ in range(3):
        RunFactory(model=source, status=Status.RUNNING, worker=WorkerFactory(models_available=["tiny"]))
    for _ in range(12):
        RunFactory(model=source)
    with django_assert_max_num_queries(12):
        entries = queue.queue_view(colleague)
    assert len(entries) == 12
    assert all(" is busy with " in entry.reason for entry in entries)


def progress(run: Run, seconds: float, *, attempt: int, seq: int = 1) -> None:
    payload = {"done": 90, "total": 100, "rate": 1.0, "eta_seconds": seconds}
    RunEventFactory(run=run, seq=seq, attempt=attempt, kind="progress", payload=payload)


def test_a_resumed_run_is_estimated_from_its_own_attempt(source):
    worker = WorkerFactory(models_available=["tiny"], flops_per_second=10.0)
    busy = RunFactory(
        model=source, status=Status.RUNNING, worker=worker, attempt=2, started_at=ago(10), cells_done=90,
        cells_total=100, flops=3000.0, last_seq=1,
    )  # fmt: skip
    run = RunFactory(model=source)

    def eta() -> float | None:
        entry = queue.queue_entry(run, run.owner)
        assert entry is not None
        return entry.eta_seconds

    assert eta() == pytest.approx(30.0)  # a tenth of its FLOPs is left; 10 s for 90 cells were another attempt's
    progress(busy, 500.0, attempt=1)
    assert eta() == pytest.approx(30.0)
    progress(busy, 42.0, attempt=2, seq=2)
    assert eta() == pytest.approx(42.0, abs=3)


def test_a_model_taken_out_or_an_owner_switched_off_is_the_reason(source, colleague):
    WorkerFactory(models_available=["tiny"])
    run = RunFactory(model=source)
    source.allowed = False
    source.save()
    entry = queue.queue_entry(run, colleague)
    assert entry is not None
    assert entry.reason.startswith("The model Tiny is not allowed at the moment")
    assert entry.eta_seconds is None
    source.allowed = True
    source.save()
    run.owner.is_active = False
    run.owner.save()
    entry = queue.queue_entry(run, colleague)
    assert entry is not None
    assert entry.reason == "Its owner's account is switched off."


def test_behind_the_runs_that_are_counted_one_is_told_so(source, monkeypatch):
    monkeypatch.setattr(queue, "MAX_SHOWN", 2)
    runs = [RunFactory(model=source, queued_at=ago(90 - n)) for n in range(3)]
    last = queue.queue_entry(runs[2], runs[2].owner)
    assert last is not None
    assert (last.position, last.reason) == (3, "More than 2 runs are ahead of it.")
    Run.objects.filter(pk=runs[0].pk).delete()
    Run.objects.filter(pk=runs[1].pk).delete()
    claimed = RunFactory(model=source)
    Run.objects.filter(pk=claimed.pk).update(status=Status.CANCELLED, finished_at=timezone.now())
    assert queue.queue_entry(claimed, claimed.owner) is None  # it left the queue while we looked


def test_a_run_that_is_not_queued_has_no_place(source):
    run = RunFactory(model=source, status=Status.RUNNING)
    assert queue.queue_entry(run, run.owner) is None


def test_a_preview_knows_where_a_run_would_stand(source, member):
    RunFactory(model=source)
    WorkerFactory(models_available=["tiny"])
    assert queue.would_queue(source, member) == (2, "A worker is about to take it.")
