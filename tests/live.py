"""For tests of live runs: what a viewer knows (`Replica`), and a log to watch (`LogWriter`).

The replica reads frames by the published layout with code of its own, and fails on the first gap or unknown byte.
"""

import json
import random
import struct
import uuid
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from interp_app.runs import events, panels
from interp_app.runs.models import Run
from tracing.experiments.events import Axis, Panel, PanelOpened, Quantity, Tick, Tile

UNKNOWN: Final = 0x7FC00000
HEADER: Final = struct.Struct("<HBBIQHHHHHHI")
Words = NDArray[np.uint32]


class Replica:
    """A viewer's picture of one run, from whatever its socket receives. `seq` is what it knows without gaps."""

    def __init__(self, since: int = 0) -> None:
        self.seq = since
        self.panels: dict[int, Words] = {}
        self.events: list[dict[str, Any]] = []
        self.run: dict[str, Any] = {}
        self.modes: list[str] = []
        self.snapshots = 0
        self.handle = 0
        self.errors: list[dict[str, Any]] = []
        self._awaited: tuple[int, set[int]] | None = None

    def receive(self, frame: str | bytes) -> None:
        """Apply one frame."""
        if isinstance(frame, bytes):
            self._binary(frame)
            return
        message = json.loads(frame)
        match message["type"]:
            case "subscribed":
                self.handle = message["handle"]
                self.modes.append(message["mode"])
                self._awaited = None
            case "run":
                self.run = message["run"]
            case "event":
                assert message["handle"] == self.handle
                if self._next(message["seq"]):
                    self.events.append(message)
                    if message["kind"] == "panel":
                        self._open(message["data"])
            case "snapshot":
                self.snapshots += 1
                self.panels = {}
                for panel in message["panels"]:
                    self._open(panel)
                self._awaited = (message["seq"], set(self.panels))
                self._settle()
            case "error":
                self.errors.append(message)
            case other:
                assert other in ("hello", "pong"), other

    def _binary(self, frame: bytes) -> None:
        magic, version, dtype, handle, seq, panel, planes, r0, c0, nr, nc, flags = HEADER.unpack_from(frame)
        assert (magic, version, dtype, handle) == (0x4854, 1, 0, self.handle)
        words = np.frombuffer(frame, dtype="<u4", offset=HEADER.size).reshape(planes, nr, nc)
        if flags & 1:
            assert self._awaited is not None
            assert self._awaited[0] == seq
            self.panels[panel][...] = words
            self._awaited[1].discard(panel)
            self._settle()
        elif self._next(seq):
            self.panels[panel][:, r0 : r0 + nr, c0 : c0 + nc] = words

    def _next(self, seq: int) -> bool:
        assert self._awaited is None, f"event {seq} came in the middle of a snapshot"
        if seq <= self.seq:
            return False
        assert seq == self.seq + 1, f"a gap: {seq} after {self.seq}"
        self.seq = seq
        return True

    def _settle(self) -> None:
        if self._awaited is not None and not self._awaited[1]:
            assert self._awaited[0] >= self.seq, "a snapshot older than what was known"
            self.seq = self._awaited[0]
            self._awaited = None

    def _open(self, payload: dict[str, Any]) -> None:
        shape = (len(payload["quantities"]), len(payload["rows"]["ticks"]), len(payload["columns"]["ticks"]))
        self.panels.setdefault(payload["index"], np.full(shape, UNKNOWN, dtype=np.uint32))


def stored(run_id: uuid.UUID) -> dict[int, Words]:
    """The run's panels as the database has them."""
    run = Run.objects.get(pk=run_id)
    return {one.panel["index"]: one.words for one in panels.all_values(run.source_id)}


def assert_same(seen: dict[int, Words], expected: dict[int, Words]) -> None:
    """Bit for bit, unknown cells included."""
    assert seen.keys() == expected.keys()
    for index, words in expected.items():
        assert np.array_equal(seen[index], words), f"panel {index} differs in {(seen[index] != words).sum()} cells"


def panel_opened(index: int, rows: int, columns: int, planes: int = 2) -> PanelOpened:
    """The announcement of a panel of layers × positions."""
    axes = [
        Axis("layer", "Layer", tuple(Tick(str(n)) for n in range(rows))),
        Axis("position", "Position", tuple(Tick(f"token{n}") for n in range(columns))),
    ]
    quantities = tuple(Quantity(f"q{n}", f"Quantity {n}", "", "diverging", (-1.0, 1.0)) for n in range(planes))
    return PanelOpened(index, Panel("resid_pre", "Residual stream", axes[0], axes[1], quantities))


class LogWriter:
    """Writes a run's log as a worker does: a panel, then tiles cell by cell, some with values that are not numbers."""

    def __init__(self, run_id: uuid.UUID, *, rows: int, columns: int, planes: int = 2, seed: int = 0) -> None:
        self.run_id = run_id
        self.shape = (planes, rows, columns)
        self._cells = [(r, c) for r in range(rows) for c in range(columns)]
        self._random = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._random.shuffle(self._cells)

    @property
    def cells_left(self) -> int:
        return len(self._cells)

    def open(self) -> int:
        """Announce the panel; the log's last number."""
        planes, rows, columns = self.shape
        opened = panel_opened(0, rows, columns, planes)
        return self._append([events.NewEvent("panel", opened.payload())], cells_total=rows * columns)

    def tiles(self, count: int) -> int:
        """One event a cell, `count` in one transaction; the log's last number."""
        batch = [events.tile_event(self._tile()) for _ in range(min(count, len(self._cells)))]
        return self._append(batch, cells_done=self.shape[1] * self.shape[2] - len(self._cells))

    def log(self, text: str, count: int = 1) -> int:
        return self._append([events.log_event("info", text)] * count)

    def finish(self) -> int:
        """End the run."""
        from django.utils import timezone

        finished = {"status": "succeeded", "stage": "", "finished_at": timezone.now(), "lease_until": None}
        return self._append([events.status_event("succeeded", attempt=1)], **finished)

    def _tile(self) -> Tile:
        row, column = self._cells.pop()
        values = self._numbers.standard_normal((self.shape[0], 1, 1)).astype(np.float32)
        if self._random.random() < 0.05:
            values[0] = np.nan
        return Tile(panel=0, r0=row, c0=column, values=values)

    def _append(self, batch: Sequence[events.NewEvent], **fields: Any) -> int:
        return events.append(self.run_id, batch, fields=fields)
