"""A map of cells: rows × columns, one plane a quantity, and where a method has it the metric of every prompt pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from tracing.events import Axis, Panel, Quantity, Tile
from tracing.results.parts import (
    Array,
    TypedResult,
    axis_from,
    axis_json,
    named,
    number,
    quantities_from,
    quantities_json,
    require_floats,
    require_planes,
    require_shape,
    table,
    unnamed,
)


@dataclass(frozen=True, slots=True, eq=False)
class Grid(TypedResult):
    """A map.

    `planes[key]` is `[row, column]` for each quantity, `examples` `[pair, row, column]` the raw metric of each pair,
    `clean` and `corrupted` `[pair]` the baselines. NaN marks a cell that was not computed or does not exist.
    Methods without per-pair numbers leave the last three at None.
    """

    FORMAT: ClassVar[str] = "grid/1"

    name: str
    title: str
    rows: Axis
    columns: Axis
    quantities: tuple[Quantity, ...]
    planes: Mapping[str, Array]
    examples: Array | None = None
    clean: Array | None = None
    corrupted: Array | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where an array's shape is not that of the axes."""
        shape = (len(self.rows), len(self.columns))
        require_planes("planes", self.planes, self.quantities, shape, f"{self.rows.name}, {self.columns.name}")
        given = [array for array in (self.examples, self.clean, self.corrupted) if array is not None]
        if self.examples is not None:
            pairs = len(self.clean) if self.clean is not None else len(self.examples)
            axes = f"pair, {self.rows.name}, {self.columns.name}"
            require_shape("examples", self.examples, (pairs, *shape), axes)
        for what, array in (("clean", self.clean), ("corrupted", self.corrupted)):
            if array is not None:
                require_shape(what, array, (len(given[0]),), "pair")
        for array in given:
            require_floats("The metric of the pairs", array)

    @property
    def raw(self) -> Array:
        """The metric itself, in its unit, `[row, column]`."""
        return self.planes["raw"]

    @property
    def recovery(self) -> Array:
        """(patched − corrupted) / (clean − corrupted), `[row, column]`."""
        return self.planes["recovery"]

    @property
    def panel(self) -> Panel:
        """The grid's description without its numbers, as events announce it."""
        return Panel(self.name, self.title, self.rows, self.columns, self.quantities, self.facts)

    @classmethod
    def from_tiles(
        cls,
        panel: Panel,
        tiles: Sequence[Tile],
        clean: Array | None = None,
        corrupted: Array | None = None,
    ) -> Self:
        """Put tiles together; cells that no tile covers stay NaN, and a later tile overwrites an earlier one."""
        shape = (len(panel.rows), len(panel.columns))
        planes = {quantity.key: np.full(shape, np.nan, np.float32) for quantity in panel.quantities}
        examples = None if clean is None else np.full((len(clean), *shape), np.nan, clean.dtype)
        for tile in tiles:
            _, height, width = tile.values.shape
            rectangle = (slice(tile.r0, tile.r0 + height), slice(tile.c0, tile.c0 + width))
            for quantity, values in zip(panel.quantities, tile.values, strict=True):
                planes[quantity.key][rectangle] = values
            if examples is not None and tile.examples is not None:
                examples[(slice(None), *rectangle)] = tile.examples
        return cls(
            panel.name, panel.title, panel.rows, panel.columns, panel.quantities,
            planes, examples, clean, corrupted, panel.facts,
        )  # fmt: skip

    def best(self, plane: str = "recovery") -> dict[str, Any] | None:
        """The cell with the largest absolute value of a plane, or None where there is no number."""
        values = self.planes[plane]
        if not np.isfinite(values).any():
            return None
        row, column = np.unravel_index(int(np.nanargmax(np.abs(values))), values.shape)
        return {
            self.rows.name: int(row),
            self.columns.name: int(column),
            "label": self.columns.ticks[int(column)].label,
            "value": float(values[row, column]),
        }

    def parts(self) -> dict[str, Any]:
        """Axes and quantities."""
        return {
            "rows": axis_json(self.rows),
            "columns": axis_json(self.columns),
            "quantities": quantities_json(self.quantities),
        }

    def arrays(self) -> dict[str, Array]:
        """`planes.<key>`, and `examples`, `clean`, `corrupted` where there are such."""
        pairs = {"examples": self.examples, "clean": self.clean, "corrupted": self.corrupted}
        return {**named("planes", self.planes), **{key: value for key, value in pairs.items() if value is not None}}

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """A grid from its parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            rows=axis_from(data["rows"]),
            columns=axis_from(data["columns"]),
            quantities=quantities_from(data["quantities"]),
            planes=unnamed("planes", arrays),
            examples=arrays.get("examples"),
            clean=arrays.get("clean"),
            corrupted=arrays.get("corrupted"),
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a cell: row and column index with labels, then the quantities."""
        keys = [quantity.key for quantity in self.quantities]
        row_name, column_name = self.rows.name, self.columns.name
        return table(
            [row_name, f"{row_name}_label", column_name, f"{column_name}_label", *keys],
            (
                [r, row.label, c, column.label, *(number(self.planes[key][r, c]) for key in keys)]
                for r, row in enumerate(self.rows.ticks)
                for c, column in enumerate(self.columns.ticks)
            ),
        )
