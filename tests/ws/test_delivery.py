"""What a viewer is sent: replay, snapshot and live tiles, each equal to what the database holds."""

import asyncio

import numpy as np
import pytest

from interp_app.core.models import User
from interp_app.runs import events, feed, feed_reads
from interp_app.runs.models import Run, Status
from tests.factories import RunFactory
from tests.live import LogWriter, stored
from tests.replica import assert_same
from tests.ws.conftest import Connect, in_db
from tracing.experiments.events import Tile

pytestmark = [pytest.mark.asyncio, pytest.mark.django_db(transaction=True)]


# -- replay, snapshot, live -------------------------------------------------------------------------------------------
async def test_a_viewer_from_the_start_sees_every_cell_bit_for_bit(
    connect: Connect, run: Run, member: User, writer: LogWriter
) -> None:
    await in_db(writer.open)()
    await in_db(writer.tiles)(7)
    viewer = await connect(member)
    await viewer.subscribe(run)
    await viewer.until_seq(8)
    while writer.cells_left:
        last = await in_db(writer.tiles)(3)
        await viewer.until_seq(last)
    await viewer.until_seq(await in_db(writer.finish)())
    assert_same(viewer.replica.panels, await in_db(stored)(run.pk))
    assert viewer.replica.modes == ["replay"]
    assert viewer.replica.snapshots == 0
    await viewer.until(lambda message: message["type"] == "run" and message["run"]["status"] == "succeeded")


async def test_a_late_viewer_of_a_long_log_gets_a_snapshot_and_then_what_follows(
    connect: Connect, run: Run, member: User
) -> None:
    writer = LogWriter(run.pk, rows=30, columns=30)
    await in_db(writer.open)()
    await in_db(writer.log)("before", 10)
    await in_db(writer.tiles)(600)
    viewer = await connect(member)
    await viewer.subscribe(run)
    snapshot = await viewer.until_type("snapshot")
    assert [event["data"]["message"] for event in snapshot["events"]] == ["before"] * 10
    await viewer.until_seq(611)
    assert_same(viewer.replica.panels, await in_db(stored)(run.pk))
    await viewer.until_seq(await in_db(writer.tiles)(50))
    assert_same(viewer.replica.panels, await in_db(stored)(run.pk))
    assert viewer.replica.snapshots == 1


@pytest.mark.parametrize(("since", "mode"), [(0, "snapshot"), (10, "snapshot"), (11, "replay"), (511, "replay")])
async def test_up_to_five_hundred_events_are_replayed(
    connect: Connect, run: Run, member: User, since: int, mode: str
) -> None:
    writer = LogWriter(run.pk, rows=2, columns=2)
    await in_db(writer.open)()
    await in_db(writer.log)("line", 510)
    viewer = await connect(member)
    await viewer.subscribe(run, since=since)
    subscribed = await viewer.until_type("subscribed")
    assert (subscribed["mode"], subscribed["seq"]) == (mode, 511)
    await viewer.until_seq(511)


async def test_a_position_beyond_the_log_is_answered_with_the_state(
    connect: Connect, run: Run, member: User, writer: LogWriter
) -> None:
    await in_db(writer.open)()
    viewer = await connect(member)
    await viewer.send(type="subscribe", topic=f"run:{run.pk}", since=10_000)
    assert (await viewer.until_type("subscribed"))["mode"] == "snapshot"
    await viewer.until_seq(1)


async def test_any_disconnect_point_leads_to_the_same_picture(
    connect: Connect, run: Run, member: User, writer: LogWriter
) -> None:
    await in_db(writer.open)()
    await in_db(writer.tiles)(20)
    for since in range(22):
        viewer = await connect(member)
        await viewer.subscribe(run)
        await viewer.until_seq(since)
        picture = viewer.replica
        await viewer.disconnect()
        again = await connect(member)
        again.replica = picture
        await again.subscribe(run, since=picture.seq)
        await again.until_seq(21)
        assert_same(again.replica.panels, await in_db(stored)(run.pk))
        await again.disconnect()


async def test_the_same_topic_again_replaces_the_old_subscription(
    connect: Connect, run: Run, member: User, writer: LogWriter
) -> None:
    viewer = await connect(member)
    await viewer.subscribe(run)
    first = await viewer.until_type("subscribed")
    await viewer.subscribe(run)
    second = await viewer.until_type("subscribed")
    assert second["handle"] != first["handle"]
    await viewer.until_seq(await in_db(writer.open)())  # the replica accepts only frames of the new handle


async def test_a_run_named_twice_in_other_letters_is_one_topic(
    connect: Connect, run: Run, member: User, writer: LogWriter
) -> None:
    viewer = await connect(member)
    await viewer.subscribe(run)
    first = (await viewer.until_type("subscribed"))["handle"]
    await viewer.send(type="subscribe", topic=f"run:{str(run.pk).upper()}", since=0)
    assert (await viewer.until_type("subscribed"))["topic"] == f"run:{str(run.pk).upper()}"
    await viewer.send(type="unsubscribe", handle=first)
    await viewer.until_seq(await in_db(writer.open)())


async def test_the_log_is_read_once_however_many_watch(
    connect: Connect, run: Run, member: User, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewers = [await connect(member) for _ in range(12)]
    for viewer in viewers:
        await viewer.subscribe(run)
        await viewer.until_type("run")
    read = []
    read_log = feed_reads.read_log
    monkeypatch.setattr(feed_reads, "read_log", lambda *log, **span: read.append(span) or read_log(*log, **span))
    await in_db(writer.open)()
    for _ in range(5):
        last = await in_db(writer.tiles)(4)
        await asyncio.gather(*(viewer.until_seq(last) for viewer in viewers))
    assert len(read) <= 6, "one reading an append at most"
    assert len({id(viewer.frames[-1]) for viewer in viewers}) == 1, "one frame in memory for all"


async def test_nothing_comes_after_unsubscribing(connect: Connect, run: Run, member: User, writer: LogWriter) -> None:
    viewer = await connect(member)
    await viewer.subscribe(run)
    handle = (await viewer.until_type("subscribed"))["handle"]
    await viewer.until_type("run")
    await viewer.send(type="unsubscribe", handle=handle)
    await viewer.send(type="ping")
    await viewer.until_type("pong")
    await in_db(writer.open)()
    await viewer.send(type="ping")
    assert (await viewer.receive())["type"] == "pong"
    assert await viewer.socket.receive_nothing(timeout=0.3)


async def test_a_reused_run_shows_the_log_it_was_answered_from(
    connect: Connect, run: Run, member: User, writer: LogWriter
) -> None:
    await in_db(writer.open)()
    await in_db(writer.tiles)(20)
    await in_db(writer.finish)()
    reuse = await in_db(RunFactory)(
        owner=member, model=run.model, prompts=run.prompts, status=Status.SUCCEEDED, reused_from=run
    )
    viewer = await connect(member)
    await viewer.subscribe(reuse)
    await viewer.until_seq(22)
    assert_same(viewer.replica.panels, await in_db(stored)(run.pk))
    assert viewer.replica.run["id"] == str(reuse.pk)


async def test_a_place_computed_again_leaves_no_gap_and_shows_the_newest_value(
    connect: Connect, run: Run, member: User
) -> None:
    writer = LogWriter(run.pk, rows=2, columns=2, planes=1)
    await in_db(writer.open)()
    for value in (0.25, 0.75):
        tile = Tile(panel=0, r0=1, c0=1, values=np.full((1, 1, 1), value, dtype=np.float32))
        await in_db(events.append)(run.pk, [events.tile_event(tile)])
    viewer = await connect(member)
    await viewer.subscribe(run)
    await viewer.until_seq(3)
    assert viewer.replica.panels[0].view(np.float32)[0, 1, 1] == 0.75


async def test_a_change_without_an_event_reaches_the_page(connect: Connect, run: Run, member: User) -> None:
    viewer = await connect(member)
    await viewer.subscribe(run)
    await viewer.until_type("run")
    await in_db(Run.objects.filter(pk=run.pk).update)(title="A better title")
    await viewer.until(lambda message: message["type"] == "run" and message["run"]["title"] == "A better title")


async def test_progress_of_the_run_is_told_at_most_once_a_second(
    connect: Connect, run: Run, member: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PROGRESS_SECONDS", 3600.0)
    writer = LogWriter(run.pk, rows=4, columns=4)
    await in_db(writer.open)()
    viewer = await connect(member)
    await viewer.subscribe(run)
    await viewer.until_seq(1)
    for _ in range(10):
        await viewer.until_seq(await in_db(writer.tiles)(1))
    assert sum('"type":"run"' in frame for frame in viewer.frames if isinstance(frame, str)) == 1


# -- slow viewers -----------------------------------------------------------------------------------------------------
async def test_a_viewer_that_never_acknowledges_gets_one_window_and_no_more(
    connect: Connect, run: Run, member: User
) -> None:
    writer = LogWriter(run.pk, rows=2, columns=2)
    await in_db(writer.open)()
    slow, quick = await connect(member), await connect(member)
    slow.acknowledges = False
    for viewer in (slow, quick):
        await viewer.subscribe(run)
        await viewer.until_seq(1)
    for _ in range(30):
        last = await in_db(writer.log)("x" * 10_000, 10)
        await quick.until_seq(last)
    received = 0
    while not await slow.socket.receive_nothing(timeout=0.3):
        received += len((await slow.socket.receive_output())["text"])
    assert 2**20 - 20_000 < received <= 2**20
    assert quick.replica.seq == 301


async def test_a_slow_viewer_skips_to_the_newest_state_when_it_acknowledges(
    connect: Connect, run: Run, member: User
) -> None:
    writer = LogWriter(run.pk, rows=20, columns=20)
    await in_db(writer.open)()
    viewer = await connect(member)
    viewer.acknowledges = False
    await viewer.subscribe(run)
    await viewer.until_seq(1)
    for _ in range(4):
        await in_db(writer.tiles)(100)
        await in_db(writer.log)("x" * 40_000, 10)
    seen = viewer.replica.seq
    async with asyncio.timeout(10):
        while not await viewer.socket.receive_nothing(timeout=0.3):
            await viewer.receive()
    assert seen < viewer.replica.seq < 441
    viewer.acknowledges = True
    await viewer.send(type="ack", handle=viewer.replica.handle, seq=viewer.replica.seq)
    await viewer.until_seq(441)
    assert viewer.replica.snapshots == 1
    assert_same(viewer.replica.panels, await in_db(stored)(run.pk))


# -- the queue --------------------------------------------------------------------------------------------------------
async def test_the_queue_is_told_in_numbers_when_it_changes(
    connect: Connect, member: User, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "QUEUE_POLL_SECONDS", 0.03)
    viewer = await connect(member)
    await viewer.send(type="subscribe", topic="queue")
    event = await viewer.until_type("event")
    assert (event["kind"], event["data"]) == ("queue", {"queued": 0, "running": 1, "workers": 0})
    await in_db(RunFactory)(owner=member, model=run.model, prompts=run.prompts)
    event = await viewer.until_type("event")
    assert event["data"]["queued"] == 1


@pytest.mark.parametrize(("who", "code"), [("nobody", 4401), ("stranger", 4403)])
async def test_the_queue_is_for_the_lab(connect: Connect, stranger: User, who: str, code: int) -> None:
    viewer = await connect(stranger if who == "stranger" else None)
    await viewer.send(type="subscribe", topic="queue")
    assert (await viewer.until_type("close"))["code"] == code
