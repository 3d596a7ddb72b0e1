"""The web process's reaper: a run whose last worker is gone does not look alive for ever."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test import override_settings
from django.utils import timezone

from interp_app.runs import claims, queue
from interp_app.runs.models import Run, Status
from interp_app.runs.reaper import Reaper
from tests.deadlines import eventually
from tests.factories import RunFactory, WorkerFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lost() -> Run:
    """A run whose worker, the only one, was last heard of ten minutes ago."""
    ago = timezone.now() - timedelta(minutes=10)
    worker = WorkerFactory(heartbeat_at=ago)
    return RunFactory(status=Status.RUNNING, worker=worker, lease_until=ago + timedelta(seconds=30))


@pytest.fixture
def reaper():
    with override_settings(RUN_REAP_SECONDS=0.05):
        found = Reaper()
        yield found
        found.stop()


def queued_again(run: Run) -> bool:
    return Run.objects.get(pk=run.pk).status == Status.QUEUED


def test_with_no_worker_left_the_run_is_queued_again_and_says_why_it_waits(lost, reaper):
    reaper.start()
    eventually(lambda: queued_again(lost), seconds=10)
    lost.refresh_from_db()
    entry = queue.queue_entry(lost, lost.owner)
    assert "the worker stopped answering" in lost.events.last().payload["reason"]
    assert entry is not None
    assert entry.reason.startswith("No worker is online")


@pytest.mark.parametrize("error", [OperationalError("away"), RuntimeError("nobody foresaw this")])
def test_an_error_does_not_end_it(lost, reaper, monkeypatch, error):
    reap, calls = claims.reap, []

    def fails_at_first() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return reap()

    monkeypatch.setattr(claims, "reap", fails_at_first)
    reaper.start()
    eventually(lambda: queued_again(lost), seconds=10)
