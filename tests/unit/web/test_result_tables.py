"""The run page without scripts: every type of result is a table, and no page stumbles over one."""

import numpy as np
import pytest
from django.test import Client

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs import artifacts, results
from interp_app.runs.models import Run, Status
from interp_app.web.figure_tables import value_cell
from interp_app.web.result_tables import MAX_LINES, result_tables
from tests.api.worlds import add_result
from tests.factories import RunFactory
from tests.unit.tracing.results.test_types import EACH, axis, bars, edges, grid
from tracing.events import Quantity
from tracing.results import TypedResult


@pytest.fixture
def run(member: User, model: ModelSource, prompts: PromptSetVersion) -> Run:
    return RunFactory(
        owner=member, model=model, prompts=prompts, status=Status.SUCCEEDED, cells_total=0, visibility="public"
    )


def tables(run: Run, *shown: str) -> list:
    return result_tables(run, results.results_of(run), shown)


@pytest.mark.parametrize("found", EACH, ids=lambda found: found.FORMAT)
def test_a_visitor_without_scripts_reads_a_result_of_every_type(run: Run, found: TypedResult) -> None:
    add_result(run, found)
    page = Client().get(f"/runs/{run.pk}/")
    assert page.status_code == 200
    assert f"<h2>{found.title}</h2>" in page.text
    assert f"/api/v1/runs/{run.pk}/results/{found.name}.csv" in page.text
    table = tables(run)[0]
    assert table.rows
    assert all(len(cells) == len(table.header) - 1 for _, cells in table.rows)
    assert " cells</span>" not in page.text


@pytest.mark.parametrize(
    ("found", "label", "texts"),
    [
        (bars(), "a0.h0", ["1.00", "0 to 2", "0.25"]),
        (edges(), "input", ["logits", "\u22122"]),
        (EACH[4], "0", ["b 0.75"]),
        (EACH[7], "Completeness", ["0.01", "0.05", "passed", "The scores add up."]),
    ],
    ids=["bars", "edges", "attention", "certificate"],
)
def test_the_tables_hold_the_numbers(run: Run, found: TypedResult, label: str, texts: list[str]) -> None:
    add_result(run, found)
    first, cells = tables(run)[0].rows[0]
    assert first == label
    assert [cell.text for cell in cells] == texts


def test_layer_0_is_the_last_row_and_missing_numbers_are_hatched(run: Run) -> None:
    add_result(run, grid())
    rows = tables(run)[0].rows
    assert [label for label, _ in rows] == ["1", "0"]
    assert (rows[0][1][0].text, rows[0][1][0].style) == ("×", "v-unknown")


def test_a_grid_that_is_a_figure_already_is_not_shown_twice(run: Run) -> None:
    add_result(run, grid())
    assert tables(run, "map") == []


def test_of_many_bars_the_strongest_are_shown_and_the_rest_is_counted(run: Run) -> None:
    many = 3 * MAX_LINES
    values = np.linspace(0, 1, many, dtype=np.float32)
    labels = axis("head", *(f"h{n}" for n in range(many)))
    add_result(run, bars(axis=labels, values={"raw": values, "share": values}, low=None, high=None))
    table = tables(run)[0]
    assert (len(table.rows), table.rows[0][0]) == (MAX_LINES, f"h{many - 1}")
    assert f"The {MAX_LINES} strongest of {many} bars" in table.note


def test_a_result_whose_file_is_gone_leaves_the_page_standing(run: Run) -> None:
    add_result(run, bars())
    artifacts.path_of(run.events.get(kind="result").payload["artifact"]["sha256"]).unlink()
    page = Client().get(f"/runs/{run.pk}/")
    assert page.status_code == 200
    assert "missing from the lab" in page.text


def test_a_certificate_s_warnings_and_failures_are_told(run: Run) -> None:
    add_result(run, EACH[7])
    assert "Few pairs." in Client().get(f"/runs/{run.pk}/").text


def test_a_run_without_a_map_says_how_far_it_is_in_steps(ada: Client, member: User) -> None:
    run = RunFactory(
        owner=member, status=Status.RUNNING, cells_total=0, steps_done=12, steps_total=40, stage="gradients"
    )
    assert "12 of 40 steps" in ada.get(f"/runs/{run.pk}/").text
    assert "12 / 40 steps" in ada.get("/queue/").text
    assert "12<span" in ada.get("/runs/").text


def test_a_queued_run_without_a_map_promises_results_and_no_map(ada: Client, member: User) -> None:
    run = RunFactory(owner=member, status=Status.QUEUED, cells_total=0)
    text = ada.get(f"/runs/{run.pk}/").text
    assert "The results will be here" in text
    assert "The map will be here" not in text


def test_the_start_page_begins_with_any_method(ada: Client, model: ModelSource) -> None:
    text = ada.get("/").text
    assert "/runs/new/?method=activation_patching" in text
    assert "Patching</dt>" in text


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "×"), (np.inf, "∞"), (-np.inf, "\u2212∞"), (-0.001, "0.00")])
def test_every_float_has_a_cell(value: float, shown: str) -> None:
    quantity = Quantity("raw", "Raw", "", "diverging", (-1.0, 1.0))
    assert value_cell(np.float32(value), quantity).text == shown
