"""Live runs over a real web server, a real Redis and real sockets: nothing is lost, whatever is taken away."""

import asyncio
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import InvalidStatus

from tests.deadlines import eventually
from tests.realtime import Redis, Site, Tab, database, finished
from tests.replica import assert_same

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
PATIENCE_SECONDS = 40.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def site(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab's web process, in services mode."""
    with database() as url:
        environment = {"PATCHBAY_MODE": "services", "PATCHBAY_DATABASE_URL": url, "PATCHBAY_REDIS_URL": redis.url}
        server = Site(environment, tmp_path_factory.mktemp("web"))
        server.start()
        yield server
        server.stop()


@pytest.mark.asyncio
async def test_twenty_lost_connections_lead_to_the_same_picture(site: Site) -> None:
    made = site.make()
    points = random.Random(7)
    tab = Tab(site, made.run, made.cookies[0])
    writing = site.writing(made.run, "--rows", 16, "--columns", 20, "--batch", 4, "--rate", 12, "--finish")
    for _ in range(20):
        await tab.open()
        await tab.until_seq(tab.replica.seq + points.randint(1, 7), PATIENCE_SECONDS)
        await tab.drop()
        tab.closed = None
    await tab.open()
    await tab.until_seq(await finished(writing), PATIENCE_SECONDS)
    assert len(tab.replica.modes) == 21
    assert_same(tab.replica.panels, site.stored(made.run))
    await tab.close()


@pytest.mark.asyncio
async def test_a_run_is_complete_when_half_of_the_bells_are_lost(site: Site) -> None:
    made = site.make()
    tab = Tab(site, made.run, made.cookies[0])
    await tab.open()
    writing = site.writing(made.run, "--lose", 0.5, "--rate", 4, "--batch", 8, "--finish")
    await tab.until_seq(await finished(writing), PATIENCE_SECONDS)
    assert_same(tab.replica.panels, site.stored(made.run))
    assert max(tab.latencies) < 4, "a lost bell costs more than the two seconds of the poll"
    await tab.close()


@pytest.mark.asyncio
async def test_bells_ring_again_after_redis_was_killed(site: Site, redis: Redis) -> None:
    made = site.make()
    tab = Tab(site, made.run, made.cookies[0])
    await tab.open()
    writing = site.writing(made.run, "--rate", 4, "--rows", 20, "--columns", 20, "--batch", 8, "--finish")
    await tab.until_seq(20, PATIENCE_SECONDS)
    redis.kill()
    seen = tab.replica.seq
    await tab.until_seq(seen + 10, 6.0)  # polling alone
    redis.start()
    await tab.until_seq(await finished(writing), PATIENCE_SECONDS)
    assert tab.closed is None
    assert len(tab.replica.modes) == 1, "the socket stayed open"
    assert_same(tab.replica.panels, site.stored(made.run))
    assert sorted(tab.latencies[-8:])[4] < 1.0, "bells ring again"
    await tab.close()


@pytest.mark.asyncio
async def test_who_comes_while_redis_is_away_is_served_and_hears_bells_later(site: Site, redis: Redis) -> None:
    redis.kill()
    made = site.make()
    tab = Tab(site, made.run, made.cookies[0])
    await tab.open()
    writing = site.writing(made.run, "--rate", 4, "--rows", 15, "--columns", 20, "--batch", 5, "--finish")
    await tab.until_seq(12, PATIENCE_SECONDS)
    redis.start()
    await tab.until_seq(await finished(writing), PATIENCE_SECONDS)
    assert sorted(tab.latencies[-8:])[4] < 1.0, "bells ring"
    assert_same(tab.replica.panels, site.stored(made.run))
    await tab.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("origin", [None, "https://evil.example", "http://127.0.0.1:1"])
async def test_a_forged_origin_is_refused_before_the_handshake(site: Site, origin: str | None) -> None:
    cookie = site.make().cookies[0]
    with pytest.raises(InvalidStatus) as refused:
        await open_socket(
            f"ws://127.0.0.1:{site.port}/ws/",
            origin=origin,  # type: ignore[arg-type]
            additional_headers={"Cookie": f"sessionid={cookie}"},
        )
    assert refused.value.response.status_code == 403


@pytest.mark.asyncio
async def test_no_other_address_has_a_socket(site: Site) -> None:
    origin = f"http://127.0.0.1:{site.port}"
    with pytest.raises(InvalidStatus) as refused:
        await open_socket(f"ws://127.0.0.1:{site.port}/ws/other/", origin=origin)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


@pytest.mark.asyncio
async def test_withdrawn_visibility_ends_the_watching_of_others_within_seconds(site: Site) -> None:
    made = site.make(accounts=2)
    owner, colleague = (Tab(site, made.run, cookie) for cookie in made.cookies)
    await owner.open()
    await colleague.open()
    await owner.until(lambda: bool(owner.replica.run), PATIENCE_SECONDS)
    await colleague.until(lambda: bool(colleague.replica.run), PATIENCE_SECONDS)
    await asyncio.to_thread(site.set_visibility, made.run, "private")
    await colleague.until(lambda: colleague.closed is not None, 6.0)
    assert colleague.closed == 4404
    await owner.until_seq(await asyncio.to_thread(site.write, made.run), PATIENCE_SECONDS)
    again = Tab(site, made.run, made.cookies[1])
    await again.open()
    await again.until(lambda: again.closed == 4404, PATIENCE_SECONDS)
    assert colleague.replica.seq == 0
    await owner.close()


@pytest.mark.asyncio
async def test_a_log_of_ten_thousand_events_is_caught_up_with_in_one_snapshot(site: Site) -> None:
    made = site.make()
    last = await asyncio.to_thread(site.write, made.run, "--rows", 72, "--columns", 72, "--batch", 256, "--planes", 2)
    last = await asyncio.to_thread(site.write, made.run, "--no-open", "--lines", 24, "--batch", 200)
    assert last > 10_000
    before = site.memory_bytes()
    tabs = [Tab(site, made.run, made.cookies[0]) for _ in range(10)]
    started = time.monotonic()
    await asyncio.gather(*(tab.open() for tab in tabs))
    await asyncio.gather(*(tab.until_seq(last, PATIENCE_SECONDS) for tab in tabs))
    assert time.monotonic() - started < 6.0, "2 s on a quiet machine, three times that on a shared one"
    assert tabs[0].bytes_received < 300_000
    assert site.memory_bytes() - before < 64 * 2**20
    assert_same(tabs[9].replica.panels, site.stored(made.run))
    for tab in tabs:
        await tab.close()


@pytest.mark.asyncio
async def test_embedded_mode_shows_every_cell_without_redis_and_says_so_when_it_stops(tmp_path: Path) -> None:
    site = Site({"PATCHBAY_MODE": "embedded"}, tmp_path)
    site.start()
    try:
        made = site.make()
        tab = Tab(site, made.run, made.cookies[0])
        await tab.open()
        writing = site.writing(made.run, "--rate", 6, "--batch", 8, "--finish")
        await tab.until_seq(await finished(writing), PATIENCE_SECONDS)
        assert_same(tab.replica.panels, site.stored(made.run))
        assert sorted(tab.latencies)[len(tab.latencies) // 2] < 0.75, "it looks four times a second"
    finally:
        await asyncio.to_thread(site.stop)
    await tab.until(lambda: tab.closed is not None, PATIENCE_SECONDS)
    assert tab.closed == 1012, "restart: the page connects again by itself"


def test_the_web_process_says_how_many_sockets_are_open(site: Site) -> None:
    def sockets() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith("patchbay_sockets ")).split()[1])

    async def watch() -> float:
        made = site.make()
        tab = Tab(site, made.run, made.cookies[0])
        await tab.open()
        await tab.until(lambda: bool(tab.replica.run), PATIENCE_SECONDS)
        seen = await asyncio.to_thread(sockets)
        await tab.close()
        return seen

    eventually(lambda: sockets() == 0, seconds=10)
    assert asyncio.run(watch()) == 1
    eventually(lambda: sockets() == 0, seconds=10)
