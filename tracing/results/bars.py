"""A number a place along one axis, with an interval where there is one: heads, components, layers, positions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from tracing.events import Axis, Quantity
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
class Bars(TypedResult):
    """`values[key]` is `[n]` for each quantity; `low` and `high` `[n]` bound it, for the quantities they name."""

    FORMAT: ClassVar[str] = "bars/1"

    name: str
    title: str
    axis: Axis
    quantities: tuple[Quantity, ...]
    values: Mapping[str, Array]
    low: Mapping[str, Array] | None = None
    high: Mapping[str, Array] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where an array's shape is not that of the axis, or a bound has no value or partner."""
        require_planes("values", self.values, self.quantities, (len(self.axis),), self.axis.name)
        if set(self.low or {}) != set(self.high or {}):
            raise ValueError("`low` and `high` must bound the same quantities.")
        for what, bounds in (("low", self.low), ("high", self.high)):
            for key, bound in (bounds or {}).items():
                if key not in self.values:
                    raise ValueError(f"{what}[{key!r}] bounds no quantity of this result.")
                require_shape(f"{what}[{key!r}]", bound, (len(self.axis),), self.axis.name)
                require_floats(f"{what}[{key!r}]", bound)

    def parts(self) -> dict[str, Any]:
        """Axis and quantities."""
        return {"axis": axis_json(self.axis), "quantities": quantities_json(self.quantities)}

    def arrays(self) -> dict[str, Array]:
        """`values.<key>`, and `low.<key>`, `high.<key>` where there are such."""
        return {**named("values", self.values), **named("low", self.low), **named("high", self.high)}

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """Bars from their parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            axis=axis_from(data["axis"]),
            quantities=quantities_from(data["quantities"]),
            values=unnamed("values", arrays),
            low=unnamed("low", arrays) or None,
            high=unnamed("high", arrays) or None,
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a bar: index and label, then each quantity with its bounds."""
        columns: list[tuple[str, Array]] = []
        for quantity in self.quantities:
            key = quantity.key
            columns.append((key, self.values[key]))
            if self.low and self.high and key in self.low:
                columns += [(f"{key}_low", self.low[key]), (f"{key}_high", self.high[key])]
        return table(
            [self.axis.name, f"{self.axis.name}_label", *(name for name, _ in columns)],
            (
                [index, tick.label, *(number(values[index]) for _, values in columns)]
                for index, tick in enumerate(self.axis.ticks)
            ),
        )
