"""Many viewers of one run, and slow ones among them."""

import asyncio
import statistics
from collections.abc import Callable, Iterator

import pytest

from tests.realtime import Made, Redis, Site, Tab, database, finished
from tests.replica import assert_same

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]
PATIENCE_SECONDS = 60.0
SOCKETS_AN_ACCOUNT = 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    redis.start()
    with database() as url:
        environment = {"PATCHBAY_MODE": "services", "PATCHBAY_DATABASE_URL": url, "PATCHBAY_REDIS_URL": redis.url}
        server = Site(environment, tmp_path_factory.mktemp("web"))
        server.start()
        yield server
        server.stop()
    redis.kill()


def tabs_of(site: Site, made: Made, count: int) -> list[Tab]:
    return [Tab(site, made.run, made.cookies[n // SOCKETS_AN_ACCOUNT]) for n in range(count)]


async def open_all(tabs: list[Tab]) -> None:
    """Connect, a few at a time: browsers do not all arrive in the same millisecond either."""
    for first in range(0, len(tabs), 20):
        await asyncio.gather(*(tab.open() for tab in tabs[first : first + 20]))
    await asyncio.gather(*(tab.until(lambda tab=tab: bool(tab.replica.run), PATIENCE_SECONDS) for tab in tabs))


async def close_all(tabs: list[Tab]) -> None:
    await asyncio.gather(*(tab.close() for tab in tabs))


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


@pytest.mark.asyncio
async def test_fifty_viewers_of_one_run_all_see_every_cell(site: Site) -> None:
    made = site.make(accounts=3)
    tabs = tabs_of(site, made, 50)
    await open_all(tabs)
    writing = site.writing(made.run, "--rows", 12, "--columns", 16, "--batch", 8, "--rate", 4, "--finish")
    last = await finished(writing)
    await asyncio.gather(*(tab.until_seq(last, PATIENCE_SECONDS) for tab in tabs))
    expected = site.stored(made.run)
    for tab in tabs:
        assert_same(tab.replica.panels, expected)
        assert tab.replica.snapshots == 0
    await close_all(tabs)


@pytest.mark.asyncio
async def test_two_hundred_viewers_are_served_in_time(
    site: Site, record_testsuite_property: Callable[[str, object], None]
) -> None:
    made = site.make(accounts=10)
    tabs = tabs_of(site, made, 200)
    await open_all(tabs)
    writing = site.writing(made.run, "--rows", 6, "--columns", 10, "--batch", 2, "--rate", 4, "--finish")
    last = await finished(writing)
    await asyncio.gather(*(tab.until_seq(last, PATIENCE_SECONDS) for tab in tabs))
    latencies = [seconds for tab in tabs for seconds in tab.latencies]
    assert len(latencies) == 200 * 30
    record_testsuite_property("viewers_200_latency_p50_seconds", statistics.median(latencies))
    record_testsuite_property("viewers_200_latency_p95_seconds", p95(latencies))
    assert p95(latencies) < 1.5, "0.5 s on a quiet machine, three times that on a shared one"
    await close_all(tabs)


@pytest.mark.asyncio
async def test_a_throttled_viewer_holds_up_nobody_and_catches_up(site: Site) -> None:
    made = site.make()
    quick = Tab(site, made.run, made.cookies[0])
    slow = [Tab(site, made.run, made.cookies[0], bytes_per_second=60_000) for _ in range(5)]
    await open_all([quick, *slow])
    before = site.memory_bytes()
    options = ("--rows", 4, "--columns", 5, "--planes", 2, "--batch", 1, "--rate", 8)
    await quick.until_seq(await asyncio.to_thread(site.write, made.run, *options), PATIENCE_SECONDS)
    # Lines of 8 MB in all: far more than the slow ones take in, in windows of 1 MB.
    last = await asyncio.to_thread(site.write, made.run, "--no-open", "--lines", 80, "--batch", 10, "--width", 10_000)
    await quick.until_seq(last, PATIENCE_SECONDS)
    assert p95(quick.latencies) < 1.0
    assert site.memory_bytes() - before < 64 * 2**20
    assert all(tab.replica.seq < last for tab in slow)
    for tab in slow:
        tab.bytes_per_second = None
    expected = site.stored(made.run)
    for tab in slow:
        await tab.until_seq(last, PATIENCE_SECONDS)
        assert tab.bytes_received < 6 * 2**20, "it skipped what it could not take in"
        assert tab.replica.snapshots >= 1
        assert_same(tab.replica.panels, expected)
    await close_all([quick, *slow])
