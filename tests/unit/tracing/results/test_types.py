"""Every type of result survives its files, has a table, and refuses arrays that do not fit its axes."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracing import results
from tracing.errors import SiteError
from tracing.experiments.events import Axis, Quantity, Result, Tick
from tracing.results import (
    TYPES,
    Attention,
    Bars,
    Certificate,
    Check,
    Curve,
    EdgeScores,
    Grid,
    Series,
    Text,
    TextEntry,
    TokenTable,
    TypedResult,
)

NAN = float("nan")
RAW = Quantity("raw", "Logit difference", "logits", "diverging", (-3.0, 3.0), {"0": "nothing"})
SHARE = Quantity("share", "Share", "", "sequential", (0.0, 1.0))


def axis(name: str, *labels: str) -> Axis:
    return Axis(name, name.title(), tuple(Tick(label) for label in labels))


def f32(*rows: Any) -> Any:
    return np.array(rows, np.float32)


def grid(**changes: Any) -> Grid:
    made = {
        "name": "map", "title": "Map", "rows": axis("layer", "0", "1"), "columns": axis("head", "0"),
        "quantities": (RAW,), "planes": {"raw": f32([1.5], [NAN])},
    }  # fmt: skip
    return Grid(**{**made, **changes})


def bars(**changes: Any) -> Bars:
    made = {
        "name": "heads", "title": "Heads", "axis": axis("head", "a0.h0", "=a0.h1"), "quantities": (RAW, SHARE),
        "values": {"raw": f32(1, NAN), "share": f32(0.25, 0.75)}, "low": {"raw": f32(0, 0)}, "high": {"raw": f32(2, 2)},
        "facts": {"pairs": 3},
    }  # fmt: skip
    return Bars(**{**made, **changes})


def curve(**changes: Any) -> Curve:
    made = {
        "name": "faith", "title": "Faithfulness", "x_title": "Edges kept", "x_unit": "edges", "x": f32(1, 10, 100),
        "quantity": RAW, "log_x": True,
        "series": (
            Series("eap", "EAP", f32(0, 0.5, 1)),
            Series("ig", "EAP-IG", f32(0, 0.75, 1), f32(0, 0.5, 1), f32(0, 1, 1)),
        ),
    }  # fmt: skip
    return Curve(**{**made, **changes})


def token_table(**changes: Any) -> TokenTable:
    made = {
        "name": "lens", "title": "Logit lens", "rows": axis("layer", "0", "1"), "columns": axis("position", " Mary"),
        "quantity": SHARE, "tokens": [[[" John", "\n"]], [["", ""]]], "values": f32([[0.5, 0.25]], [[NAN, NAN]]),
    }  # fmt: skip
    return TokenTable(**{**made, **changes})


def attention(**changes: Any) -> Attention:
    made = {
        "name": "pair-1", "title": "Pair 1", "tokens": ("a", "b"), "quantities": (SHARE,),
        "planes": {"share": f32([[[1, NAN], [0.25, 0.75]]])},
    }  # fmt: skip
    return Attention(**{**made, **changes})


def edges(**changes: Any) -> EdgeScores:
    made = {
        "name": "edges", "title": "Edges", "sources": ("input", "a0.h0"), "readers": ("a0.h0<q>", "logits"),
        "real": np.array([[True, True], [False, True]]), "scores": f32([0.5, -2], [0, 2]),
        "spans": ("name",), "span_scores": f32([[0.25, -1], [0, 1]]),
    }  # fmt: skip
    return EdgeScores(**{**made, **changes})


def text() -> Text:
    return Text(name="texts", title="Texts", entries=(TextEntry("plain", "Mary", " went", {"strength": 0.0}),))


def certificate(**changes: Any) -> Certificate:
    made = {
        "name": "certificate", "title": "Certificate", "warnings": ("Few pairs.",),
        "checks": (
            Check("sum", "Completeness", 0.01, 0.05, True, "The scores add up."),
            Check("info", "Pairs", None, None, None, "Three pairs."),
        ),
    }  # fmt: skip
    return Certificate(**{**made, **changes})


EACH = [grid(), bars(), curve(), token_table(), attention(), edges(), text(), certificate()]


def named(found: TypedResult) -> str:
    return found.FORMAT


def assert_same(one: TypedResult, other: TypedResult) -> None:
    assert type(one) is type(other)
    assert one.data() == other.data()
    assert one.arrays().keys() == other.arrays().keys()
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])
        assert array.dtype == other.arrays()[name].dtype


def test_every_type_is_tested_here() -> None:
    assert {found.FORMAT for found in EACH} == set(TYPES)


@pytest.mark.parametrize("found", EACH, ids=named)
def test_a_result_survives_its_files(found: TypedResult, tmp_path: Path) -> None:
    found.to_files(tmp_path / "a0.h1")
    assert_same(type(found).from_files(tmp_path / "a0.h1"), found)
    assert_same(results.from_files(tmp_path / "a0.h1"), found)


@pytest.mark.parametrize("found", EACH, ids=named)
def test_the_json_part_is_json_as_it_stands(found: TypedResult) -> None:
    assert json.loads(json.dumps(found.data(), allow_nan=False)) == found.data()


@pytest.mark.parametrize("found", EACH, ids=named)
def test_the_event_holds_both_parts(found: TypedResult) -> None:
    said = found.result({"best": 1})
    assert isinstance(said, Result)
    assert (said.name, said.type, said.summary) == (found.name, found.FORMAT, {"best": 1})
    assert_same(results.from_parts(said.data, said.arrays), found)


@pytest.mark.parametrize("found", EACH, ids=named)
def test_every_line_of_a_table_has_its_columns(found: TypedResult) -> None:
    header, *lines = csv.reader(io.StringIO(found.to_csv()))
    assert lines
    assert {len(line) for line in lines} == {len(header)}


def test_the_tables_hold_the_numbers() -> None:
    def rows(found: TypedResult) -> list[list[str]]:
        return list(csv.reader(io.StringIO(found.to_csv())))

    assert rows(bars())[1:] == [["0", "a0.h0", "1", "0", "2", "0.25"], ["1", "=a0.h1", "", "0", "2", "0.75"]]
    assert rows(curve())[5] == ["ig", "10", "0.75", "0.5", "1"]
    assert rows(token_table())[1:] == [
        ["0", "0", "0", " Mary", "0", " John", "0.5"],
        ["0", "0", "0", " Mary", "1", "\n", "0.25"],
    ]
    assert rows(attention())[1:] == [
        ["0", "0", "0", "a", "0", "a", "1"], ["0", "0", "1", "b", "0", "a", "0.25"],
        ["0", "0", "1", "b", "1", "b", "0.75"],
    ]  # fmt: skip
    assert rows(edges())[1:] == [
        ["input", "a0.h0<q>", "0.5", "0.25"], ["input", "logits", "-2", "-1"], ["a0.h0", "logits", "2", "1"],
    ]  # fmt: skip
    assert rows(certificate())[1] == ["sum", "Completeness", "0.01", "0.05", "yes", "The scores add up."]


def test_edges_are_ranked_by_absolute_score_and_ties_keep_the_graph_s_order() -> None:
    found = edges()
    assert found.top(2) == [("input", "logits", -2.0), ("a0.h0", "logits", 2.0)]
    assert found.top(2, absolute=False) == [("a0.h0", "logits", 2.0), ("input", "a0.h0<q>", 0.5)]
    assert found.score("input", "logits") == -2.0


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (("input", "a9.h9<q>"), "no reader 'a9.h9<q>'.*The readers: a0.h0<q>, logits"),
        (("m7", "logits"), "no source 'm7'"),
        (("a0.h0", "a0.h0<q>"), "no edge from a0.h0 to a0.h0<q>"),
    ],
)
def test_an_edge_that_is_not_there_is_refused(ends: tuple[str, str], words: str) -> None:
    with pytest.raises(SiteError, match=words):
        edges().score(*ends)


def test_a_certificate_is_trusted_until_a_check_fails() -> None:
    failed = Check("far", "Far", 3.0, 1.0, False, "Too far.")
    assert certificate().trusted
    assert not certificate(checks=(*certificate().checks, failed)).trusted
    assert certificate().check("sum").value == 0.01


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (grid, {"planes": {"raw": f32([1.5, 2])}}, r"planes\['raw'\] is \[1, 2\].*\[layer, head\] = \[2, 1\]"),
        (grid, {"planes": {"other": f32([1], [2])}}, "quantities are raw, but the planes are other"),
        (grid, {"quantities": (), "planes": {}}, "needs at least one quantity"),
        (grid, {"examples": f32([[1], [2]]), "clean": f32(1, 2)}, r"examples is \[1, 2, 1\].*\[2, 2, 1\]"),
        (grid, {"examples": f32([[1], [2]]), "corrupted": f32(1, 2)}, r"corrupted is \[2\].*\[pair\] = \[1\]"),
        (grid, {"planes": {"raw": np.array([[1], [2]])}}, "int64; it must be float32 or float64"),
        (bars, {"low": None}, "bound the same quantities"),
        (bars, {"low": {"x": f32(0, 0)}, "high": {"x": f32(0, 0)}}, "bounds no quantity"),
        (bars, {"low": {"raw": f32(0)}}, r"low\['raw'\] is \[1\]"),
        (curve, {"x": f32(0, 1, 2)}, "must be above 0"),
        (curve, {"x": f32(1, NAN, 2)}, "x must be finite"),
        (curve, {"series": (Series("a", "A", f32(1)),)}, r"y of 'a' is \[1\]"),
        (curve, {"series": (Series("a", "A", f32(1, 2, 3), low=f32(1, 2, 3)),)}, "has one bound"),
        (curve, {"series": (Series("a", "A", f32(1, 2, 3)),) * 2}, "series name 'a' twice"),
        (token_table, {"tokens": [[["a", "b"]]]}, "tokens has 1 rows; the axis has 2"),
        (token_table, {"tokens": [[["a"]], [["b"]]]}, r"tokens\[0\]\[0\] must be 2 texts"),
        (token_table, {"values": f32([0.5])}, r"values is \[1, 1\]"),
        (attention, {"tokens": ("a",)}, r"\[1, 1, 2, 2\]; it must be \[layer, head, query, key\] = \[1, 1, 1, 1\]"),
        (attention, {"planes": {"share": f32(1, 2)}}, r"planes\['share'\] is \[2\]"),
        (edges, {"sources": ("input", "input")}, "sources name 'input' twice"),
        (edges, {"scores": f32([1, 2])}, r"scores is \[1, 2\]"),
        (edges, {"real": f32([1, 1], [0, 1])}, "float32; it must be bool"),
        (edges, {"spans": ()}, "go together"),
        (certificate, {"checks": certificate().checks * 2}, "checks name 'sum' twice"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(make: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_numbers_that_json_cannot_hold_are_refused_before_a_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="value of the check 'x' is nan"):
        Check("x", "X", NAN, None, None, "")
    with pytest.raises(ValueError, match="facts of 'heads' are not JSON"):
        bars(facts={"clean": NAN}).to_files(tmp_path / "bars")
    assert list(tmp_path.iterdir()) == []


def test_parts_of_another_or_an_unknown_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"No result type is named 'pie/1'. Known types: grid/1"):
        results.from_parts({"format": "pie/1"}, {})
    with pytest.raises(ValueError, match="not a bars/1 file: it says 'grid/1'"):
        Bars.from_parts(grid().data(), grid().arrays())
    with pytest.raises(ValueError, match="This curve/1 has no 'x'"):
        Curve.from_parts(curve().data(), {})
