"""The event log of a run: the only way anything about a run changes after it was submitted.

`append` numbers events under the run's row lock, so `seq` is gapless, and writes rows, tiles and the run's own
columns in one transaction. Given an `attempt`, it writes nothing and raises `ClaimLost` unless that attempt still
holds the run.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import transaction
from django.utils import timezone

from interp_app.core.metrics import EVENT_APPEND_SECONDS
from interp_app.runs import doorbell
from interp_app.runs.models import Run, RunEvent, Status, Tile
from tracing.experiments import events as tracing_events


class ClaimLost(Exception):
    """The run is no longer this attempt's: its lease expired, or another worker has it."""


@dataclass(frozen=True, slots=True, eq=False)
class NewEvent:
    """An event about to be written; `tile` carries the values of a `tile` event."""

    kind: str
    payload: Mapping[str, Any]
    tile: tracing_events.Tile | None = None


def append(
    run_id: uuid.UUID,
    events: Sequence[NewEvent],
    *,
    attempt: int | None = None,
    fields: Mapping[str, Any] | None = None,
) -> int:
    """Write `events`, set the run's columns in `fields`, and return the run's last seq.

    Raises `ClaimLost` (nothing written) where `attempt` is given and the run is not running under it.
    """
    with EVENT_APPEND_SECONDS.time(), transaction.atomic():
        run: Run = Run.objects.select_for_update(no_key=True).only("id", "attempt", "status", "last_seq").get(pk=run_id)
        if attempt is not None and (run.attempt != attempt or run.status != Status.RUNNING):
            raise ClaimLost(f"run {run_id} attempt {attempt}")
        first = run.last_seq + 1
        last = run.last_seq + len(events)
        _insert(run, events, first)
        Run.objects.filter(pk=run_id).update(last_seq=last, **(fields or {}))
        if events:
            transaction.on_commit(lambda: doorbell.ring(run_id, last), robust=True)
    return last


def status_event(
    status: str,
    *,
    attempt: int,
    stage: str = "",
    reason: str = "",
    failure: Mapping[str, Any] | None = None,
) -> NewEvent:
    """The event of a change of state or stage."""
    payload: dict[str, Any] = {"status": str(status), "stage": stage, "attempt": attempt}
    if reason:
        payload["reason"] = reason
    if failure:
        payload["failure"] = dict(failure)
    return NewEvent("status", payload)


def log_event(level: str, message: str) -> NewEvent:
    """A sentence for the run's log."""
    return NewEvent("log", {"level": level, "message": message})


def tile_event(tile: tracing_events.Tile) -> NewEvent:
    """A computed rectangle."""
    return NewEvent("tile", tile.payload(), tile)


def _insert(run: Run, events: Sequence[NewEvent], first: int) -> None:
    now = timezone.now()
    RunEvent.objects.bulk_create(
        RunEvent(
            run_id=run.pk,
            seq=seq,
            attempt=run.attempt,
            kind=event.kind,
            payload=dict(event.payload),
            created_at=now,
        )
        for seq, event in enumerate(events, start=first)
    )
    # A place that a later attempt computed again has one row: the newest. Within one batch the last one wins too,
    # because an upsert may not touch a row twice.
    tiles: dict[tuple[int, int, int], Tile] = {}
    for seq, event in enumerate(events, start=first):
        if event.tile is not None:
            tiles[event.tile.panel, event.tile.r0, event.tile.c0] = _row(run, seq, event.tile)
    if tiles:
        Tile.objects.bulk_create(
            tiles.values(),
            update_conflicts=True,
            unique_fields=["run", "panel", "r0", "c0"],
            update_fields=["seq", "nr", "nc", "planes", "values", "examples", "examples_dtype"],
        )


def _row(run: Run, seq: int, tile: tracing_events.Tile) -> Tile:
    planes, rows, columns = tile.values.shape
    examples = b""
    dtype = ""
    if tile.examples is not None:
        little = np.ascontiguousarray(tile.examples, dtype=np.dtype(tile.examples.dtype).newbyteorder("<"))
        examples, dtype = little.tobytes(), tile.examples.dtype.name
    return Tile(
        run_id=run.pk,
        seq=seq,
        panel=tile.panel,
        r0=tile.r0,
        c0=tile.c0,
        nr=rows,
        nc=columns,
        planes=planes,
        values=np.ascontiguousarray(tile.values, dtype="<f4").tobytes(),
        examples=examples,
        examples_dtype=dtype,
    )
