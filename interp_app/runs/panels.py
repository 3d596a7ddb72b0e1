"""Panels put together from stored tiles: what a late viewer, a download or a resumed run starts from.

Values are little-endian float32 `[planes, rows, columns]`. A cell nobody computed is the quiet NaN 0x7FC00000; a cell
that was computed and is not a number is 0x7FC00001, so that a figure can tell the two apart.
"""

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from interp_app.runs.models import Run, RunEvent, Tile

UNKNOWN: Final = np.uint32(0x7FC00000)
NOT_A_NUMBER: Final = np.uint32(0x7FC00001)


@dataclass(frozen=True, slots=True)
class Panels:
    """The panels a run opened, and the event number up to which they and their values hold."""

    seq: int
    panels: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class PanelValues:
    """One panel and its values as raw words `[planes, rows, columns]` (uint32, so that no NaN loses its payload)."""

    seq: int
    panel: dict[str, Any]
    words: NDArray[np.uint32]

    @property
    def values(self) -> NDArray[np.float32]:
        """The same memory as float32."""
        return self.words.view(np.float32)

    def to_bytes(self) -> bytes:
        """Little-endian float32, row-major."""
        return self.words.astype("<u4", copy=False).tobytes()


def panels_of(run_id: uuid.UUID) -> Panels:
    """The newest announcement of each panel, by index. Give `run.source_id`."""
    seq = Run.objects.values_list("last_seq", flat=True).get(pk=run_id)
    return Panels(seq, _panels_until(run_id, seq))


def panel_values(run_id: uuid.UUID, index: int) -> PanelValues | None:
    """Panel `index` with every tile stored up to its `seq`; None where no such panel was opened."""
    return next(iter(all_values(run_id, only=index)), None)


def all_values(run_id: uuid.UUID, *, only: int | None = None) -> list[PanelValues]:
    """Every panel with its values, all as of one event number. Give `run.source_id`."""
    state = panels_of(run_id)
    wanted = [panel for panel in state.panels if only is None or panel["index"] == only]
    rows = Tile.objects.filter(run_id=run_id, seq__lte=state.seq, panel__in=[panel["index"] for panel in wanted])
    tiles = list(rows.defer("examples").order_by("seq")) if wanted else []
    return [
        PanelValues(state.seq, panel, assemble(panel, (tile for tile in tiles if tile.panel == panel["index"])))
        for panel in wanted
    ]


def assemble(panel: dict[str, Any], tiles: Iterable[Tile]) -> NDArray[np.uint32]:
    """The words of one panel from its tiles; a later tile covers an earlier one."""
    shape = (len(panel["quantities"]), len(panel["rows"]["ticks"]), len(panel["columns"]["ticks"]))
    words = np.full(shape, UNKNOWN, dtype=np.uint32)
    for tile in tiles:
        values = tile_values(tile)
        block = np.where(np.isnan(values), NOT_A_NUMBER, values.view(np.uint32))
        words[:, tile.r0 : tile.r0 + tile.nr, tile.c0 : tile.c0 + tile.nc] = block
    return words


def covered_cells(run_id: uuid.UUID) -> int:
    """How many different cells the stored tiles of a run cover; tiles of two attempts may overlap."""
    found: dict[int, set[tuple[int, int, int, int]]] = {}
    for panel, r0, c0, nr, nc in Tile.objects.filter(run_id=run_id).values_list("panel", "r0", "c0", "nr", "nc"):
        found.setdefault(panel, set()).add((r0, c0, nr, nc))
    return sum(_covered(rectangles) for rectangles in found.values())


def panel_cells(run_id: uuid.UUID) -> int:
    """How many cells the panels have that a run announced; 0 where it announced none."""
    shapes: dict[int, int] = {}
    for payload in (
        RunEvent.objects.filter(run_id=run_id, kind="panel").order_by("seq").values_list("payload", flat=True)
    ):
        shapes[payload["index"]] = len(payload["rows"]["ticks"]) * len(payload["columns"]["ticks"])
    return sum(shapes.values())


def _covered(rectangles: Collection[tuple[int, int, int, int]]) -> int:
    rows = max(r0 + nr for r0, _, nr, _ in rectangles)
    columns = max(c0 + nc for _, c0, _, nc in rectangles)
    known = np.zeros((rows, columns), dtype=np.bool_)
    for r0, c0, nr, nc in rectangles:
        known[r0 : r0 + nr, c0 : c0 + nc] = True
    return int(known.sum())


def tile_values(tile: Tile) -> NDArray[np.float32]:
    """A stored tile's values `[planes, rows, columns]`."""
    flat = np.frombuffer(bytes(tile.values), dtype="<f4").astype(np.float32, copy=False)
    return flat.reshape(tile.planes, tile.nr, tile.nc)


def _panels_until(run_id: uuid.UUID, seq: int) -> list[dict[str, Any]]:
    events = RunEvent.objects.filter(run_id=run_id, kind="panel", seq__lte=seq).order_by("seq")
    newest = {event.payload["index"]: event.payload for event in events}
    return [newest[index] for index in sorted(newest)]
