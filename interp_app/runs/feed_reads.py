"""The feed's database reads: plain functions for a thread, each a constant number of queries whoever is watching.

Order keeps them consistent without a transaction: the run's `last_seq` is read first, and then only entries of the log
up to it, which never change once written.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from interp_app.runs import frames, panels, selectors
from interp_app.runs.models import TERMINAL, Run, Status
from interp_app.runs.shapes import Audience, audience, for_slim, moment, slim_run_for

READ_LIMIT: Final = 500


@dataclass(slots=True)
class Entry:
    """One frame, encoded once for all who watch; `frame` lacks the handle."""

    seq: int
    frame: bytes | str
    _addressed: tuple[int, bytes | str] = (-1, b"")

    @property
    def size(self) -> int:
        return len(self.frame)

    def addressed(self, handle: int) -> bytes | str:
        """The frame for one subscription. Nearly all viewers have handle 1, so the last answer is kept."""
        if self._addressed[0] != handle:
            self._addressed = (handle, frames.with_handle(self.frame, handle))
        return self._addressed[1]


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands. `source_id` is the run whose log is read: another one where a result was reused."""

    source_id: uuid.UUID
    last_seq: int
    finished: bool
    access: tuple[Any, ...]
    """Changes whenever somebody may have lost the right to watch."""
    standing: tuple[Any, ...]
    """Changes with all of the slim form that is worth telling at once."""
    done: tuple[int, int]
    """Cells and steps: changes with every tile; told at a lower rate."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state at `seq`: the text frame, then one binary frame a panel."""

    seq: int
    entries: tuple[Entry, ...]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(entry.size for entry in self.entries))


_STATE: Final = (
    "reused_from_id",
    "reused_from__last_seq",
    "last_seq",
    "cells_done",
    "steps_done",
    "owner_id",
    "visibility",
    "status",
)
_STANDING: Final = (
    "stage",
    "attempt",
    "cancel_requested_at",
    "title",
    "archived_at",
    "cells_total",
    "steps_total",
    "finished_at",
)


def read_state(run_id: uuid.UUID) -> RunState | None:
    """One query; None where the run does not exist."""
    row = Run.objects.filter(pk=run_id).values_list(*_STATE, *_STANDING).first()
    if row is None:
        return None
    source, source_seq, own_seq, cells_done, steps_done, owner, visibility, status, *standing = row
    return RunState(
        source_id=source or run_id,
        last_seq=own_seq if source is None else source_seq,
        finished=status in TERMINAL,
        access=(owner, visibility, status),
        standing=(status, visibility, *standing),
        done=(cells_done, steps_done),
    )


def read_news(run_id: uuid.UUID, *, after: int, at_most: int) -> tuple[RunState | None, list[Entry]]:
    """Where the run stands and the entries after `after`, in one go: three queries, one while nothing happens.

    Nothing is read of a log that is more than `at_most` ahead, or behind.
    """
    state = read_state(run_id)
    if state is None or not 0 < state.last_seq - after <= at_most:
        return state, []
    return state, read_log(state.source_id, after=after, upto=state.last_seq)


def read_log(source_id: uuid.UUID, *, after: int, upto: int) -> list[Entry]:
    """The entries `after < seq ≤ upto`, at most `READ_LIMIT`, encoded: two queries."""
    rows = selectors.events_after(source_id, after, limit=min(READ_LIMIT, upto - after))
    return [_entry(row) for row in rows]


def _entry(row: selectors.LoggedEvent) -> Entry:
    if row.kind != "tile":
        frame = frames.event_frame(seq=row.seq, kind=row.kind, at=moment(row.at) or "", data=row.payload)
        return Entry(row.seq, frame)
    tile = row.tile
    if tile is None:
        # This place was computed again, and only its newest tile is kept. An empty rectangle takes the older one's
        # number, so that what a viewer receives has no gaps.
        empty = frames.no_words(row.payload["planes"])
        return Entry(row.seq, frames.tile_frame(seq=row.seq, panel=row.payload["panel"], r0=0, c0=0, words=empty))
    words = frames.computed_words(panels.tile_values(tile))
    return Entry(row.seq, frames.tile_frame(seq=row.seq, panel=tile.panel, r0=tile.r0, c0=tile.c0, words=words))


class RunMessage:
    """The run as read once; its JSON is made once for each kind of viewer, of whom there are few."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._texts: dict[Audience, str] = {}

    def audience(self, viewer: Any) -> Audience:
        return audience(self._run, viewer)

    def text(self, seen: Audience) -> str:
        """The slim form as JSON. No query: the run was read with all that it shows."""
        if seen not in self._texts:
            self._texts[seen] = frames.text(slim_run_for(self._run, seen))
        return self._texts[seen]


def read_run(run_id: uuid.UUID) -> RunMessage | None:
    """What the slim form shows; None where the run does not exist. Two queries."""
    run = for_slim(Run.objects.filter(pk=run_id)).first()
    return None if run is None else RunMessage(run)


def read_snapshot(source_id: uuid.UUID) -> Snapshot:
    """The newest state of the log of `source_id`, in a handful of queries. Raises `Run.DoesNotExist`."""
    before = panels.panels_of(source_id)
    values = panels.all_values(source_id)
    seq = values[0].seq if values else before.seq
    logs = [log for log in selectors.last_logs(source_id) if log.seq <= seq]
    message = {
        "type": "snapshot",
        "seq": seq,
        "panels": [one.panel for one in values],
        "events": [{"seq": log.seq, "kind": log.kind, "at": moment(log.at), "data": log.payload} for log in logs],
    }
    entries = [Entry(seq, frames.text(message))]
    entries += (Entry(seq, frames.panel_frame(seq=seq, panel=one.panel["index"], words=one.words)) for one in values)
    return Snapshot(seq, tuple(entries))


def visible_runs(user: Any, run_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those of `run_ids` that `user` may watch now. One query."""
    return set(Run.objects.visible_to(user).filter(pk__in=list(run_ids)).values_list("pk", flat=True))


def read_queue() -> tuple[tuple[Any, ...], dict[str, int]]:
    """What the queue consists of, for comparing, and its numbers, which hold no secret."""
    live = Run.objects.filter(status__in=(Status.QUEUED, Status.RUNNING)).order_by("pk")
    rows = tuple(live.values_list("pk", "status", "worker_id", "cancel_requested_at"))
    workers = tuple(sorted(str(worker.pk) for worker in selectors.online_workers()))
    queued = sum(status == Status.QUEUED for _, status, _, _ in rows)
    return (rows, workers), {"queued": queued, "running": len(rows) - queued, "workers": len(workers)}
