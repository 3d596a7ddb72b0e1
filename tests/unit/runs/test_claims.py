"""Claims, leases, losses and fairness, on the database of the running settings (Postgres, and SQLite by subprocess)."""

import uuid
from datetime import timedelta

import pytest
from django.test import override_settings
from django.utils import timezone

from interp_app.core.models import User
from interp_app.runs import claims, events
from interp_app.runs.claims import Claim, ClaimState
from interp_app.runs.models import Run, Status, Worker
from tests.factories import ModelSourceFactory, RunFactory, UserFactory, WorkerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def worker() -> Worker:
    return WorkerFactory(models_available=["tiny"])


@pytest.fixture
def tiny_source():
    return ModelSourceFactory(slug="tiny")


def queued(model, **fields) -> Run:
    return RunFactory(model=model, **fields)


def claimed(worker: Worker) -> Claim:
    claim = claims.claim_next(worker)
    assert claim is not None
    return claim


def expire(claim: Claim) -> None:
    Run.objects.filter(pk=claim.run_id).update(lease_until=timezone.now() - timedelta(seconds=1))


def test_a_claim_makes_the_run_running_with_the_next_attempt_and_a_lease(worker, tiny_source):
    run = queued(tiny_source)
    claim = claimed(worker)
    run.refresh_from_db()
    assert (claim.run_id, claim.attempt) == (run.pk, 1)
    assert (run.status, run.attempt, run.worker_id) == (Status.RUNNING, 1, worker.pk)
    assert run.lease_until > timezone.now()
    assert [event.payload["status"] for event in run.events.all()] == ["running"]


def test_an_empty_queue_gives_no_claim(worker):
    assert claims.claim_next(worker) is None


def test_a_worker_claims_only_models_it_has(worker):
    queued(ModelSourceFactory(slug="elsewhere"))
    assert claims.claim_next(worker) is None


def test_a_run_on_a_model_no_longer_allowed_is_not_claimed(worker):
    queued(ModelSourceFactory(slug="tiny", allowed=False))
    assert claims.claim_next(worker) is None


def test_the_oldest_run_goes_first_within_an_owner(worker, tiny_source):
    owner = UserFactory()
    newer = queued(tiny_source, owner=owner)
    older = queued(tiny_source, owner=owner, queued_at=timezone.now() - timedelta(seconds=20))
    assert [claimed(worker).run_id for _ in range(2)] == [older.pk, newer.pk]


def test_the_owner_with_fewest_running_runs_goes_first(worker, tiny_source):
    busy, idle = UserFactory(), UserFactory()
    RunFactory(owner=busy, model=tiny_source, status=Status.RUNNING)
    queued(tiny_source, owner=busy, queued_at=timezone.now() - timedelta(seconds=20))
    wanted = queued(tiny_source, owner=idle)
    assert claimed(worker).run_id == wanted.pk


def test_among_equals_the_owner_served_least_recently_goes_first(worker, tiny_source):
    recent, earlier = UserFactory(), UserFactory()
    now = timezone.now()
    for owner, ago in ((recent, 5), (earlier, 500)):
        RunFactory(owner=owner, model=tiny_source, status=Status.SUCCEEDED, started_at=now - timedelta(seconds=ago))
    queued(tiny_source, owner=recent, queued_at=now - timedelta(seconds=20))
    wanted = queued(tiny_source, owner=earlier)
    assert claimed(worker).run_id == wanted.pk


def test_a_warm_model_goes_first(worker, tiny_source):
    warm = ModelSourceFactory(slug="warm")
    worker.models_available = ["tiny", "warm"]
    queued(tiny_source, queued_at=timezone.now() - timedelta(seconds=20))
    wanted = queued(warm)
    claim = claims.claim_next(worker, [warm.pk])
    assert claim is not None
    assert claim.run_id == wanted.pk


def test_a_warm_model_does_not_overtake_a_run_that_waited_over_a_minute(worker, tiny_source):
    warm = ModelSourceFactory(slug="warm")
    worker.models_available = ["tiny", "warm"]
    waited = queued(tiny_source, queued_at=timezone.now() - timedelta(seconds=61))
    queued(warm)
    claim = claims.claim_next(worker, [warm.pk])
    assert claim is not None
    assert claim.run_id == waited.pk


@override_settings(QUOTA_RUNNING_RUNS=1)
def test_an_owner_at_the_running_quota_waits_and_others_go_on(worker, tiny_source):
    full = UserFactory()
    RunFactory(owner=full, model=tiny_source, status=Status.RUNNING)
    queued(tiny_source, owner=full, queued_at=timezone.now() - timedelta(seconds=20))
    other = queued(tiny_source)
    assert claimed(worker).run_id == other.pk
    assert claims.claim_next(worker) is None


def test_a_heartbeat_extends_the_lease(worker, tiny_source):
    queued(tiny_source)
    claim = claimed(worker)
    expire(claim)
    assert claims.heartbeat(claim) is ClaimState.HELD
    assert Run.objects.get(pk=claim.run_id).lease_until > timezone.now()


def test_a_heartbeat_tells_that_a_cancel_was_asked_for(worker, tiny_source):
    queued(tiny_source)
    claim = claimed(worker)
    Run.objects.filter(pk=claim.run_id).update(cancel_requested_at=timezone.now())
    assert claims.heartbeat(claim) is ClaimState.CANCEL


def test_an_expired_lease_requeues_the_run_and_counts_a_loss(worker, tiny_source):
    run = queued(tiny_source)
    expire(claimed(worker))
    assert claims.reap() == 1
    run.refresh_from_db()
    assert (run.status, run.losses, run.worker, run.attempt) == (Status.QUEUED, 1, None, 1)


def test_a_run_whose_only_worker_is_gone_says_that_no_other_is_online(worker, tiny_source):
    run = queued(tiny_source)
    expire(claimed(worker))
    claims.reap()
    reason = run.events.last().payload["reason"]
    assert "the worker stopped answering. The run is queued again. No other worker is online." in reason


def test_a_lost_run_that_another_worker_may_take_says_nothing_of_workers(worker, tiny_source):
    WorkerFactory()
    run = queued(tiny_source)
    expire(claimed(worker))
    claims.reap()
    assert run.events.last().payload["reason"].endswith("The run is queued again.")


def test_a_live_lease_is_left_alone(worker, tiny_source):
    queued(tiny_source)
    claimed(worker)
    assert claims.reap() == 0


@override_settings(RUN_MAX_LOSSES=3)
def test_three_losses_in_a_row_fail_the_run_as_worker_lost(worker, tiny_source):
    run = queued(tiny_source)
    for _ in range(3):
        expire(claimed(worker))
        claims.reap()
    run.refresh_from_db()
    assert (run.status, run.failure_code, run.losses) == (Status.FAILED, "worker_lost", 3)
    texts = str([run.failure_text, run.failure_detail, list(run.events.values_list("payload", flat=True))])
    assert worker.name not in texts  # a public run is read outside the lab
    assert run.finished_at is not None
    assert run.events.last().payload["failure"]["code"] == "worker_lost"


def test_a_lost_run_that_was_being_cancelled_is_cancelled(worker, tiny_source):
    run = queued(tiny_source)
    claim = claimed(worker)
    Run.objects.filter(pk=run.pk).update(cancel_requested_at=timezone.now())
    expire(claim)
    claims.reap()
    run.refresh_from_db()
    assert run.status == Status.CANCELLED


def test_a_worker_that_lost_its_lease_changes_nothing(worker, tiny_source):
    run = queued(tiny_source)
    stale = claimed(worker)
    expire(stale)
    claims.reap()
    claimed(worker)
    before = Run.objects.values().get(pk=run.pk)
    assert claims.heartbeat(stale) is ClaimState.LOST
    for write in (
        lambda: events.append(run.pk, [events.log_event("info", "late")], attempt=stale.attempt),
        lambda: claims.finish(stale, Status.SUCCEEDED),
        lambda: claims.release(stale, "late"),
    ):
        with pytest.raises(events.ClaimLost):
            write()
    assert claims.lose(stale, "late") == 0
    assert Run.objects.values().get(pk=run.pk) == before


def test_a_released_run_is_queued_without_a_loss(worker, tiny_source):
    run = queued(tiny_source)
    claims.release(claimed(worker), "the worker is stopping")
    run.refresh_from_db()
    assert (run.status, run.losses) == (Status.QUEUED, 0)


def test_a_worker_that_starts_gives_back_what_its_earlier_process_held(worker, tiny_source):
    run = queued(tiny_source)
    claimed(worker)
    assert claims.take_back(worker) == 1
    run.refresh_from_db()
    assert (run.status, run.losses) == (Status.QUEUED, 1)


def test_finishing_clears_the_losses(worker, tiny_source):
    run = queued(tiny_source, losses=2)
    claims.finish(claimed(worker), Status.SUCCEEDED)
    run.refresh_from_db()
    assert (run.status, run.losses, run.lease_until) == (Status.SUCCEEDED, 0, None)
    assert run.finished_at is not None


def test_an_inactive_owner_has_no_run_claimed(worker, tiny_source):
    run = queued(tiny_source)
    User.objects.filter(pk=run.owner_id).update(is_active=False)
    assert claims.claim_next(worker) is None


def test_a_claim_of_an_unknown_run_is_lost(worker):
    assert claims.heartbeat(Claim(uuid.uuid4(), 1, worker.pk)) is ClaimState.LOST
