"""Typed results of methods, with named axes and a JSON + safetensors form. No torch here: numpy only.

`Grid` is a map of cells: rows × columns, one plane a quantity, plus the raw metric of every prompt pair.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tracing.experiments.events import Axis, Panel, Quantity, Result, Tick, Tile

FORMAT = "grid/1"


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A patching map.

    `planes[key]` is `[row, column]` for each quantity, `examples` `[pair, row, column]` the raw metric of each pair,
    `clean` and `corrupted` `[pair]` the baselines. NaN marks a cell that was not computed or does not exist.
    """

    name: str
    title: str
    rows: Axis
    columns: Axis
    quantities: tuple[Quantity, ...]
    planes: Mapping[str, NDArray[Any]]
    examples: NDArray[Any]
    clean: NDArray[Any]
    corrupted: NDArray[Any]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def raw(self) -> NDArray[Any]:
        """The metric itself, in its unit, `[row, column]`."""
        return self.planes["raw"]

    @property
    def recovery(self) -> NDArray[Any]:
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
        tiles: list[Tile],
        clean: NDArray[Any],
        corrupted: NDArray[Any],
    ) -> Self:
        """Put tiles together; cells that no tile covers stay NaN."""
        shape = (len(panel.rows), len(panel.columns))
        planes = {quantity.key: np.full(shape, np.nan, np.float32) for quantity in panel.quantities}
        examples = np.full((len(clean), *shape), np.nan, clean.dtype)
        for tile in tiles:
            _, height, width = tile.values.shape
            rectangle = (slice(tile.r0, tile.r0 + height), slice(tile.c0, tile.c0 + width))
            for quantity, values in zip(panel.quantities, tile.values, strict=True):
                planes[quantity.key][rectangle] = values
            if tile.examples is not None:
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

    def data(self) -> dict[str, Any]:
        """The JSON part: everything but the arrays."""
        return {
            "format": FORMAT,
            "name": self.name,
            "title": self.title,
            "rows": asdict(self.rows),
            "columns": asdict(self.columns),
            "quantities": [asdict(quantity) for quantity in self.quantities],
            "facts": self.facts,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The safetensors part, by name."""
        planes = {f"planes.{key}": np.ascontiguousarray(values) for key, values in self.planes.items()}
        return {**planes, "examples": self.examples, "clean": self.clean, "corrupted": self.corrupted}

    def result(self, summary: Mapping[str, Any]) -> Result:
        """This grid as the event that a worker stores."""
        return Result(self.name, FORMAT, self.data(), self.arrays(), dict(summary))

    def to_files(self, stem: str | Path) -> None:
        """Write `<stem>.json` and `<stem>.safetensors`."""
        stem = Path(stem)
        stem.with_suffix(".json").write_text(json.dumps(self.data(), ensure_ascii=False), encoding="utf-8")
        save_file(
            {name: np.ascontiguousarray(array) for name, array in self.arrays().items()},
            stem.with_suffix(".safetensors"),
            metadata={"format": FORMAT},
        )

    @classmethod
    def from_files(cls, stem: str | Path) -> Self:
        """Read what `to_files` wrote. Raises `ValueError` for another format."""
        stem = Path(stem)
        data = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        return cls.from_parts(data, load_file(stem.with_suffix(".safetensors")))

    @classmethod
    def from_parts(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """A grid from its JSON part and its arrays."""
        if data.get("format") != FORMAT:
            raise ValueError(f"This is not a {FORMAT} file: it says {data.get('format')!r}.")
        return cls(
            name=data["name"],
            title=data["title"],
            rows=_axis(data["rows"]),
            columns=_axis(data["columns"]),
            quantities=tuple(
                Quantity(**{**quantity, "domain": tuple(quantity["domain"])}) for quantity in data["quantities"]
            ),
            planes={
                name.removeprefix("planes."): array for name, array in arrays.items() if name.startswith("planes.")
            },
            examples=arrays["examples"],
            clean=arrays["clean"],
            corrupted=arrays["corrupted"],
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a cell: row and column index with labels, then the quantities."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        keys = [quantity.key for quantity in self.quantities]
        row_name, column_name = self.rows.name, self.columns.name
        writer.writerow([row_name, f"{row_name}_label", column_name, f"{column_name}_label", *keys])
        for r, row in enumerate(self.rows.ticks):
            for c, column in enumerate(self.columns.ticks):
                numbers = [_number(self.planes[key][r, c]) for key in keys]
                writer.writerow([r, row.label, c, column.label, *numbers])
        return out.getvalue()


def _number(value: Any) -> str:
    return "" if np.isnan(value) else f"{float(value):.9g}"


def _axis(data: Mapping[str, Any]) -> Axis:
    return Axis(data["name"], data["title"], tuple(Tick(**tick) for tick in data["ticks"]))
