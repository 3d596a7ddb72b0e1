"""A run's typed results as HTML tables: what a reader without scripts sees, and prints, of each type.

Grids whose panel is on the page already are left out. Tables show what fits a page (the strongest bars and edges, the
best token of a cell, where each head looks from the last token); the CSV behind each has everything.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from interp_app.core.errors import ServiceError
from interp_app.runs import results
from interp_app.runs.models import Run
from interp_app.web.figure_tables import MAX_CELLS, Cell, value_cell
from interp_app.web.tokens import pieces
from tracing.events import Quantity
from tracing.results import (
    Attention,
    Bars,
    Certificate,
    Curve,
    EdgeScores,
    Grid,
    Text,
    TokenTable,
)

MAX_READ: Final = 300_000
"""Numbers of one result that a page reads."""
MAX_RESULTS: Final = 12
MAX_LINES: Final = 40
PASSED: Final = {True: "passed", False: "failed", None: "–"}


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table with a header line; each row has a label. `note` says what is not shown."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[tuple[str, list[Cell]]]
    note: str = ""
    warnings: list[str] = field(default_factory=list)
    csv: str = ""


def result_tables(run: Run, found: Sequence[results.StoredResult], shown: Collection[str]) -> list[ResultTable]:
    """Tables of the results that are not figures already (`shown` are the names of the panels on the page)."""
    wanted = [one for one in found if not (one.payload["type"] == Grid.FORMAT and one.name in shown)]
    return [_table_of(run, one) for one in wanted[:MAX_RESULTS]]


def _table_of(run: Run, stored: results.StoredResult) -> ResultTable:
    csv = results.shape(run, stored)["csv"]
    title = str(stored.payload.get("title", stored.name))
    try:
        made = _MAKERS[stored.payload["type"]](results.typed(stored, at_most=MAX_READ))
    except ServiceError as error:
        return ResultTable(stored.name, title, "", [], [], note=str(error), csv=csv)
    except (KeyError, ValueError):  # another version wrote it: its file is still there to fetch
        return ResultTable(stored.name, title, "", [], [], note="This type of result has no table here.", csv=csv)
    caption, header, rows, note, warnings = made
    return ResultTable(stored.name, title, caption, header, rows, note, warnings, csv)


Made = tuple[str, list[str], list[tuple[str, list[Cell]]], str, list[str]]


def _grid(found: Grid) -> Made:
    quantity = found.quantities[0]
    if len(found.rows) * len(found.columns) > MAX_CELLS:
        return "", [], [], f"{len(found.rows)} × {len(found.columns)} cells are too many for a table here.", []
    header = [found.rows.title, *(plain(tick.label) for tick in found.columns.ticks)]
    plane = found.planes[quantity.key]
    rows = [(plain(tick.label), _cells(plane[r], quantity)) for r, tick in enumerate(found.rows.ticks)]
    return _named(quantity), header, rows[::-1], "", []


def _bars(found: Bars) -> Made:
    header = [found.axis.title]
    for quantity in found.quantities:
        header.append(_named(quantity))
        if found.low and quantity.key in found.low:
            header.append("interval")
    order, note = _strongest(found.values[found.quantities[0].key], "bars")
    rows = []
    for index in order:
        cells = []
        for quantity in found.quantities:
            cells.append(value_cell(found.values[quantity.key][index], quantity))
            if found.low and found.high and quantity.key in found.low:
                low, high = found.low[quantity.key][index], found.high[quantity.key][index]
                cells.append(Cell(f"{number(low)} to {number(high)}", ""))
        rows.append((plain(found.axis.ticks[index].label), cells))
    return "", header, rows, note, []


def _curve(found: Curve) -> Made:
    unit = f" ({found.x_unit})" if found.x_unit else ""
    header = [found.x_title + unit, *(line.title for line in found.series)]
    picked = np.unique(np.linspace(0, found.x.size - 1, min(found.x.size, MAX_LINES)).round().astype(int)).tolist()
    rows = [(number(found.x[n]), [Cell(number(line.y[n]), "") for line in found.series]) for n in picked]
    note = f"{len(picked)} of {found.x.size} points." if len(picked) < found.x.size else ""
    return _named(found.quantity), header, rows, note, []


def _token_table(found: TokenTable) -> Made:
    if len(found.rows) * len(found.columns) > MAX_CELLS:
        return "", [], [], f"{len(found.rows)} × {len(found.columns)} cells are too many for a table here.", []
    rows = []
    for r, tick in enumerate(found.rows.ticks):
        cells = []
        for c in range(len(found.columns)):
            token, value = found.tokens[r][c][0], found.values[r, c, 0]
            style = value_cell(value, found.quantity).style if token else "v-unknown"
            cells.append(Cell(f"{plain(token)} {number(value)}" if token else "", style))
        rows.append((plain(tick.label), cells))
    header = [found.rows.title, *(plain(tick.label) for tick in found.columns.ticks)]
    layers = found.rows.name == "layer"
    return f"Best token and its value. {_named(found.quantity)}", header, rows[::-1] if layers else rows, "", []


def _attention(found: Attention) -> Made:
    quantity = found.quantities[0]
    last = found.planes[quantity.key][:, :, -1, :]  # [layer, head, key]
    rows = []
    for layer, heads in enumerate(last):
        cells = []
        for weights in heads:
            if not np.isfinite(weights).any():
                cells.append(Cell("", "v-unknown"))
                continue
            key = int(np.nanargmax(weights))
            style = value_cell(weights[key], quantity).style
            cells.append(Cell(f"{plain(found.tokens[key])} {number(weights[key])}", style))
        rows.append((str(layer), cells))
    header = ["Layer", *(f"head {head}" for head in range(last.shape[1]))]
    return f"Where each head looks most from the last token. {_named(quantity)}", header, rows[::-1], "", []


def _edges(found: EdgeScores) -> Made:
    top = found.top(MAX_LINES)
    total = int(found.real.sum())
    rows = [(source, [Cell(reader, ""), Cell(number(score), "")]) for source, reader, score in top]
    note = f"The {len(top)} strongest of {total} edges." if len(top) < total else ""
    return "", ["Source", "Reader", "Score"], rows, note, []


def _text(found: Text) -> Made:
    rows = [(entry.label, [Cell(entry.prompt, ""), Cell(entry.text, "")]) for entry in found.entries[:MAX_LINES]]
    note = f"{MAX_LINES} of {len(found.entries)} texts." if len(rows) < len(found.entries) else ""
    return "", ["", "Prompt", "Text"], rows, note, []


def _certificate(found: Certificate) -> Made:
    rows = [
        (
            check.title,
            [
                Cell(text, "")
                for text in (number(check.value), number(check.limit), PASSED[check.passed], check.sentence)
            ],
        )
        for check in found.checks
    ]
    caption = "No check failed." if found.trusted else "A check failed: do not trust the numbers before you know why."
    return caption, ["Check", "Value", "Limit", "", ""], rows, "", list(found.warnings)


_MAKERS: Final[dict[str, Callable[[Any], Made]]] = {
    Grid.FORMAT: _grid,
    Bars.FORMAT: _bars,
    Curve.FORMAT: _curve,
    TokenTable.FORMAT: _token_table,
    Attention.FORMAT: _attention,
    EdgeScores.FORMAT: _edges,
    Text.FORMAT: _text,
    Certificate.FORMAT: _certificate,
}


def number(value: Any) -> str:
    """Three significant digits with a true minus sign; nothing where there is no number."""
    if value is None or not np.isfinite(value):
        return ""
    return f"{float(value) + 0.0:.3g}".replace("-", "\u2212")


def plain(text: str) -> str:
    """A token with its white space made visible."""
    return "".join(piece.text for piece in pieces(text))


def _cells(values: Any, quantity: Quantity) -> list[Cell]:
    return [value_cell(value, quantity) for value in values]


def _named(quantity: Quantity) -> str:
    return f"{quantity.title} ({quantity.unit})" if quantity.unit else quantity.title


def _strongest(values: Any, what: str) -> tuple[list[int], str]:
    """All bars in their order, or the strongest in theirs."""
    if values.size <= MAX_LINES:
        return list(range(values.size)), ""
    order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")[:MAX_LINES]
    return order.tolist(), f"The {MAX_LINES} strongest of {values.size} {what}."
