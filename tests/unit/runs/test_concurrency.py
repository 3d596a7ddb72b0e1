"""Many claimers at once: every run is executed by exactly one of them, and quotas hold."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import override_settings

from interp_app.core.errors import ServiceError
from interp_app.runs import claims, events, services
from interp_app.runs.models import Run, Status
from tests.factories import ModelSourceFactory, RunFactory, UserFactory, WorkerFactory

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """`work(n)` in `count` threads that start together; their results. Raises the first error."""
    gate = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            gate.wait(20)
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    return results


def test_sixteen_claimers_take_each_run_once():
    model = ModelSourceFactory(slug="tiny")
    runs = [RunFactory(model=model).pk for _ in range(24)]
    workers = [WorkerFactory(models_available=["tiny"]) for _ in range(16)]

    def claim_all(number: int) -> list:
        found = []
        while claim := claims.claim_next(workers[number]):
            found.append(claim)
        return found

    taken = [claim for found in at_once(16, claim_all) for claim in found]
    # SKIP LOCKED may show a claimer an empty queue while others hold the last rows; nothing may be taken twice.
    taken += claim_all(0)
    assert Counter(claim.run_id for claim in taken) == Counter(runs)
    assert set(Run.objects.values_list("attempt", "status")) == {(1, Status.RUNNING)}


@override_settings(QUOTA_RUNNING_RUNS=2)
def test_the_running_quota_holds_against_sixteen_claimers():
    model, owner = ModelSourceFactory(slug="tiny"), UserFactory()
    for _ in range(20):
        RunFactory(model=model, owner=owner)
    workers = [WorkerFactory(models_available=["tiny"]) for _ in range(16)]
    at_once(16, lambda number: claims.claim_next(workers[number]))
    assert Run.objects.filter(status=Status.RUNNING).count() == 2


@override_settings(QUOTA_QUEUED_RUNS=2)
def test_the_queued_quota_holds_against_resumes_at_once():
    owner = UserFactory()
    runs = [RunFactory(owner=owner, status=Status.CANCELLED) for _ in range(8)]

    def resume(number: int) -> str:
        try:
            services.resume_run(run=runs[number], actor=owner)
        except ServiceError as error:
            return error.code
        return "queued"

    answers = Counter(at_once(8, resume))
    assert answers == {"queued": 2, "quota_queued": 6}
    assert Run.objects.filter(status=Status.QUEUED).count() == 2


def test_reapers_at_once_count_each_loss_once():
    model = ModelSourceFactory(slug="tiny")
    worker = WorkerFactory(models_available=["tiny"])
    run = RunFactory(model=model)
    claim = claims.claim_next(worker)
    assert claim is not None
    with override_settings(RUN_LEASE_SECONDS=-5):
        claims.heartbeat(claim)
    reaped = at_once(8, lambda _: claims.reap())
    run.refresh_from_db()
    assert sum(reaped) == 1
    assert (run.losses, run.status) == (1, Status.QUEUED)


def test_seqs_stay_gapless_with_several_writers():
    run = RunFactory(status=Status.RUNNING, attempt=1)

    def write(number: int) -> None:
        for n in range(10):
            events.append(run.pk, [events.log_event("info", f"{number}.{n}")] * 2)

    at_once(6, write)
    run.refresh_from_db()
    assert list(run.events.values_list("seq", flat=True)) == list(range(1, 121))
    assert run.last_seq == 120
