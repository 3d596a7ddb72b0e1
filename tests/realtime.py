"""A web server of our own and real sockets to it, for the live tests and for `benchmarks.viewers`.

Nothing here touches the ORM: rows are made and read back by `tests.produce`, in processes of their own.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from tests.replica import Replica, Words

ROOT = Path(__file__).resolve().parents[1]
POSTGRES = os.environ.get("PATCHBAY_TEST_DATABASE_URL", "postgres://root@127.0.0.1:5432/postgres")
START_SECONDS = 60.0
ACK_SECONDS = 0.1
CLOCK = "sent at "


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def database() -> Iterator[str]:
    """An empty database on the test server, dropped at the end; its URL."""
    name = f"patchbay_live_{secrets.token_hex(4)}"
    server = POSTGRES.rsplit("/", 1)[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield f"{server}/{name}"
    finally:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class Redis:
    """A redis-server of our own that keeps nothing, and can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        arguments = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [*arguments, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait(self._answers, "Redis")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        return False


@dataclass
class Made:
    """What `tests.produce make` made."""

    run: str
    cookies: list[str]


class Site:
    """A web process on a database, and the commands that play its users and worker."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "web.log"
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "PYTHONWARNINGS": "ignore",
            "PATCHBAY_DATA_DIR": str(folder),
            "PATCHBAY_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "PATCHBAY_RUN_REAP_SECONDS": "3600",  # the runs here have no worker, and must not be taken for lost
            "PATCHBAY_SECRET_KEY": "for-live-tests-" + "0123456789abcdef" * 3,
            **environment,
        }
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Migrate, then serve."""
        self._python("manage.py", "migrate", "--verbosity", "0")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "web", "--port", str(self.port)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        _wait(self._answers, "the web process", self._process, self.log)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(15)

    def make(self, accounts: int = 1) -> Made:
        """A running run, and people of the lab who are signed in."""
        return Made(**json.loads(self._python("-m", "tests.produce", "make", "--accounts", str(accounts))))

    def write(self, run: str, *options: object) -> int:
        """Write the run's log, wait for the end, and return its last number."""
        return int(json.loads(self._python("-m", "tests.produce", "write", run, *map(str, options)))["last_seq"])

    def writing(self, run: str, *options: object) -> "subprocess.Popen[bytes]":
        """Start writing the run's log; `finished` gives its last number."""
        command = [sys.executable, "-m", "tests.produce", "write", run, *map(str, options)]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE)

    def set_visibility(self, run: str, visibility: str) -> None:
        self._python("-m", "tests.produce", "set", run, visibility)

    def stored(self, run: str) -> dict[int, Words]:
        """The run's panels as the database has them."""
        path = self._folder / f"{run}.npz"
        self._python("-m", "tests.produce", "dump", run, str(path))
        with np.load(path) as arrays:
            return {int(index): arrays[index] for index in arrays}

    def memory_bytes(self) -> int:
        """The web process's resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _python(self, *arguments: str) -> bytes:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, check=False, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.stderr.decode()[-3000:]}")
        return done.stdout

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2):
            return True
        return False


async def finished(process: "subprocess.Popen[bytes]") -> int:
    """The last number of a log that `Site.writing` wrote."""
    output, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    return int(json.loads(output)["last_seq"])


@dataclass
class Tab:
    """One viewer: a real socket with what it learned. `bytes_per_second` makes it a slow one."""

    site: Site
    run: str
    cookie: str | None = None
    bytes_per_second: float | None = None
    replica: Replica = field(default_factory=Replica)
    latencies: list[float] = field(default_factory=list)
    bytes_received: int = 0
    closed: int | None = None
    _socket: ClientConnection | None = None
    _task: asyncio.Task[None] | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        """Connect, subscribe from what is known, and go on receiving in the background."""
        headers = {"Cookie": f"sessionid={self.cookie}"} if self.cookie else {}
        slow: dict[str, Any] = {}
        if self.bytes_per_second:
            slow = {"sock": _small_socket(self.site.port), "max_queue": 1}
        self._socket = await open_socket(
            f"ws://127.0.0.1:{self.site.port}/ws/",
            origin=f"http://127.0.0.1:{self.site.port}",  # type: ignore[arg-type]
            additional_headers=headers,
            compression=None,
            max_size=None,
            ping_interval=None,
            **slow,
        )
        since = self.replica.seq
        await self._say(type="subscribe", topic=f"run:{self.run}", since=since)
        self._task = asyncio.create_task(self._receive(self._socket))

    async def close(self) -> None:
        """Leave properly."""
        if self._socket is not None:
            await self._socket.close()
        await self._ended()

    async def drop(self) -> None:
        """Lose the line without a word."""
        if self._socket is not None:
            self._socket.transport.abort()
        await self._ended()

    async def until_seq(self, seq: int, seconds: float) -> None:
        await self.until(lambda: self.replica.seq >= seq, seconds)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until what is known fulfils the condition."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._task is not None and self._task.done():
                        self._task.result()
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds} s: at {self.replica.seq}, closed {self.closed}, errors {self.replica.errors}"
            ) from None

    async def _receive(self, line: ClientConnection) -> None:
        acknowledging = asyncio.create_task(self._acknowledge())
        try:
            async for frame in line:
                self._take(frame)
                if self.bytes_per_second:
                    await asyncio.sleep(len(frame) / self.bytes_per_second)
        except ConnectionClosed:
            pass
        finally:
            acknowledging.cancel()
            self.closed = line.close_code or 1006
            self._moved.set()

    async def _acknowledge(self) -> None:
        """The highest number taken in, at most every 100 ms."""
        acknowledged = -1
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(ACK_SECONDS)
                if self.replica.handle and acknowledged < self.replica.seq:
                    acknowledged = self.replica.seq
                    await self._say(type="ack", handle=self.replica.handle, seq=acknowledged)

    def _take(self, frame: str | bytes) -> None:
        self.bytes_received += len(frame)
        if isinstance(frame, str) and CLOCK in frame:
            message = json.loads(frame)
            if message["type"] == "event":
                self.latencies.append(time.time() - float(message["data"]["message"].removeprefix(CLOCK)))
        self.replica.receive(frame)
        self._moved.set()

    async def _say(self, **message: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(message))

    async def _ended(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5)
            self._task.cancel()


def _small_socket(port: int) -> socket.socket:
    """A connected socket with little room, so that a slow reader holds up its sender soon."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    line.connect(("127.0.0.1", port))
    line.setblocking(False)
    return line


def _wait(
    ready: Callable[[], bool], what: str, process: "subprocess.Popen[bytes] | None" = None, log: Path | None = None
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError(f"{what} did not start: {log.read_text()[-3000:] if log else ''}")
        time.sleep(0.05)
