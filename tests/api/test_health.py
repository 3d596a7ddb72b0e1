"""Health, readiness and the metrics page."""

import os
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from interp_app.core.models import User
from interp_app.runs.models import Status
from tests.factories import RunFactory, WorkerFactory


def test_the_process_is_alive_without_asking_the_database(client: Client) -> None:
    """No `db` fixture: a query would fail this test."""
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert response["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_it_is_ready_when_the_database_answers(client: Client) -> None:
    assert client.get("/readyz").json() == {"status": "ok", "checks": {"database": "ok"}}


@pytest.mark.django_db
def test_redis_is_asked_in_services_mode(client: Client, settings: Any) -> None:
    settings.REDIS_URL = os.environ.get("PATCHBAY_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
    assert client.get("/readyz").json()["checks"] == {"database": "ok", "redis": "ok"}
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    response = client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["redis"]) == (503, "unavailable")


def test_it_is_not_ready_without_its_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("no")

    monkeypatch.setattr("interp_app.core.health.connection", type("Down", (), {"cursor": fail})())
    assert client.get("/readyz").status_code == 503


@pytest.mark.django_db
def test_the_lab_is_measured(client: Client) -> None:
    RunFactory(queued_at=timezone.now() - timedelta(seconds=90))
    RunFactory(status=Status.FAILED)
    WorkerFactory()
    lines = dict(
        line.rsplit(" ", 1)
        for line in client.get("/metrics").content.decode().splitlines()
        if line.startswith("patchbay_")
    )
    assert lines['patchbay_runs{status="queued"}'] == lines['patchbay_runs{status="failed"}'] == "1.0"
    assert lines['patchbay_runs{status="running"}'] == "0.0"
    assert lines["patchbay_queue_length"] == "1.0"
    assert 90 <= float(lines["patchbay_queue_oldest_wait_seconds"]) < 120
    assert lines["patchbay_workers_online"] == "1.0"
    assert "patchbay_sockets" in lines
    assert "patchbay_event_append_seconds_count" in lines


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "::1"}, 200),
        ({"REMOTE_ADDR": "10.1.2.3"}, 404),
        ({"REMOTE_ADDR": ""}, 404),
        ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, 404),
    ],
)
def test_the_metrics_exist_for_direct_neighbours_only(client: Client, extra: dict[str, str], status: int) -> None:
    assert client.get("/metrics", **extra).status_code == status  # type: ignore[arg-type]


@pytest.mark.django_db
def test_allowed_networks_are_a_setting(client: Client, settings: Any) -> None:
    settings.METRICS_ALLOWED = ["10.1.0.0/16"]
    assert client.get("/metrics", REMOTE_ADDR="10.1.2.3").status_code == 200
    assert client.get("/metrics", REMOTE_ADDR="127.0.0.1").status_code == 404


def test_administrators_read_the_metrics_from_anywhere(client: Client, lab_admin: User, member: User) -> None:
    for user, status in ((member, 404), (lab_admin, 200)):
        client.force_login(user)
        assert client.get("/metrics", REMOTE_ADDR="10.1.2.3").status_code == status
