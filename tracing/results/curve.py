"""Lines over a number: faithfulness over edges kept, a logit over layers, an effect over a steering strength."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from tracing.events import Quantity
from tracing.results.parts import (
    Array,
    TypedResult,
    number,
    quantities_json,
    quantity_from,
    require_floats,
    require_names,
    require_shape,
    table,
)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One line of a curve: `y [n]`, and the interval `low`, `high` `[n]` around it where there is one."""

    key: str
    title: str
    y: Array
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Curve(TypedResult):
    """Lines that share `x [n]`. `x_unit` and the quantity's unit are what the axes say; `log_x` draws x by its log."""

    FORMAT: ClassVar[str] = "curve/1"

    name: str
    title: str
    x_title: str
    x_unit: str
    x: Array
    quantity: Quantity
    series: tuple[Series, ...]
    log_x: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where lines do not have x's length, share a key, or x cannot be drawn by its log."""
        require_shape("x", self.x, (self.x.size,), "n")
        require_floats("x", self.x)
        require_names("series", [line.key for line in self.series])
        if not np.isfinite(self.x).all():
            raise ValueError("x must be finite.")
        if self.log_x and (self.x <= 0).any():
            raise ValueError("A logarithmic x must be above 0.")
        for line in self.series:
            if (line.low is None) != (line.high is None):
                raise ValueError(f"The series {line.key!r} has one bound; it needs both or none.")
            for what, array in (("y", line.y), ("low", line.low), ("high", line.high)):
                if array is not None:
                    require_shape(f"{what} of {line.key!r}", array, self.x.shape, "n, as x")
                    require_floats(f"{what} of {line.key!r}", array)

    def parts(self) -> dict[str, Any]:
        """Titles, units, and the lines' names in order."""
        return {
            "x_title": self.x_title,
            "x_unit": self.x_unit,
            "log_x": self.log_x,
            "quantity": quantities_json([self.quantity])[0],
            "series": [{"key": line.key, "title": line.title} for line in self.series],
        }

    def arrays(self) -> dict[str, Array]:
        """`x`, `y.<key>`, and `low.<key>`, `high.<key>` where there are such."""
        found = {"x": self.x}
        for line in self.series:
            found[f"y.{line.key}"] = line.y
            if line.low is not None and line.high is not None:
                found |= {f"low.{line.key}": line.low, f"high.{line.key}": line.high}
        return found

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """A curve from its parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            x_title=data["x_title"],
            x_unit=data["x_unit"],
            x=arrays["x"],
            quantity=quantity_from(data["quantity"]),
            series=tuple(
                Series(
                    key=line["key"],
                    title=line["title"],
                    y=arrays[f"y.{line['key']}"],
                    low=arrays.get(f"low.{line['key']}"),
                    high=arrays.get(f"high.{line['key']}"),
                )
                for line in data["series"]
            ),
            log_x=data["log_x"],
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a point: the series, x, y, and the bounds."""
        return table(
            ["series", "x", self.quantity.key, "low", "high"],
            (
                [
                    line.key,
                    number(self.x[n]),
                    number(line.y[n]),
                    number(None if line.low is None else line.low[n]),
                    number(None if line.high is None else line.high[n]),
                ]
                for line in self.series
                for n in range(self.x.size)
            ),
        )
