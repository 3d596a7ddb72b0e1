"""Tokens in a table, each with a number: the logit lens (top tokens a layer and position), the saliency of a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from tracing.events import Axis, Quantity
from tracing.results.parts import (
    Array,
    TypedResult,
    axis_from,
    axis_json,
    number,
    quantities_json,
    quantity_from,
    require_floats,
    require_shape,
    table,
)


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable(TypedResult):
    """`tokens[row][column][k]` are texts, best first ("" where there is no cell); `values [row, column, k]`."""

    FORMAT: ClassVar[str] = "token_table/1"

    name: str
    title: str
    rows: Axis
    columns: Axis
    quantity: Quantity
    tokens: Sequence[Sequence[Sequence[str]]]
    values: Array
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where tokens and values are not both `[row, column, k]` of the axes."""
        k = self.values.shape[2] if self.values.ndim == 3 else 1
        require_shape("values", self.values, (len(self.rows), len(self.columns), k), "row, column, k")
        require_floats("values", self.values)
        if len(self.tokens) != len(self.rows):
            raise ValueError(f"tokens has {len(self.tokens)} rows; the axis has {len(self.rows)}.")
        for r, row in enumerate(self.tokens):
            if len(row) != len(self.columns):
                raise ValueError(f"tokens[{r}] has {len(row)} columns; the axis has {len(self.columns)}.")
            for c, cell in enumerate(row):
                if len(cell) != k or not all(isinstance(token, str) for token in cell):
                    raise ValueError(f"tokens[{r}][{c}] must be {k} texts, as values has {k} a cell.")

    def parts(self) -> dict[str, Any]:
        """Axes, quantity and the tokens."""
        return {
            "rows": axis_json(self.rows),
            "columns": axis_json(self.columns),
            "quantity": quantities_json([self.quantity])[0],
            "tokens": [[list(cell) for cell in row] for row in self.tokens],
        }

    def arrays(self) -> dict[str, Array]:
        """`values`."""
        return {"values": self.values}

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """A token table from its parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            rows=axis_from(data["rows"]),
            columns=axis_from(data["columns"]),
            quantity=quantity_from(data["quantity"]),
            tokens=data["tokens"],
            values=arrays["values"],
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a token: row and column index with labels, rank from 0, token, value. Missing cells are left out."""
        row_name, column_name = self.rows.name, self.columns.name
        return table(
            [row_name, f"{row_name}_label", column_name, f"{column_name}_label", "rank", "token", self.quantity.key],
            (
                [r, row.label, c, column.label, k, token, number(self.values[r, c, k])]
                for r, row in enumerate(self.rows.ticks)
                for c, column in enumerate(self.columns.ticks)
                for k, token in enumerate(self.tokens[r][c])
                if token
            ),
        )
