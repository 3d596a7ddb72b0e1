"""Who may open a socket and watch what, for how long, and how much they may say."""

import asyncio
import json
from typing import Any

import pytest
from django.utils import timezone

from interp_app.catalog.models import PromptSet
from interp_app.core.models import Role, User
from interp_app.runs import consumers
from interp_app.runs.feed import RunFeed
from interp_app.runs.models import Run
from tests.factories import RunFactory
from tests.live import LogWriter
from tests.ws.conftest import Connect, in_db, session_cookie

pytestmark = [pytest.mark.asyncio, pytest.mark.django_db(transaction=True)]


# -- who may connect --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "origin", [None, b"https://evil.example", b"http://testserver:81", b"http://testserver.evil.example", b"null"]
)
async def test_a_socket_from_another_origin_or_none_is_refused(
    connect: Connect, member: User, origin: bytes | None
) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(member, origin=origin)


async def test_the_public_address_is_an_own_origin_behind_a_proxy(
    connect: Connect, member: User, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://lab.example"
    await connect(member, origin=b"https://lab.example")


async def test_the_first_word_is_hello(connect: Connect) -> None:
    viewer = await connect()
    assert json.loads(viewer.frames[0]) == {"type": "hello", "v": 1}


# -- who may watch ----------------------------------------------------------------------------------------------------
async def test_a_private_run_does_not_exist_for_a_colleague(connect: Connect, member: User, colleague: User) -> None:
    run = await in_db(RunFactory)(owner=member, visibility="private")
    viewer = await connect(colleague)
    await viewer.subscribe(run)
    assert (await viewer.receive())["code"] == "not_found"
    assert await viewer.receive() == {"type": "close", "code": 4404}


async def test_a_run_that_never_was_gets_the_same_answer(connect: Connect, colleague: User) -> None:
    viewer = await connect(colleague)
    await viewer.send(type="subscribe", topic="run:00000000-0000-7000-8000-000000000000", since=0)
    assert (await viewer.receive())["code"] == "not_found"
    assert await viewer.receive() == {"type": "close", "code": 4404}


async def test_a_visitor_is_asked_to_sign_in_for_a_lab_run(connect: Connect, run: Run) -> None:
    viewer = await connect()
    await viewer.subscribe(run)
    assert (await viewer.receive())["code"] == "sign_in"
    assert await viewer.receive() == {"type": "close", "code": 4401}


async def test_a_visitor_may_watch_a_public_run(connect: Connect, run: Run, writer: LogWriter) -> None:
    await in_db(Run.objects.filter(pk=run.pk).update)(visibility="public")
    viewer = await connect()
    await viewer.subscribe(run)
    await viewer.until_seq(await in_db(writer.open)())
    assert viewer.replica.run["id"] == str(run.pk)


async def test_a_run_made_private_closes_the_sockets_of_others(
    connect: Connect, run: Run, member: User, colleague: User, writer: LogWriter
) -> None:
    owner, other = await connect(member), await connect(colleague)
    for viewer in (owner, other):
        await viewer.subscribe(run)
        await viewer.until_type("run")
    await in_db(Run.objects.filter(pk=run.pk).update)(visibility="private")
    assert (await other.until_type("close"))["code"] == 4404
    await owner.until_seq(await in_db(writer.open)())


async def test_a_deleted_run_closes_its_sockets(connect: Connect, run: Run, member: User) -> None:
    viewer = await connect(member)
    await viewer.subscribe(run)
    await viewer.until_type("run")
    await in_db(Run.objects.filter(pk=run.pk).delete)()
    assert (await viewer.until_type("close"))["code"] == 4404


async def test_signing_out_elsewhere_closes_the_socket(
    connect: Connect, run: Run, member: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_SECONDS", 0.05)
    cookie = await in_db(session_cookie)(member)
    viewer = await connect(cookie=cookie)
    await viewer.subscribe(run)
    await viewer.until_type("run")
    await in_db(_sign_out)(cookie)
    assert (await viewer.until_type("close"))["code"] == 4401


async def test_an_account_that_left_the_lab_loses_its_lab_runs(
    connect: Connect, run: Run, colleague: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_SECONDS", 0.05)
    viewer = await connect(colleague)
    await viewer.subscribe(run)
    await viewer.until_type("run")
    await in_db(User.objects.filter(pk=colleague.pk).update)(role="guest")
    assert (await viewer.until_type("close"))["code"] == 4404


async def test_a_change_of_a_run_rechecks_the_account_at_once_not_a_minute_later(
    connect: Connect, run: Run, colleague: User, writer: LogWriter
) -> None:
    viewer = await connect(colleague)
    await viewer.subscribe(run)
    await viewer.until_type("run")
    await in_db(User.objects.filter(pk=colleague.pk).update)(role=Role.GUEST)
    await in_db(writer.open)()
    await in_db(writer.finish)()
    assert (await viewer.until_type("close"))["code"] == consumers.GONE


async def test_a_run_that_cannot_be_read_is_told_to_try_later(
    connect: Connect, run: Run, member: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(consumers, "READY_SECONDS", 0.05)
    monkeypatch.setattr(RunFeed, "ready", never)
    viewer = await connect(member)
    await viewer.subscribe(run)
    assert (await viewer.until_type("close"))["code"] == consumers.TRY_LATER


async def test_each_viewer_of_a_public_run_is_told_what_it_may_see_around_it(
    connect: Connect, run: Run, member: User
) -> None:
    await in_db(PromptSet.objects.filter(versions=run.prompts_id).update)(visibility="private", owner=member)
    failure = {"failure_code": "worker_lost", "failure_text": "Lost.", "failure_detail": {"worker": "gpu-7"}}
    ended = {"status": "failed", "finished_at": timezone.now(), **failure}
    await in_db(Run.objects.filter(pk=run.pk).update)(visibility="public", **ended)
    told = []
    for viewer in (await connect(member), await connect()):
        await viewer.subscribe(run)
        told.append((await viewer.until_type("run"))["run"])
    hers, outsiders = told
    assert hers["prompts"]["id"]
    assert hers["failure"]["detail"] == {"worker": "gpu-7"}
    assert (outsiders["prompts"]["id"], outsiders["failure"]["detail"]) == (None, {})
    assert hers["prompts"]["title"] not in str(outsiders)


async def test_a_disabled_account_is_signed_out(
    connect: Connect, member: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "RECHECK_SECONDS", 0.05)
    viewer = await connect(member)
    await in_db(User.objects.filter(pk=member.pk).update)(is_active=False)
    assert (await viewer.until_type("close"))["code"] == 4401


# -- limits -----------------------------------------------------------------------------------------------------------
async def test_the_twenty_first_socket_of_an_account_is_one_too_many(connect: Connect, member: User) -> None:
    for _ in range(20):
        await connect(member)
    viewer = await connect(member)
    assert viewer.replica.errors[0]["code"] == "too_many_sockets"
    assert await viewer.receive() == {"type": "close", "code": 4429}


async def test_a_closed_socket_makes_room(connect: Connect, member: User) -> None:
    viewers = [await connect(member) for _ in range(20)]
    await viewers[0].disconnect()
    viewer = await connect(member)
    assert viewer.replica.errors == []


async def test_the_seventeenth_topic_is_one_too_many(connect: Connect, member: User, run: Run) -> None:
    runs = [run] + [await in_db(RunFactory)(owner=member, model=run.model, prompts=run.prompts) for _ in range(16)]
    viewer = await connect(member)
    viewer.acknowledges = False
    for one in runs:
        await viewer.subscribe(one)
    assert (await viewer.until_type("close"))["code"] == 4429


async def test_a_message_over_four_kilobytes_closes_the_socket(connect: Connect, member: User) -> None:
    viewer = await connect(member)
    await viewer.send(type="ping", padding="x" * 4096)
    assert (await viewer.until_type("close"))["code"] == 4429


async def test_a_flood_of_messages_closes_the_socket(connect: Connect, member: User) -> None:
    viewer = await connect(member)
    for _ in range(130):
        await viewer.send(type="ping")
    assert (await viewer.until_type("close"))["code"] == 4429


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"type":"shout"}',
        '{"type":"subscribe"}',
        '{"type":"subscribe","topic":"run:1"}',
        '{"type":"subscribe","topic":"weather"}',
        '{"type":"subscribe","topic":"queue","since":-1}',
        '{"type":"ack","handle":1,"seq":true}',
        '{"type":"ack","handle":"1","seq":1}',
        "[" * 3000,
    ],
)
async def test_a_message_outside_the_protocol_is_told_so_and_the_socket_stays(
    connect: Connect, member: User, text: str
) -> None:
    viewer = await connect(member)
    await viewer.send_text(text)
    assert (await viewer.receive())["code"] == "bad_message"
    await viewer.send(type="ping")
    assert (await viewer.receive())["type"] == "pong"


async def test_a_binary_message_is_outside_the_protocol(connect: Connect, member: User) -> None:
    viewer = await connect(member)
    await viewer.socket.send_input({"type": "websocket.receive", "bytes": b"\x00" * 16})
    assert (await viewer.receive())["code"] == "bad_message"


def _sign_out(cookie: str) -> None:
    from django.contrib.sessions.models import Session

    Session.objects.filter(pk=cookie).delete()
