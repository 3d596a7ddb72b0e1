"""A grid survives its files, and its table has one line a cell."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.experiments.events import Axis, Panel, Quantity, Tick, Tile
from tracing.results import Grid


def panel(rows: int, columns: int, labels: list[str] | None = None) -> Panel:
    texts = labels or [str(c) for c in range(columns)]
    return Panel(
        "resid_pre",
        "Residual stream",
        Axis("layer", "layer", tuple(Tick(str(r)) for r in range(rows))),
        Axis("position", "position", tuple(Tick(text, corrupted=None, differs=n == 1) for n, text in enumerate(texts))),
        (
            Quantity("recovery", "Recovery", "share", "diverging", (-1.0, 1.0), {"0": "corrupted run"}),
            Quantity("raw", "Logit difference", "logits", "diverging", (-3.0, 3.0)),
        ),
        {"direction": "denoising", "pairs": 2},
    )


def grid(rows: int = 2, columns: int = 3, labels: list[str] | None = None) -> Grid:
    """All cells but the last row, counted up."""
    values = np.arange(2 * (rows - 1) * columns, dtype=np.float32).reshape(2, rows - 1, columns)
    tile = Tile(0, 0, 0, values, np.stack([values[1], -values[1]]))
    baselines = np.array([1.0, 2.0], np.float32), np.array([-1.0, -2.0], np.float32)
    return Grid.from_tiles(panel(rows, columns, labels), [tile], *baselines)


def assert_same(one: Grid, other: Grid) -> None:
    assert one.data() == other.data()
    assert one.panel == other.panel
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])
        assert array.dtype == other.arrays()[name].dtype


def test_cells_without_a_tile_are_not_a_number() -> None:
    found = grid()
    assert found.raw[0].tolist() == [3.0, 4.0, 5.0]
    assert np.isnan(found.raw[1]).all()
    assert np.isnan(found.examples[:, 1]).all()


@given(labels=st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_a_grid_survives_its_files(labels: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    stem = tmp_path_factory.mktemp("grid") / "resid_pre"
    original = grid(columns=len(labels), labels=[text.encode("utf-8", "replace").decode() for text in labels])
    original.to_files(stem)
    assert_same(Grid.from_files(stem), original)


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a grid/1 file: it says 'curve/1'"):
        Grid.from_parts({"format": "curve/1"}, {})


def test_the_table_has_one_line_a_cell_and_empty_fields_for_missing_numbers(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(grid(labels=[" Mary", "a,b", '"']).to_csv())))
    assert len(rows) == 6
    assert rows[1] == {
        "layer": "0", "layer_label": "0", "position": "1", "position_label": "a,b", "recovery": "1", "raw": "4",
    }  # fmt: skip
    assert rows[5]["raw"] == ""


def test_the_best_cell_is_the_largest_in_absolute_value() -> None:
    found = grid()
    found.planes["recovery"][0, 1] = -9.0
    assert found.best() == {"layer": 0, "position": 1, "label": "1", "value": -9.0}


def test_a_grid_without_numbers_has_no_best_cell() -> None:
    empty = np.zeros(1, np.float32)
    assert Grid.from_tiles(panel(1, 1), [], empty, empty).best() is None
