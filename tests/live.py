"""For tests of live runs: a log to watch, and what the database holds of it."""

import random
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from django.utils import timezone

from interp_app.runs import events, panels
from interp_app.runs.models import Run
from tests.replica import Words
from tracing.experiments.events import Axis, Panel, PanelOpened, Quantity, Tick, Tile


def stored(run_id: uuid.UUID) -> dict[int, Words]:
    """The run's panels as the database has them."""
    run = Run.objects.get(pk=run_id)
    return {one.panel["index"]: one.words for one in panels.all_values(run.source_id)}


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

    def tiles(self, count: int, *, line: str = "") -> int:
        """One event a cell, `count` in one transaction, perhaps with a line of log; the log's last number."""
        batch = [events.tile_event(self._tile()) for _ in range(min(count, len(self._cells)))]
        if line:
            batch.append(events.log_event("info", line))
        return self._append(batch, cells_done=self.shape[1] * self.shape[2] - len(self._cells))

    def log(self, text: str, count: int = 1) -> int:
        return self._append([events.log_event("info", text)] * count)

    def finish(self) -> int:
        """End the run."""
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
