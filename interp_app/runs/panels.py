"""A run's panels put together from its tiles: what a page shows first, a file download holds and a snapshot sends.

Invariant: a cell holds the value of the newest tile that covers it, bit for bit; every other cell is `frames.UNKNOWN`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from interp_app.runs.frames import Values, mark_computed, tile_values, unknown_panel


class TileRow(Protocol):
    """The columns of `models.Tile` that merging reads."""

    @property
    def r0(self) -> int: ...
    @property
    def c0(self) -> int: ...
    @property
    def nr(self) -> int: ...
    @property
    def nc(self) -> int: ...
    @property
    def planes(self) -> int: ...
    @property
    def values(self) -> bytes | memoryview: ...


def panel_shape(payload: Mapping[str, Any]) -> tuple[int, int, int]:
    """`(planes, rows, columns)` of the payload of a `panel` event."""
    return len(payload["quantities"]), len(payload["rows"]["ticks"]), len(payload["columns"]["ticks"])


def merge_tiles(shape: tuple[int, int, int], tiles: Iterable[TileRow]) -> Values:
    """One panel `[planes, rows, columns]` from its tiles, oldest first.

    Cells without a tile are `frames.UNKNOWN`, computed values that are not a number `frames.COMPUTED_NAN`.
    Raises `ValueError` for a tile that reaches outside of the panel.
    """
    merged = unknown_panel(*shape)
    for tile in tiles:
        values = tile_values(bytes(tile.values), planes=tile.planes, nr=tile.nr, nc=tile.nc)
        target = merged[:, tile.r0 : tile.r0 + tile.nr, tile.c0 : tile.c0 + tile.nc]
        if target.shape != values.shape:
            raise ValueError(f"a tile {values.shape} at {tile.r0},{tile.c0} does not fit a panel {shape}")
        target[...] = mark_computed(values)
    return merged
