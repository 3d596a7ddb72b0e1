"""A socket application of its own for each test, and viewers on it, in one event loop on the real database."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.test import Client
from django.urls import path

from interp_app.core.models import User
from interp_app.core.origins import SameOriginValidator
from interp_app.runs.consumers import SocketApp
from interp_app.runs.models import Run, Status
from tests.factories import RunFactory
from tests.live import LogWriter
from tests.replica import Replica

PATIENCE_SECONDS = 10.0
HOST = b"testserver"

in_db = database_sync_to_async


class Viewer:
    """A browser tab: a socket, and what it learned from it."""

    def __init__(self, application: Any, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {"type": "websocket", "path": "/ws/", "query_string": b"", "headers": headers, "subprotocols": []}
        self.socket = ApplicationCommunicator(application, scope)
        self.replica = Replica()
        self.acknowledges = True
        self._acknowledged_at = 0.0
        self.frames: list[str | bytes] = []

    async def connect(self) -> None:
        """Raises `ConnectionRefusedError`."""
        await self.socket.send_input({"type": "websocket.connect"})
        answer = await self.socket.receive_output(timeout=PATIENCE_SECONDS)
        if answer["type"] != "websocket.accept":
            raise ConnectionRefusedError(answer)

    async def disconnect(self) -> None:
        await self.socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.socket.wait(timeout=PATIENCE_SECONDS)

    async def send(self, **message: Any) -> None:
        await self.send_text(json.dumps(message))

    async def send_text(self, text: str) -> None:
        await self.socket.send_input({"type": "websocket.receive", "text": text})

    async def subscribe(self, run: Run, since: int = 0) -> None:
        self.replica.seq = since
        await self.send(type="subscribe", topic=f"run:{run.pk}", since=since)

    async def receive(self) -> dict[str, Any]:
        """The next message; a tile as {"type": "tile"}. Acknowledges now and then, as a browser does."""
        output = await self.socket.receive_output(timeout=PATIENCE_SECONDS)
        if output["type"] == "websocket.close":
            return {"type": "close", "code": output["code"]}
        frame = output["text"] if output.get("text") is not None else output["bytes"]
        self.frames.append(frame)
        self.replica.receive(frame)
        message = json.loads(frame) if isinstance(frame, str) else {"type": "tile", "bytes": frame}
        if time.monotonic() - self._acknowledged_at > 0.1:
            await self.acknowledge()
        return message

    async def acknowledge(self) -> None:
        if self.acknowledges and self.replica.handle:
            self._acknowledged_at = time.monotonic()
            await self.send(type="ack", handle=self.replica.handle, seq=self.replica.seq)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Receive until a message fulfils the condition."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                message = await self.receive()
                if condition(message):
                    return message

    async def until_type(self, kind: str) -> dict[str, Any]:
        return await self.until(lambda message: message["type"] == kind)

    async def until_seq(self, seq: int) -> None:
        """Receive until everything up to `seq` is known."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.replica.seq < seq:
                message = await self.receive()
                assert message["type"] != "close", f"closed at {self.replica.seq}: {message} {self.replica.errors}"
        await self.acknowledge()


Connect = Callable[..., Any]


@pytest.fixture(autouse=True)
def _often(settings: Any) -> None:
    """Poll quickly: these tests have no bells."""
    settings.FEED_POLL_SECONDS = 0.03
    settings.ALLOWED_HOSTS = ["testserver", "lab.example"]


@pytest_asyncio.fixture
async def connect(transactional_db: None, _often: None) -> AsyncIterator[Connect]:
    """`await connect(user)` gives an accepted `Viewer`; sockets still open at the end are closed."""
    inner = URLRouter([path("ws/", SocketApp())])  # type: ignore[arg-type]
    application = SameOriginValidator(AllowedHostsOriginValidator(AuthMiddlewareStack(inner)))
    viewers: list[Viewer] = []

    async def connect(
        user: User | None = None, *, origin: bytes | None = b"http://testserver", cookie: str | None = None
    ) -> Viewer:
        headers = [(b"host", HOST)]
        if origin is not None:
            headers.append((b"origin", origin))
        session = cookie or (await in_db(session_cookie)(user) if user else None)
        if session:
            headers.append((b"cookie", f"sessionid={session}".encode()))
        viewer = Viewer(application, headers)
        await viewer.connect()
        viewers.append(viewer)
        assert (await viewer.receive())["type"] in ("hello", "error")
        return viewer

    yield connect
    for viewer in viewers:
        with contextlib.suppress(Exception):
            await viewer.disconnect()


def session_cookie(user: User) -> str:
    """A session of a signed-in browser."""
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


@pytest.fixture
def run(transactional_db: None, member: User) -> Run:
    """A running run of `member`, shared with the lab, with nothing in its log yet."""
    return RunFactory(owner=member, status=Status.RUNNING)


@pytest.fixture
def writer(run: Run) -> LogWriter:
    return LogWriter(run.pk, rows=4, columns=5)
