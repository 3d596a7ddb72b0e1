"""Play the worker's part in a process of its own: `python -m tests.produce make|write|dump|set …`.

Tests and benchmarks of the live socket start this beside a web server, on whatever database the environment names.
Events go through `interp_app.runs.events.append`, as a worker's do.
"""

import argparse
import json
import os
import random
import sys
import time
import uuid
from pathlib import Path

from interp_app.mode import configure

configure()
import django  # noqa: E402

django.setup()

import numpy as np  # noqa: E402
from django.conf import settings  # noqa: E402
from django.test import Client  # noqa: E402

from interp_app.runs import doorbell  # noqa: E402
from interp_app.runs.models import Run, Status  # noqa: E402
from tests.factories import RunFactory, UserFactory  # noqa: E402
from tests.live import LogWriter, stored  # noqa: E402

CLOCK = "sent at "
"""A log line that starts so carries the time before it was written: viewers measure how long it took to arrive."""


class LossyDoorbell(doorbell.Doorbell):
    """Loses a share of its bells on the way."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._random = random.Random(0)
        self.lost = 0

    async def _send(self, layer: object, run_id: str, seq: int) -> None:
        if self._random.random() < self._share:
            self.lost += 1
        else:
            await super()._send(layer, run_id, seq)


def make(options: argparse.Namespace) -> None:
    """A running run and `accounts` members of the lab who are signed in; printed as JSON."""
    # Every process counts its factories' sequences from 0, so names come from elsewhere.
    users = [UserFactory(username=uuid.uuid4().hex) for _ in range(options.accounts)]
    run = RunFactory(
        owner=users[0], status=Status.RUNNING, model__slug=uuid.uuid4().hex, prompts__prompt_set__owner=users[0]
    )
    cookies = []
    for user in users:
        client = Client()
        client.force_login(user)
        cookies.append(client.cookies[settings.SESSION_COOKIE_NAME].value)
    json.dump({"run": str(run.pk), "cookies": cookies}, sys.stdout)


def write(options: argparse.Namespace) -> None:
    """Write the log; prints its last number."""
    if options.lose:
        doorbell._current = (os.getpid(), LossyDoorbell(options.lose))
    writer = LogWriter(options.run, rows=options.rows, columns=options.columns, planes=options.planes)
    last = writer.open() if options.open else 0
    due = time.monotonic()
    for _ in range(options.lines):
        last = writer.log("x" * options.width, options.batch)
    while writer.cells_left and not options.lines:
        due += 1 / options.rate if options.rate else 0
        time.sleep(max(0.0, due - time.monotonic()))
        last = writer.tiles(options.batch, line=f"{CLOCK}{time.time()}")
    if options.finish:
        last = writer.finish()
    doorbell.flush()
    json.dump({"last_seq": last}, sys.stdout)


def dump(options: argparse.Namespace) -> None:
    """The run's panels as the database has them, as an .npz file of words."""
    np.savez(options.path, **{str(index): words for index, words in stored(options.run).items()})


def change(options: argparse.Namespace) -> None:
    """Change the run's visibility."""
    Run.objects.filter(pk=options.run).update(visibility=options.visibility)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="tests.produce")
    commands = root.add_subparsers(required=True)
    one = commands.add_parser("make")
    one.add_argument("--accounts", type=int, default=1)
    one.set_defaults(act=make)
    one = commands.add_parser("write")
    one.add_argument("run", type=uuid.UUID)
    one.add_argument("--rows", type=int, default=12)
    one.add_argument("--columns", type=int, default=16)
    one.add_argument("--planes", type=int, default=2)
    one.add_argument("--batch", type=int, default=4, help="tiles (or lines) in one transaction")
    one.add_argument("--rate", type=float, default=0, help="transactions a second; 0: as fast as it goes")
    one.add_argument("--lines", type=int, default=0, help="transactions of log lines instead of tiles")
    one.add_argument("--width", type=int, default=100, help="characters of such a line")
    one.add_argument("--lose", type=float, default=0, help="share of bells lost")
    one.add_argument("--no-open", dest="open", action="store_false", help="do not announce the panel")
    one.add_argument("--finish", action="store_true")
    one.set_defaults(act=write)
    one = commands.add_parser("dump")
    one.add_argument("run", type=uuid.UUID)
    one.add_argument("path", type=Path)
    one.set_defaults(act=dump)
    one = commands.add_parser("set")
    one.add_argument("run", type=uuid.UUID)
    one.add_argument("visibility")
    one.set_defaults(act=change)
    return root


if __name__ == "__main__":
    chosen = parser().parse_args()
    chosen.act(chosen)
