"""A run's panels as HTML tables: what a reader without scripts sees, and prints, where the figure would be.

Layer 0 is the last row, as in the figure. A cell's class is one of eleven steps of the diverging colour map over the
quantity's fixed domain; cells nobody computed are hatched.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from interp_app.runs.panels import UNKNOWN, PanelValues
from interp_app.web.tokens import Piece, pieces
from tracing.events import Quantity

STEPS: Final = 11
MAX_CELLS: Final = 2500
"""Larger grids are for downloads, not for tables."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text and the class of its colour."""

    text: str
    style: str


@dataclass(frozen=True, slots=True)
class FigureTable:
    """The first quantity of a panel. `columns` are token or head labels, `rows` label and cells from the top."""

    title: str
    quantity: str
    anchors: str
    columns: list[tuple[int, tuple[Piece, ...]]]
    rows: list[tuple[str, list[Cell]]]


def figure_tables(found: list[PanelValues]) -> list[FigureTable]:
    """Tables of the panels that are small enough to read."""
    return [_table(panel) for panel in found if panel.words[0].size <= MAX_CELLS]


def _table(found: PanelValues) -> FigureTable:
    panel, quantity = found.panel, found.panel["quantities"][0]
    unknown = found.words[0] == UNKNOWN
    values = found.values[0]
    rows = [
        (tick["label"], [_cell(values[r, c], bool(unknown[r, c]), quantity) for c in range(values.shape[1])])
        for r, tick in enumerate(panel["rows"]["ticks"])
    ]
    named = ", ".join(f"{value} = {name}" for value, name in quantity["anchors"].items())
    unit = f" ({quantity['unit']})" if quantity["unit"] else ""
    return FigureTable(
        title=panel["title"],
        quantity=quantity["title"] + unit,
        anchors=named,
        columns=[(index, pieces(tick["label"])) for index, tick in enumerate(panel["columns"]["ticks"])],
        rows=list(reversed(rows)),
    )


def value_cell(value: Any, quantity: Quantity) -> Cell:
    """A number of a stored result, coloured over its quantity's domain."""
    return _shaded(float(value), quantity.domain, quantity.scale)


def _cell(value: np.float32, unknown: bool, quantity: dict[str, Any]) -> Cell:
    if unknown:
        return Cell("", "v-unknown")
    return _shaded(float(value), quantity["domain"], quantity["scale"])


def _shaded(number: float, domain: Sequence[float], scale: str) -> Cell:
    if math.isnan(number):
        return Cell("×", "v-unknown")
    if math.isinf(number):
        return Cell("∞" if number > 0 else "\u2212∞", "v-unknown")
    low, high = domain
    share = (number - low) / (high - low) if high > low else 0.5
    if scale == "sequential":
        share = 0.5 + share / 2
    step = min(max(round(share * (STEPS - 1)), 0), STEPS - 1)
    shown = f"{round(number, 2) + 0.0:.2f}"  # + 0.0: no minus before a rounded zero
    return Cell(shown.replace("-", "\u2212"), f"v{step}")
