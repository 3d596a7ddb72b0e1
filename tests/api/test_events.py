"""The event log over HTTP: from any number on, with tile values, and as a long poll that wakes for news."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import AsyncClient
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import Role, User
from interp_app.runs import events
from interp_app.runs.models import Run, Status
from tests.api.conftest import close_connection
from tests.api.worlds import finished_run, log_of, tile
from tests.factories import RunFactory, UserFactory

Problem = Callable[[Any, int, str], dict[str, Any]]


def address(run: Run) -> str:
    return f"/api/v1/runs/{run.pk}/events/"


@pytest.fixture
def finished(member: User, model: ModelSource, prompts: PromptSetVersion) -> Run:
    return finished_run(member, model, prompts)


def test_the_log_is_read_in_parts_without_gap_or_repeat(api: APIClient, finished: Run) -> None:
    whole = api.get(address(finished)).json()
    assert [event["seq"] for event in whole["events"]] == [1, 2, 3]
    assert whole["last_seq"] == whole["run"]["last_seq"] == 3
    after, parts = 0, []
    for _ in range(4):
        part = api.get(address(finished), {"after": after, "limit": 1}).json()
        parts += part["events"]
        after = part["last_seq"]
    assert parts == whole["events"]


def test_a_tile_carries_its_values_bit_for_bit(api: APIClient, finished: Run) -> None:
    event = api.get(address(finished), {"after": 1, "limit": 1}).json()["events"][0]
    assert event["data"] == {"panel": 0, "r0": 0, "c0": 0, "nr": 1, "nc": 2, "planes": 2}
    words = np.frombuffer(base64.b64decode(event["tile"].pop("values")), dtype="<u4").reshape(2, 1, 2)
    assert event["tile"] == event["data"]
    assert words[0, 0].view("<f4").tolist() == [1.0, 0.25]
    assert words[1, 0].tolist() == [np.float32(2.0).view(np.uint32), 0x7FC00001]  # the second is no number


def test_a_replaced_tile_stays_in_the_log_without_values(api: APIClient, finished: Run) -> None:
    events.append(finished.pk, [events.tile_event(tile(1, 1, [[[9.0]], [[9.0]]]))])
    found = {event["seq"]: event for event in api.get(address(finished)).json()["events"]}
    assert "tile" not in found[3]
    assert found[4]["tile"]["r0"] == 1


def test_numbers_beyond_the_log_come_back_to_its_end(api: APIClient, finished: Run) -> None:
    found = api.get(address(finished), {"after": 99}).json()
    assert (found["events"], found["last_seq"]) == ([], 3)


def test_a_finished_run_is_answered_at_once_however_long_one_would_wait(api: APIClient, finished: Run) -> None:
    started = time.monotonic()
    assert api.get(address(finished), {"after": 3, "wait": 25}).json()["events"] == []
    assert time.monotonic() - started < 5


@pytest.mark.django_db(transaction=True)  # who waits is told by another thread, which must see the run
def test_a_quiet_run_is_answered_when_the_wait_is_over(api: APIClient, member: User) -> None:
    run = RunFactory(owner=member, status=Status.RUNNING)
    started = time.monotonic()
    found = api.get(address(run), {"wait": 0.4}).json()
    assert (found["events"], found["last_seq"]) == ([], 0)
    assert 0.4 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("query", "field"),
    [({"wait": 26}, "wait"), ({"wait": "nan"}, "wait"), ({"after": -1}, "after"), ({"limit": 501}, "limit")],
)
def test_limits_of_the_feed_are_named(
    api: APIClient, finished: Run, query: dict[str, Any], field: str, problem: Problem
) -> None:
    assert field in problem(api.get(address(finished), query), 400, "invalid")["fields"]


def test_only_reading_is_possible(api: APIClient, finished: Run, problem: Problem) -> None:
    problem(api.post(address(finished), {}), 405, "method_not_allowed")


@pytest.mark.django_db(transaction=True)
def test_a_waiting_reader_wakes_for_the_first_event(client_for: Any) -> None:
    run, client = _running(client_for)

    def write() -> None:
        log_of(run)
        connection.close()

    writer = threading.Timer(0.5, write)
    writer.start()
    started = time.monotonic()
    found = client.get(address(run), {"wait": 20}).json()
    writer.join()
    assert [event["kind"] for event in found["events"]] == ["panel"]
    assert time.monotonic() - started < 5


@pytest.mark.django_db(transaction=True)
def test_a_reader_who_loses_the_right_while_waiting_reads_nothing(client_for: Any) -> None:
    run, _ = _running(client_for)
    outsider = client_for(UserFactory(role=Role.READER))

    def hide_and_write() -> None:
        Run.objects.filter(pk=run.pk).update(visibility="private")
        log_of(run)
        connection.close()

    writer = threading.Timer(0.4, hide_and_write)
    writer.start()
    response = outsider.get(address(run), {"wait": 20})
    writer.join()
    assert response.status_code == 404


@pytest.mark.django_db(transaction=True)
def test_thirty_readers_wait_together_on_one_connection(client_for: Any) -> None:
    run, client = _running(client_for)
    session = client.cookies["sessionid"].value

    async def all_of_them() -> list[Any]:
        readers = [AsyncClient() for _ in range(30)]
        for reader in readers:
            reader.cookies["sessionid"] = session
        waiting = [asyncio.create_task(reader.get(address(run), {"wait": "15"})) for reader in readers]
        await asyncio.sleep(1.0)
        with_connections = await asyncio.to_thread(_append_and_count, run)
        answers = await asyncio.gather(*waiting)
        await sync_to_async(close_connection)()  # the one the server's thread opened
        return [with_connections, *[answer.json()["last_seq"] for answer in answers]]

    connections, *seqs = asyncio.run(all_of_them())
    assert seqs == [1] * 30
    assert connections <= 6


def _append_and_count(run: Run) -> int:
    """Connections of this test to its database while the readers wait; then the event they wait for."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            count = int(cursor.fetchone()[0])
        log_of(run)
        return count
    finally:
        connection.close()


def _running(client_for: Any) -> tuple[Run, APIClient]:
    owner = UserFactory(role=Role.MEMBER)
    return RunFactory(owner=owner, status=Status.RUNNING), client_for(owner)
