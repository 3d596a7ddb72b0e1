"""Live runs of one web process: one feed a watched run, however many viewers watch it.

    worker: commit → doorbell ─ channel layer ─▶ BellListener ─▶ RunFeed: read the log once, encode once ─▶ viewers

A feed reads on a bell, and every `settings.FEED_POLL_SECONDS` anyway: the log in the database is the truth and bells
may be lost. What it read stays in a ring of bounded size; a viewer is a cursor into that ring. A viewer whose cursor
fell out of the ring gets a snapshot, so memory depends on the runs watched and not on how slow their viewers are.
"""

import asyncio
import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import structlog
from channels.db import database_sync_to_async
from django.conf import settings

from interp_app.runs import feed_reads as reads
from interp_app.runs import frames
from interp_app.runs.bells import BellListener
from interp_app.runs.feed_reads import Entry, RunState, Snapshot
from interp_app.runs.shapes import Audience

logger = structlog.get_logger(__name__)

RING_EVENTS: Final = 1000
RING_BYTES: Final = 8 * 2**20
REPLAY_EVENTS: Final = 500
SNAPSHOT_LAG_EVENTS: Final = 50
SNAPSHOT_KEPT_SECONDS: Final = 30.0
PROGRESS_SECONDS: Final = 1.0
FINISHED_POLL_SECONDS: Final = 1.0
MIN_GAP_SECONDS: Final = 0.02
QUEUE_POLL_SECONDS: Final = 2.0

P = ParamSpec("P")
R = TypeVar("R")

_THREADS: Final = ThreadPoolExecutor(max_workers=3, thread_name_prefix="feed")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a database read in one of the feed's few threads, whose connections Django looks after."""
    result: R = await database_sync_to_async(function, thread_sensitive=False, executor=_THREADS)(*args, **kwargs)
    return result


class Viewer(Protocol):
    """What a feed tells those who watch it. Both calls return at once."""

    def wake(self) -> None:
        """There is something new to send."""

    def recheck(self) -> None:
        """Who may watch may have changed."""


class Ring:
    """The newest entries of a log: numbers `base + 1 … last` without gaps, bounded in count and bytes."""

    def __init__(self, last: int) -> None:
        self.base = last
        self._entries: list[Entry] = []
        self._bytes = 0

    @property
    def last(self) -> int:
        return self.base + len(self._entries)

    def after(self, seq: int, limit: int) -> list[Entry]:
        """The first `limit` entries after `seq`, which is not below `base`."""
        start = max(0, seq - self.base)
        return self._entries[start : start + limit]

    def extend(self, entries: list[Entry]) -> None:
        """Add the entries that follow `last`. Raises `ValueError` on a gap."""
        if [entry.seq for entry in entries] != list(range(self.last + 1, self.last + 1 + len(entries))):
            raise ValueError(f"the log has a gap after {self.last}")
        self._entries += entries
        self._bytes += sum(entry.size for entry in entries)
        self._trim()

    def prepend(self, entries: list[Entry]) -> None:
        """Add entries that end at `base`, as long as the ring has room; nothing where it has not."""
        size = sum(entry.size for entry in entries)
        fits = len(entries) + len(self._entries) <= RING_EVENTS and size + self._bytes <= RING_BYTES
        if not fits or [entry.seq for entry in entries] != list(range(self.base + 1 - len(entries), self.base + 1)):
            return
        self._entries[:0] = entries
        self._bytes += size
        self.base -= len(entries)

    def restart(self, last: int) -> None:
        """Forget everything; the next entry is `last + 1`."""
        self.base, self._entries, self._bytes = last, [], 0

    def _trim(self) -> None:
        drop = max(0, len(self._entries) - RING_EVENTS)
        size = self._bytes - sum(entry.size for entry in self._entries[:drop])
        while size > RING_BYTES and drop < len(self._entries):
            size -= self._entries[drop].size
            drop += 1
        if drop:
            del self._entries[:drop]
            self.base += drop
            self._bytes = size


class Follower(ABC):
    """A loop that reads on a bell and at least every `poll` seconds, as long as somebody watches."""

    def __init__(self, name: str) -> None:
        self.viewers: set[Viewer] = set()
        self._name = name
        self._bell = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name=self._name)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def ring(self) -> None:
        """Read soon."""
        self._bell.set()

    @abstractmethod
    def poll_seconds(self) -> float:
        """The longest pause between two readings."""

    @abstractmethod
    async def read(self) -> None:
        """Read what is new and wake the viewers."""

    def wake_viewers(self) -> None:
        for viewer in tuple(self.viewers):
            viewer.wake()

    async def _follow(self) -> None:
        while True:
            self._bell.clear()
            try:
                await self.read()
                self._failing = False
            except Exception:
                # The database may be away for a while; viewers keep what they have and the next round tries again.
                if not self._failing:
                    logger.exception("feed_cannot_read", feed=self._name)
                self._failing = True
                await asyncio.sleep(min(1.0, self.poll_seconds()))
            await asyncio.sleep(MIN_GAP_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), self.poll_seconds())


class RunFeed(Follower):
    """The log of one run, followed once for all viewers of this process."""

    def __init__(self, run_id: uuid.UUID) -> None:
        super().__init__(f"feed {run_id}")
        self.run_id = run_id
        self.gone = False
        self.run_version = 0
        self._run: reads.RunMessage | None = None
        self._run_entries: dict[Audience, Entry] = {}
        self._state: RunState | None = None
        self._ring = Ring(0)
        self._ready = asyncio.Event()
        self._told_at = 0.0
        self._told_done = (-1, -1)
        self._covering = asyncio.Lock()
        self._picturing = asyncio.Lock()
        self._snapshot: tuple[float, Snapshot] | None = None

    # -- what viewers read ------------------------------------------------------------------------------------------
    @property
    def base(self) -> int:
        return self._ring.base

    @property
    def last_seq(self) -> int:
        return self._ring.last

    def entries_after(self, seq: int, limit: int) -> list[Entry]:
        """What follows `seq ≥ base`."""
        return self._ring.after(seq, limit)

    def run_entry(self, cursor: int, viewer: Any) -> Entry | None:
        """The `run` message for a viewer who has the log up to `cursor`: its number never runs ahead of what it got.

        Viewers acknowledge the highest number they saw, so a higher one here would acknowledge events not sent yet.
        """
        if self._run is None:
            return None
        seen = self._run.audience(viewer)
        entry = self._run_entries.get(seen)
        if entry is None or entry.seq != cursor:
            entry = Entry(cursor, f'{{"type":"run","seq":{cursor},"run":{self._run.text(seen)}}}')
            self._run_entries[seen] = entry
        return entry

    async def ready(self) -> None:
        """Return once the run was read for the first time."""
        await self._ready.wait()

    async def covers(self, since: int) -> bool:
        """Whether the entries after `since` can be replayed; reads them into the ring where it does not have them."""
        if not 0 <= self.last_seq - since <= REPLAY_EVENTS:
            return False
        async with self._covering:
            if since < self.base and self._state is not None:
                missing = await in_thread(reads.read_log, self._state.source_id, after=since, upto=self.base)
                self._ring.prepend(missing)
        return since >= self.base

    async def snapshot(self, at_least: int) -> Snapshot:
        """The newest state, or one so new that the ring leads on from it, but not older than what the viewer has.

        Read once for all who ask together.
        """
        async with self._picturing:
            newest = max(at_least, self.base, self.last_seq - SNAPSHOT_LAG_EVENTS)
            if self._snapshot and self._snapshot[1].seq >= newest:
                return self._snapshot[1]
            source_id = self._state.source_id if self._state else self.run_id
            picture = await in_thread(reads.read_snapshot, source_id)
            self._snapshot = (time.monotonic(), picture)
            return picture

    # -- following --------------------------------------------------------------------------------------------------
    def heard(self, seq: int) -> None:
        """A bell says that the log reaches to `seq`."""
        if seq > self.last_seq or not self._ready.is_set():
            self.ring()

    def poll_seconds(self) -> float:
        poll: float = settings.FEED_POLL_SECONDS
        return max(poll, FINISHED_POLL_SECONDS) if self._state and self._state.finished else poll

    async def read(self) -> None:
        at_most = (
            RING_EVENTS if self._state else 0
        )  # a new feed starts at the log's end; `covers` reads what was before
        state, entries = await in_thread(reads.read_news, self.run_id, after=self.last_seq, at_most=at_most)
        if state is None:
            self.gone = True
            self._ready.set()
            self.wake_viewers()
            return
        before, self._state = self._state, state
        if self._take(before, state, entries):
            self.wake_viewers()
        if await self._tell(before, state):
            self.wake_viewers()
        self._ready.set()
        if before is not None and before.access != state.access:
            for viewer in tuple(self.viewers):
                viewer.recheck()
        if self._snapshot and time.monotonic() - self._snapshot[0] > SNAPSHOT_KEPT_SECONDS:
            self._snapshot = None
        if self.last_seq < state.last_seq:
            self.ring()  # more than one reading's worth

    def _take(self, before: RunState | None, state: RunState, entries: list[Entry]) -> bool:
        """Put what was read into the ring; whether viewers have something to send."""
        moved = before is None or before.source_id != state.source_id
        if moved or not 0 <= state.last_seq - self.last_seq <= RING_EVENTS:
            self._ring.restart(state.last_seq)
            self._snapshot = None if moved else self._snapshot
            return True
        self._ring.extend(entries)
        return bool(entries)

    async def _tell(self, before: RunState | None, state: RunState) -> bool:
        """Renew the `run` message: at once when the run's standing changed, else at most once a second."""
        now = time.monotonic()
        urgent = before is None or before.standing != state.standing or before.source_id != state.source_id
        overdue = state.done != self._told_done and now - self._told_at >= PROGRESS_SECONDS
        if not (urgent or overdue):
            return False
        run = await in_thread(reads.read_run, self.run_id)
        if run is None:
            return False
        self._run, self._run_entries = run, {}
        self.run_version += 1
        self._told_at, self._told_done = now, state.done
        return True


class QueueFeed(Follower):
    """The lab's queue in numbers; a page that wants the list asks the API when they change."""

    def __init__(self) -> None:
        super().__init__("feed of the queue")
        self.version = 0
        self.frame: Entry | None = None
        self._parts: tuple[Any, ...] | None = None

    def poll_seconds(self) -> float:
        return QUEUE_POLL_SECONDS

    async def read(self) -> None:
        parts, numbers = await in_thread(reads.read_queue)
        if parts == self._parts:
            return
        self._parts = parts
        self.version += 1
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        frame = frames.event_frame(seq=self.version, kind="queue", at=at, data=dict(numbers))
        self.frame = Entry(self.version, frame)
        self.wake_viewers()


class FeedHub:
    """The feeds of one process. A feed lives as long as it has viewers."""

    def __init__(self) -> None:
        self._runs: dict[uuid.UUID, RunFeed] = {}
        self._queue: QueueFeed | None = None
        self._bells = BellListener(self._heard)

    def watch_run(self, run_id: uuid.UUID, viewer: Viewer) -> RunFeed:
        """The run's feed, followed from now on for `viewer` too. The caller has checked that it may watch."""
        feed = self._runs.get(run_id)
        if feed is None:
            feed = self._runs[run_id] = RunFeed(run_id)
            self._bells.join(run_id)
            feed.start()
        feed.viewers.add(viewer)
        return feed

    def leave_run(self, feed: RunFeed, viewer: Viewer) -> None:
        feed.viewers.discard(viewer)
        if not feed.viewers and self._runs.get(feed.run_id) is feed:
            del self._runs[feed.run_id]
            self._bells.leave(feed.run_id)
            feed.stop()

    def watch_queue(self, viewer: Viewer) -> QueueFeed:
        if self._queue is None:
            self._queue = QueueFeed()
            self._queue.start()
        self._queue.viewers.add(viewer)
        return self._queue

    def leave_queue(self, viewer: Viewer) -> None:
        if self._queue is None:
            return
        self._queue.viewers.discard(viewer)
        if not self._queue.viewers:
            self._queue.stop()
            self._queue = None

    def _heard(self, run_id: uuid.UUID, seq: int) -> None:
        feed = self._runs.get(run_id)
        if feed is not None:
            feed.heard(seq)
