"""Wake-ups: sent after the commit, and never the reason why a request fails or hangs."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from django.db import transaction
from django.test import override_settings

from interp_app.runs import wake

pytestmark = pytest.mark.django_db(transaction=True)

PROGRAM = (
    "import sys, time, django\n"
    "django.setup()\n"
    "from interp_app.runs import wake\n"
    "started = time.monotonic()\n"
    "wake.publish()\n"
    "print(time.monotonic() - started)"
)


def publish_seconds(url: str) -> float:
    """How long a nudge to this broker takes in a fresh process, which must not raise."""
    import os

    env = {**os.environ, "PATCHBAY_MODE": "services", "DJANGO_SETTINGS_MODULE": "interp_app.settings.services",
           "PATCHBAY_SECRET_KEY": "x" * 60, "PATCHBAY_DATABASE_URL": "postgres://x@127.0.0.1/x",
           "PATCHBAY_REDIS_URL": url}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "wake_failed" in done.stderr
    return float(done.stdout)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and never answers, as a paused Redis does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_broker_that_is_down_costs_moments():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert publish_seconds(f"redis://127.0.0.1:{port}/0") < 2


def test_a_broker_that_hangs_is_given_up(silent_port):
    assert publish_seconds(f"redis://127.0.0.1:{silent_port}/0") < 12


@override_settings(BROKER_URL="redis://unused")
def test_the_nudge_waits_for_the_commit_and_a_rollback_takes_it_back(monkeypatch):
    sent = []
    monkeypatch.setattr(wake, "publish", lambda: sent.append(time.monotonic()))
    with transaction.atomic():
        wake.wake_workers()
        assert sent == []
    assert len(sent) == 1
    with transaction.atomic():
        wake.wake_workers()
        transaction.set_rollback(True)
    assert len(sent) == 1


def test_embedded_workers_poll_so_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(wake, "publish", lambda: pytest.fail("sent"))
    wake.wake_workers()
