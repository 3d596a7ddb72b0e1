"""Typed results as JSON and CSV, and the notebook: what is in them, what is too large for them, when they change."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs import artifacts, results
from interp_app.runs.models import Run, Status
from tests.api.worlds import add_result, finished_run
from tests.factories import RunFactory
from tests.unit.tracing.results.test_types import EACH, bars
from tracing import results as typed
from tracing.experiments.notebook import code_of

Problem = Callable[[Any, int, str], dict[str, Any]]


@pytest.fixture
def run(member: User, model: ModelSource, prompts: PromptSetVersion) -> Run:
    return finished_run(member, model, prompts)


def at(run: Run, part: str) -> str:
    return f"/api/v1/runs/{run.pk}/{part}"


@pytest.mark.parametrize("found", EACH, ids=lambda found: found.FORMAT)
def test_a_result_of_every_type_reads_back_from_json_and_as_a_table(api: APIClient, run: Run, found: Any) -> None:
    add_result(run, found)
    row = api.get(at(run, "results/")).json()["results"][0]
    assert (row["name"], row["type"], row["title"]) == (found.name, found.FORMAT, found.title)
    body = api.get(row["url"]).json()
    assert body["data"] == found.data()
    assert body["left_out"] == []
    arrays = {}
    for name, array in found.arrays().items():
        values = [np.nan if value is None else value for value in _flat(body["arrays"][name])]
        arrays[name] = np.array(values, array.dtype).reshape(body["shapes"][name])
        np.testing.assert_array_equal(arrays[name], array)
    assert typed.from_parts(body["data"], arrays).to_csv() == found.to_csv()
    table = list(csv.reader(io.StringIO(api.get(row["csv"]).content.decode())))
    assert len(table) == len(list(csv.reader(io.StringIO(found.to_csv()))))


def _flat(nested: Any) -> list[Any]:
    return [leaf for part in nested for leaf in _flat(part)] if isinstance(nested, list) else [nested]


def test_results_are_listed_in_order_and_the_newest_of_a_name_counts(api: APIClient, run: Run) -> None:
    for found in (bars(), EACH[0], bars(title="Again")):
        add_result(run, found)
    rows = api.get(at(run, "results/")).json()["results"]
    assert [(row["name"], row["title"]) for row in rows] == [("map", "Map"), ("heads", "Again")]
    assert rows[1]["numbers"] == 8
    assert rows[1]["artifact"]["url"] == at(run, "artifacts/heads.safetensors")


def test_a_reused_run_shows_its_source_s_results(
    api: APIClient, run: Run, member: User, model: ModelSource, prompts: PromptSetVersion
) -> None:
    add_result(run)
    again = RunFactory(owner=member, model=model, prompts=prompts, status=Status.SUCCEEDED, reused_from=run)
    row = api.get(at(again, "results/")).json()["results"][0]
    assert row["url"] == at(again, "results/heads/")
    assert api.get(row["url"]).json()["arrays"] == {"values.raw": [1.5, None, -1.0]}


def test_a_result_is_sent_again_only_when_it_has_changed(api: APIClient, run: Run) -> None:
    add_result(run)
    for part in ("results/heads/", "results/heads.csv"):
        etag = api.get(at(run, part))["ETag"]
        known = api.get(at(run, part), headers={"if-none-match": etag})
        assert (known.status_code, known.content) == (304, b"")
    add_result(run, bars())
    assert api.get(at(run, "results/heads/"), headers={"if-none-match": etag}).status_code == 200


def test_large_arrays_are_named_and_left_to_the_file(api: APIClient, run: Run, monkeypatch: Any) -> None:
    add_result(run, bars())
    monkeypatch.setattr(results, "INLINE_TOTAL", 5)
    body = api.get(at(run, "results/heads/")).json()
    assert len(body["arrays"]) == 2
    assert set(body["left_out"]) == set(body["shapes"]) - set(body["arrays"])
    monkeypatch.setattr(results, "INLINE_NUMBERS", 1)
    assert api.get(at(run, "results/heads/")).json()["arrays"] == {}


def test_a_table_of_too_many_numbers_is_refused(api: APIClient, run: Run, problem: Problem, monkeypatch: Any) -> None:
    add_result(run)
    monkeypatch.setattr(results, "TABLE_NUMBERS", 2)
    told = problem(api.get(at(run, "results/heads.csv")), 413, "result_too_large")
    assert "heads.safetensors" in json.dumps(told)


def test_texts_that_look_like_formulas_are_made_plain_and_numbers_stay(api: APIClient, run: Run) -> None:
    add_result(run)
    rows = list(csv.reader(io.StringIO(api.get(at(run, "results/heads.csv")).content.decode())))
    assert rows == [
        ["head", "head_label", "raw"], ["0", "a0.h0", "1.5"], ["1", "'=a0.h1", ""], ["2", "a0.h2", "-1"],
    ]  # fmt: skip


def test_a_result_that_is_not_there_is_a_problem(api: APIClient, run: Run, problem: Problem) -> None:
    problem(api.get(at(run, "results/nothing/")), 404, "not_found")
    add_result(run)
    sha256 = run.events.get(kind="result").payload["artifact"]["sha256"]
    artifacts.path_of(sha256).unlink()
    problem(api.get(at(run, "results/heads/")), 410, "artifact_missing")


def test_the_notebook_holds_pairs_call_and_stored_numbers(api: APIClient, run: Run) -> None:
    add_result(run)
    response = api.get(at(run, "notebook/"))
    assert response["Content-Type"] == "application/x-ipynb+json"
    assert f"{run.pk}.ipynb" in response["Content-Disposition"]
    code = code_of(json.loads(response.content))
    assert run.prompts.pairs[0]["clean"] in code
    assert "results = sweep(" in code
    assert "heads" in code
    assert compile(code, "notebook", "exec")


def test_a_run_that_has_not_succeeded_has_no_notebook(
    api: APIClient, member: User, model: ModelSource, prompts: PromptSetVersion, problem: Problem
) -> None:
    queued = RunFactory(owner=member, model=model, prompts=prompts)
    problem(api.get(at(queued, "notebook/")), 409, "run_unfinished")


def test_who_may_not_see_the_prompts_gets_no_notebook(
    client_for: Callable[[User], APIClient], colleague: User, run: Run, problem: Problem
) -> None:
    add_result(run)
    colleague_api = client_for(colleague)
    type(run.prompts.prompt_set).objects.update(visibility="private")
    problem(colleague_api.get(at(run, "notebook/")), 404, "not_found")
    assert colleague_api.get(at(run, "results/heads/")).status_code == 200


def test_methods_say_their_group(api: APIClient) -> None:
    rows = api.get("/api/v1/methods/").json()["results"]
    found = {row["name"]: (row["group"], row["group_title"]) for row in rows}
    assert found["activation_patching"] == ("patching", "Patching")


def test_a_damaged_file_is_gone(api: APIClient, run: Run) -> None:
    add_result(run)
    stored = results.result_named(run, "heads")
    artifacts.path_of(stored.sha256).write_bytes(b"junk")
    try:
        for part in ("results/heads/", "results/heads.csv", "notebook/"):
            assert api.get(at(run, part)).status_code == 410, part
    finally:
        artifacts.path_of(stored.sha256).unlink()  # other tests store the same bytes
