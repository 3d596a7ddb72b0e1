"""One topic on one socket: what to send next, and how much the viewer has not acknowledged yet.

A subscription is a cursor into its feed. At most `WINDOW_BYTES` are under way to a viewer; when the window is full the
subscription stalls, and once the viewer acknowledges again it gets the newest state instead of what it missed.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from interp_app.runs.feed import QueueFeed, RunFeed
from interp_app.runs.feed_reads import Entry

WINDOW_BYTES: Final = 2**20
BATCH_EVENTS: Final = 32

Deliver = Callable[[bytes | str], Awaitable[None]]


class Window:
    """The frames under way to a viewer, by number: an acknowledgement of `seq` covers everything up to it."""

    def __init__(self) -> None:
        self.unacked_bytes = 0
        self._acked = -1
        self._under_way: deque[tuple[int, int]] = deque()

    def admits(self, size: int) -> bool:
        """Whether a frame of `size` bytes may go out. A frame larger than the window may, alone."""
        return self.unacked_bytes == 0 or self.unacked_bytes + size <= WINDOW_BYTES

    @property
    def half_empty(self) -> bool:
        return self.unacked_bytes <= WINDOW_BYTES // 2

    def sent(self, seq: int, size: int) -> None:
        """Count a frame, unless its number is acknowledged already (a `run` message repeats the number it has)."""
        if seq > self._acked:
            self._under_way.append((seq, size))
            self.unacked_bytes += size

    def acknowledge(self, seq: int) -> None:
        self._acked = max(self._acked, seq)
        while self._under_way and self._under_way[0][0] <= seq:
            self.unacked_bytes -= self._under_way.popleft()[1]


class RunSubscription:
    """A viewer of a run's log. `cursor` is the number of the last entry sent."""

    def __init__(self, feed: RunFeed, handle: int, viewer: Callable[[], Any]) -> None:
        """`viewer` gives the account as it is now: what a run's message shows depends on it."""
        self.feed = feed
        self.handle = handle
        self._viewer = viewer
        self.cursor = 0
        self.closed = False
        self.window = Window()
        self._stalled = False
        self._run_version = 0

    async def begin(self, since: int) -> str:
        """Choose between `replay` of what follows `since` and `snapshot`; nothing is sent yet."""
        if await self.feed.covers(since):
            self.cursor = since
            return "replay"
        self._stalled = True
        return "snapshot"

    def acknowledge(self, seq: int) -> None:
        self.window.acknowledge(min(seq, self.cursor))

    async def push(self, deliver: Deliver) -> bool:
        """Send the next batch; True where more is ready. What is not sent now waits for an ack or a wake."""
        if self._run_version == 0 and self.feed.run_version:
            await self._push_run(deliver)
        if self.cursor < self.feed.base:
            self._stalled = True
        if self._stalled and not await self._push_snapshot(deliver):
            return False
        for entry in self.feed.entries_after(self.cursor, BATCH_EVENTS):
            if not self.window.admits(entry.size):
                self._stalled = True
                return False
            await self._send(entry, deliver)
            if self.closed:
                return False
            self.cursor = entry.seq
        if self.cursor < self.feed.last_seq:
            return True
        if self._run_version != self.feed.run_version:
            await self._push_run(deliver)
        return False

    async def _push_snapshot(self, deliver: Deliver) -> bool:
        if not self.window.half_empty:
            return False
        snapshot = await self.feed.snapshot(self.cursor)
        self.cursor = snapshot.seq
        for entry in snapshot.entries:
            if self.closed:
                return False
            await self._send(entry, deliver)
        self._stalled = False
        return True

    async def _push_run(self, deliver: Deliver) -> None:
        self._run_version = self.feed.run_version
        entry = self.feed.run_entry(self.cursor, self._viewer())
        if entry is not None:
            await self._send(entry, deliver)

    async def _send(self, entry: Entry, deliver: Deliver) -> None:
        self.window.sent(entry.seq, entry.size)
        await deliver(entry.addressed(self.handle))


class QueueSubscription:
    """A viewer of the queue: only the newest numbers matter, and they are small."""

    def __init__(self, feed: QueueFeed, handle: int) -> None:
        self.feed = feed
        self.handle = handle
        self.closed = False
        self._version = 0

    def acknowledge(self, seq: int) -> None:
        """Nothing waits for acknowledgements here."""

    async def push(self, deliver: Deliver) -> bool:
        if self.feed.frame is not None and self._version != self.feed.version:
            self._version = self.feed.version
            await deliver(self.feed.frame.addressed(self.handle))
        return False


Subscription = RunSubscription | QueueSubscription
