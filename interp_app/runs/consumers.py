"""The socket `/ws/`: watch runs and the queue as they change. The log over HTTP says the same, for scripts.

Client → server, text JSON: `subscribe {topic, since}`, `unsubscribe {handle}`, `ack {handle, seq}`, `ping`.
Server → client: `hello`, `subscribed`, `run`, `event`, `snapshot`, `pong`, `error`, and binary tile frames (`frames`).
A client acknowledges a snapshot's number once all its panels' frames are here, as they all bear it.
Close codes: 4401 sign in (again), 4403 not allowed, 4404 gone or not visible, 4429 too much, 1012 restart.

Every socket has one reader, one writer and one checker. The writer sends only what its subscriptions' windows admit and
waits for the transport, so a slow viewer holds up nobody but itself; nothing is queued for it.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import structlog
from channels.auth import get_user
from django.contrib.auth.models import AnonymousUser

from interp_app.core.metrics import SOCKETS
from interp_app.runs import frames
from interp_app.runs.feed import FeedHub, in_thread
from interp_app.runs.feed_reads import visible_runs
from interp_app.runs.subscriptions import QueueSubscription, RunSubscription, Subscription

logger = structlog.get_logger(__name__)

PROTOCOL_VERSION: Final = 1
MAX_SOCKETS_PER_USER: Final = 20
MAX_SOCKETS_PER_ADDRESS: Final = 100
"""For viewers who are not signed in; a whole lab may share an address."""
MAX_SUBSCRIPTIONS: Final = 16
MAX_INBOUND_BYTES: Final = 4096
MESSAGES_PER_SECOND: Final = 20
MESSAGE_BURST: Final = 100
"""A stalled network delivers seconds of acknowledgements at once; only the rate over some seconds counts."""
RECHECK_SECONDS = 60.0
READY_SECONDS = 10.0
"""How long a subscription waits for the database before the client is told to try later."""
FAREWELL_SECONDS: Final = 5.0

SIGN_IN, FORBIDDEN, GONE, TOO_MUCH, TRY_LATER = 4401, 4403, 4404, 4429, 1013

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class SocketApp:
    """The ASGI application of `/ws/`: one an event loop, holding its feeds and counting its sockets."""

    def __init__(self) -> None:
        self.hub = FeedHub()
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        user = scope["user"]
        who, limit = f"user {user.pk}", MAX_SOCKETS_PER_USER
        if not user.is_authenticated:
            who, limit = f"address {(scope.get('client') or ['unknown'])[0]}", MAX_SOCKETS_PER_ADDRESS
        await send({"type": "websocket.accept"})
        if self._open[who] >= limit:
            await send({"type": "websocket.send", "text": _error("too_many_sockets", f"At most {limit} sockets.")})
            await send({"type": "websocket.close", "code": TOO_MUCH})
            return
        self._open[who] += 1
        SOCKETS.inc()
        try:
            await Connection(self.hub, scope, receive, send).serve()
        finally:
            SOCKETS.dec()
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]


class Closing(Exception):
    """The server ends this socket."""

    def __init__(self, code: int, error: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.error = error
        self.detail = detail


class BadMessage(Exception):
    """The client said something that is not in the protocol; it is told so and stays."""


class Connection:
    """One viewer's socket."""

    def __init__(self, hub: FeedHub, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self._hub = hub
        self._scope = scope
        self._receive = receive
        self._send = send
        self._user: Any = scope["user"]
        self._signed_in = bool(scope["user"].is_authenticated)
        self._subscriptions: dict[int, Subscription] = {}
        self._topics: dict[str, int] = {}
        self._replies: deque[str] = deque()
        self._last_handle = 0
        self._wake = asyncio.Event()
        self._check_now = asyncio.Event()
        self._tokens = float(MESSAGE_BURST)
        self._tokens_at = time.monotonic()

    # -- what feeds call --------------------------------------------------------------------------------------------
    def wake(self) -> None:
        self._wake.set()

    def recheck(self) -> None:
        self._check_now.set()

    # -- life -------------------------------------------------------------------------------------------------------
    async def serve(self) -> None:
        """Until the client leaves or the server has a reason to close."""
        self._reply({"type": "hello", "v": PROTOCOL_VERSION})
        tasks = [asyncio.create_task(work()) for work in (self._read, self._write, self._check)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for subscription in tuple(self._subscriptions.values()):
                self._end(subscription)
        await self._farewell(ended)

    async def _farewell(self, ended: Iterable[BaseException | None]) -> None:
        reason = next((one for one in ended if isinstance(one, Closing)), None)
        if reason is None:
            fault = next((one for one in ended if isinstance(one, Exception) and not isinstance(one, OSError)), None)
            if fault is None:
                return  # the client left
            logger.error("socket_failed", exc_info=fault)
            reason = Closing(TRY_LATER, "unavailable", "The server could not answer; connect again in a moment.")
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._send({"type": "websocket.send", "text": _error(reason.error, reason.detail)})
                await self._send({"type": "websocket.close", "code": reason.code, "reason": reason.error})
        except (TimeoutError, OSError):
            logger.debug("socket_gone_before_farewell")

    # -- reading ----------------------------------------------------------------------------------------------------
    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            self._spend(message)
            try:
                await self._understand(_parsed(message))
            except BadMessage as error:
                self._reply({"type": "error", "code": "bad_message", "detail": str(error)})

    def _spend(self, message: dict[str, Any]) -> None:
        """Hold the client to its rate and size. Raises `Closing`."""
        now = time.monotonic()
        self._tokens = min(MESSAGE_BURST, self._tokens + (now - self._tokens_at) * MESSAGES_PER_SECOND)
        self._tokens_at = now
        if self._tokens < 1:
            raise Closing(TOO_MUCH, "too_many_messages", f"At most {MESSAGES_PER_SECOND} messages a second.")
        self._tokens -= 1
        text = message.get("text")
        size = len(text.encode()) if text is not None else len(message.get("bytes") or b"")
        if size > MAX_INBOUND_BYTES:
            raise Closing(TOO_MUCH, "message_too_large", f"At most {MAX_INBOUND_BYTES} bytes a message.")

    async def _understand(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "subscribe":
                await self._subscribe(message)
            case "unsubscribe":
                subscription = self._subscriptions.get(_integer(message, "handle"))
                if subscription is not None:
                    self._end(subscription)
            case "ack":
                handle, seq = _integer(message, "handle"), _integer(message, "seq")
                if handle in self._subscriptions:
                    self._subscriptions[handle].acknowledge(seq)
                    self.wake()
            case "ping":
                self._reply({"type": "pong"})
            case other:
                raise BadMessage(f"Unknown type {str(other)[:40]!r}: use subscribe, unsubscribe, ack or ping.")

    async def _subscribe(self, message: dict[str, Any]) -> None:
        topic = message.get("topic")
        if not isinstance(topic, str):
            raise BadMessage('A subscription needs a topic: "run:<id>" or "queue".')
        since = _integer(message, "since", default=0)
        run_id = _run_of(topic)
        watched = str(run_id or topic)
        if watched in self._topics:
            # The same topic again replaces the old subscription: that is how a client asks for what it missed.
            self._end(self._subscriptions[self._topics[watched]])
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Closing(TOO_MUCH, "too_many_subscriptions", f"At most {MAX_SUBSCRIPTIONS} topics a socket.")
        if run_id is None:
            self._subscribe_queue(topic)
        else:
            await self._subscribe_run(topic, run_id, since)

    def _subscribe_queue(self, topic: str) -> None:
        self._require_lab()
        subscription = QueueSubscription(self._hub.watch_queue(self), self._new_handle())
        self._begin(topic, topic, subscription, seq=subscription.feed.version, mode="snapshot")

    async def _subscribe_run(self, topic: str, run_id: uuid.UUID, since: int) -> None:
        if not await in_thread(visible_runs, self._user, [run_id]):
            raise self._not_visible()
        feed = self._hub.watch_run(run_id, self)
        subscription = RunSubscription(feed, self._new_handle(), lambda: self._user)
        try:
            async with asyncio.timeout(READY_SECONDS):
                await feed.ready()
                mode = await subscription.begin(since)
        except TimeoutError:
            self._hub.leave_run(feed, self)
            raise Closing(TRY_LATER, "unavailable", "The run cannot be read; connect again in a moment.") from None
        except BaseException:
            self._hub.leave_run(feed, self)
            raise
        self._begin(topic, str(run_id), subscription, seq=feed.last_seq, mode=mode)

    def _begin(self, topic: str, watched: str, subscription: Subscription, *, seq: int, mode: str) -> None:
        handle = subscription.handle
        self._reply({"type": "subscribed", "topic": topic, "handle": handle, "seq": seq, "mode": mode})
        self._topics[watched] = handle
        self._subscriptions[handle] = subscription
        self.wake()

    def _end(self, subscription: Subscription) -> None:
        subscription.closed = True
        self._subscriptions.pop(subscription.handle, None)
        self._topics = {topic: handle for topic, handle in self._topics.items() if handle != subscription.handle}
        if isinstance(subscription, RunSubscription):
            self._hub.leave_run(subscription.feed, self)
        else:
            self._hub.leave_queue(self)

    def _new_handle(self) -> int:
        self._last_handle += 1
        return self._last_handle

    # -- writing ----------------------------------------------------------------------------------------------------
    def _reply(self, message: dict[str, Any]) -> None:
        # Replies are bounded by the rate of messages; a client that sends and never reads is ended here.
        if len(self._replies) >= 2 * MESSAGE_BURST:
            raise Closing(TOO_MUCH, "not_reading", "The client sends without reading.")
        self._replies.append(frames.text(message))
        self.wake()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._write_round():
                pass

    async def _write_round(self) -> bool:
        while self._replies:
            await self._deliver(self._replies.popleft())
        more = False
        for subscription in tuple(self._subscriptions.values()):
            if isinstance(subscription, RunSubscription) and subscription.feed.gone:
                raise self._not_visible()
            more |= await subscription.push(self._deliver)
        return more

    async def _deliver(self, frame: bytes | str) -> None:
        key = "text" if isinstance(frame, str) else "bytes"
        await self._send({"type": "websocket.send", key: frame})

    # -- checking ---------------------------------------------------------------------------------------------------
    async def _check(self) -> None:
        """Now and then, and when a watched run's owner, visibility or status changed: may this viewer still watch?"""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._check_now.wait(), RECHECK_SECONDS)
            self._check_now.clear()
            await self._reload_user()
            runs = [one.feed.run_id for one in self._subscriptions.values() if isinstance(one, RunSubscription)]
            if runs and set(runs) - await in_thread(visible_runs, self._user, runs):
                raise self._not_visible()
            if "queue" in self._topics:
                self._require_lab()

    async def _reload_user(self) -> None:
        """The account as it is now: signed out, disabled, or in another role. Raises `Closing`."""
        session = self._scope.get("session")
        if not self._signed_in or session is None:
            return
        fresh = type(session._wrapped if hasattr(session, "_wrapped") else session)(session.session_key)
        user = await get_user({"session": fresh})
        if isinstance(user, AnonymousUser) or user.pk != self._user.pk:
            raise Closing(SIGN_IN, "signed_out", "You are signed out; sign in again.")
        self._user = user

    def _not_visible(self) -> Closing:
        """The same words whether the run is not there or not theirs."""
        if not self._signed_in:
            return Closing(SIGN_IN, "sign_in", "There is no such public run; sign in to see more.")
        return Closing(GONE, "not_found", "There is no such run, or you may not see it.")

    def _require_lab(self) -> None:
        if not self._signed_in:
            raise Closing(SIGN_IN, "sign_in", "Sign in to watch the queue.")
        if not self._user.in_lab:
            raise Closing(FORBIDDEN, "not_allowed", "Only members of the lab may watch the queue.")


def _error(code: str, detail: str) -> str:
    return frames.text({"type": "error", "code": code, "detail": detail})


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """The client's message as an object. Raises `BadMessage`."""
    try:
        value = json.loads(message.get("text") or "")
    except (ValueError, RecursionError):
        raise BadMessage("Not JSON; messages are JSON objects in text frames.") from None
    if not isinstance(value, dict):
        raise BadMessage("A message is a JSON object with a type.")
    return value


def _run_of(topic: str) -> uuid.UUID | None:
    """The run that the topic is about; None for the queue. Raises `BadMessage`."""
    if topic == "queue":
        return None
    kind, _, name = topic.partition(":")
    if kind != "run":
        raise BadMessage(f'Unknown topic {topic[:60]!r}: use "run:<id>" or "queue".')
    try:
        return uuid.UUID(name)
    except ValueError:
        raise BadMessage(f"{name[:40]!r} is not the id of a run.") from None


def _integer(message: dict[str, Any], name: str, default: int | None = None) -> int:
    """A whole number from 0 on. Raises `BadMessage`."""
    value = message.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise BadMessage(f"{name} must be a whole number from 0.")
    return value
