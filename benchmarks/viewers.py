"""How long an event takes from the worker to the browser: one run, written four times a second, watched by many.

    python -m benchmarks.viewers [--viewers 1 50 200] [--seconds 15] [--rate 4]

A private database and Redis, one web process (`manage.py web`), one process that plays the worker, and the viewers as
real sockets in this process. Each event carries the time before it was written, so a latency covers the transaction,
the bell, the feed's queries, the fan-out and reading it here. Every viewer's cells are compared with the database.
Writes benchmarks/results/viewers.md.
"""

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.realtime import Redis, Site, Tab, database, finished
from tests.replica import assert_same

RESULTS = Path(__file__).parent / "results"
SOCKETS_AN_ACCOUNT = 20
COLUMNS = 12


@dataclass(frozen=True)
class Figures:
    """One row of the report. Milliseconds; `web_cpu` is a share of one core while the run was written."""

    viewers: int
    events: int
    p50: float
    p95: float
    worst: float
    web_cpu: float
    web_megabytes: float


async def watch(site: Site, viewers: int, seconds: float, rate: float) -> Figures:
    """Write one run while `viewers` watch it."""
    accounts = -(-viewers // SOCKETS_AN_ACCOUNT)
    made = await asyncio.to_thread(site.make, accounts)
    tabs = [Tab(site, made.run, made.cookies[n // SOCKETS_AN_ACCOUNT]) for n in range(viewers)]
    for first in range(0, viewers, SOCKETS_AN_ACCOUNT):
        await asyncio.gather(*(tab.open() for tab in tabs[first : first + SOCKETS_AN_ACCOUNT]))
    rows = max(1, round(seconds * rate / COLUMNS))
    options = ("--rows", rows, "--columns", COLUMNS, "--batch", 1, "--rate", rate, "--finish")
    cpu, started = cpu_seconds(site.pid), time.monotonic()
    last = await finished(site.writing(made.run, *options))
    await asyncio.gather(*(tab.until_seq(last, 120.0) for tab in tabs))
    busy = (cpu_seconds(site.pid) - cpu) / (time.monotonic() - started)
    expected = await asyncio.to_thread(site.stored, made.run)
    for tab in tabs:
        assert_same(tab.replica.panels, expected)
    latencies = sorted(1000 * seconds for tab in tabs for seconds in tab.latencies)
    figures = Figures(
        viewers=viewers,
        events=last,
        p50=statistics.median(latencies),
        p95=latencies[int(0.95 * (len(latencies) - 1))],
        worst=latencies[-1],
        web_cpu=busy,
        web_megabytes=site.memory_bytes() / 2**20,
    )
    await asyncio.gather(*(tab.close() for tab in tabs))
    return figures


def cpu_seconds(pid: int) -> float:
    """User and system time that a process used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(rows: list[Figures], options: argparse.Namespace, load: float) -> str:
    lines = [
        "# Live viewers of one run",
        "",
        f"`python -m benchmarks.viewers --seconds {options.seconds:g} --rate {options.rate:g}` · "
        f"{platform.machine()}, {os.cpu_count()} cores shared by web process, Postgres, Redis, writer and all viewers; "
        f"load average {load:.1f} before the start.",
        "",
        "Each write is one transaction of a tile and a log line. Latency runs from before the write "
        "until the viewer has read it. Every viewer saw every cell, bit for bit.",
        "",
        "| viewers | events | p50 ms | p95 ms | max ms | web process, share of a core | web memory MB |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.viewers} | {row.events} | {row.p50:.0f} | {row.p95:.0f} | {row.worst:.0f} "
        f"| {row.web_cpu:.0%} | {row.web_megabytes:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--viewers", type=int, nargs="+", default=[1, 50, 200])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=4.0, help="writes a second")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="patchbay-viewers-") as name:
        folder = Path(name)
        redis = Redis(folder)
        redis.start()
        try:
            with database() as url:
                mode = {"PATCHBAY_MODE": "services", "PATCHBAY_DATABASE_URL": url, "PATCHBAY_REDIS_URL": redis.url}
                site = Site(mode, folder)
                site.start()
                try:
                    rows = [asyncio.run(watch(site, count, options.seconds, options.rate)) for count in options.viewers]
                finally:
                    site.stop()
        finally:
            redis.kill()
    text = report(rows, options, load)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "viewers.md").write_text(text)


if __name__ == "__main__":
    main()
