"""Prompt sets over HTTP: made, versioned, tokenised; what is wrong with pairs is told pair by pair."""

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion

SETS = "/api/v1/prompt-sets/"
PAIR = {"clean": "Mary gave a book to", "corrupted": "John gave a book to", "answer": ["Mary"], "foil": ["John"]}
STORED = {**PAIR, "label": ""}
Problem = Callable[[Any, int, str], dict[str, Any]]


def test_a_prompt_set_starts_with_version_1(api: APIClient, db: None) -> None:
    response = api.post(SETS, {"title": "Books", "pairs": [PAIR], "visibility": "private", "note": "first"})
    made = response.json()
    assert response.status_code == 201
    assert (made["title"], made["version"], made["pairs"], made["can"]) == ("Books", 1, 1, {"edit": True})
    assert api.get(response["Location"]).json() == made
    version = api.get(f"{response['Location']}versions/1/").json()
    assert version["pairs"] == [STORED]
    assert version["note"] == "first"


def test_one_word_may_be_written_as_a_text(api: APIClient) -> None:
    made = api.post(SETS, {"title": "Books", "pairs": [{**PAIR, "answer": " Mary", "foil": " John"}]}).json()
    pairs = api.get(f"{SETS}{made['id']}/versions/1/").json()["pairs"]
    assert (pairs[0]["answer"], pairs[0]["foil"]) == ([" Mary"], [" John"])


def test_new_pairs_make_a_new_version_and_the_same_pairs_do_not(api: APIClient, problem: Problem) -> None:
    address = f"{SETS}{api.post(SETS, {'title': 'Books', 'pairs': [PAIR]}).json()['id']}/"
    same = api.post(f"{address}versions/", {"pairs": [PAIR]})
    assert same.json()["number"] == 1
    second = api.post(f"{address}versions/", {"pairs": [PAIR, {**PAIR, "label": "again"}], "note": "more"})
    assert (second.json()["number"], second["Location"]) == (2, f"{address}versions/2/")
    found = api.get(address).json()
    assert [(one["number"], one["n_pairs"]) for one in found["versions"]] == [(2, 2), (1, 1)]
    problem(api.get(f"{address}versions/3/"), 404, "not_found")


def test_a_prompt_set_is_renamed_and_archived(api: APIClient, prompts: PromptSetVersion) -> None:
    address = f"{SETS}{prompts.prompt_set_id}/"
    changed = api.patch(address, {"title": "New", "archived": True}).json()
    assert (changed["title"], changed["archived"]) == ("New", True)
    assert api.get(SETS).json()["results"] == []
    assert [one["id"] for one in api.get(SETS, {"archived": "true"}).json()["results"]] == [changed["id"]]


def test_the_list_is_searched_by_title_and_task(api: APIClient, prompts: PromptSetVersion) -> None:
    PromptSet.objects.filter(pk=prompts.prompt_set_id).update(task="ioi")
    for query, count in (({"q": "drink"}, 1), ({"q": "zzz"}, 0), ({"task": "ioi"}, 1), ({"task": "facts"}, 0)):
        assert len(api.get(SETS, query).json()["results"]) == count, query


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * 121}, "title"),
        ({"pairs": []}, "pairs"),
        ({"pairs": None}, "pairs"),
        ({"pairs": "abc"}, "pairs"),
        ({"pairs": ["abc"]}, "pairs"),
        ({"pairs": [{"clean": "a"}]}, "pairs"),
        ({"pairs": [{**PAIR, "extra": 1}]}, "pairs"),
        ({"pairs": [{**PAIR, "clean": 3}]}, "pairs"),
        ({"pairs": [{**PAIR, "clean": "x" * 5000}]}, "pairs"),
        ({"pairs": [{**PAIR, "answer": ["a"] * 65}]}, "pairs"),
        ({"visibility": "all"}, "visibility"),
        ({"task": "a b"}, "task"),
    ],
)
def test_what_cannot_be_stored_is_named(api: APIClient, change: dict[str, Any], field: str, problem: Problem) -> None:
    response = api.post(SETS, {"title": "Books", "pairs": [PAIR], **change})
    found = problem(response, 400, response.json()["code"])
    assert field in found["fields"]
    assert found["remedy"]
    assert PromptSet.objects.count() == 0


def test_more_pairs_than_a_set_holds_are_refused(api: APIClient, problem: Problem) -> None:
    found = problem(api.post(SETS, {"title": "Many", "pairs": [PAIR] * 10_001}), 400, "invalid")
    assert "10000" in found["fields"]["pairs"][0]


def test_tokens_show_where_clean_and_corrupted_differ(
    api: APIClient, model: ModelSource, prompts: PromptSetVersion, problem: Problem
) -> None:
    address = f"{SETS}{prompts.prompt_set_id}/versions/1/tokens/"
    found = api.get(address, {"model": "tiny"}).json()
    assert (found["usable"], found["total"], found["problems"]) == (True, 2, [])
    first = found["pairs"][0]
    assert [token["text"] for token in first["clean"]][:3] == ["When", "Mary", "and"]
    assert [n for n, token in enumerate(first["clean"]) if token["differs"]] == [8]
    assert (first["aligned"], [token["text"] for token in first["answer"]]) == (True, ["Mary"])
    assert [pair["number"] for pair in api.get(address, {"model": "tiny", "start": 2}).json()["pairs"]] == [2]
    assert "model" in problem(api.get(address), 400, "invalid")["fields"]
    assert "model" in problem(api.get(address, {"model": "none"}), 400, "model_unknown")["fields"]


def test_a_check_tells_every_problem_and_stores_nothing(api: APIClient, model: ModelSource) -> None:
    pairs = [PAIR, {**PAIR, "corrupted": "John gave"}, {**PAIR, "clean": ""}, {**PAIR, "answer": ["Mary John"]}]
    found = api.post(f"{SETS}check/", {"model": "tiny", "pairs": pairs}).json()
    assert [(one["number"], one["field"]) for one in found["problems"]] == [
        (2, "corrupted"),
        (3, "clean"),
        (4, "answer"),
    ]
    assert all(one["remedy"] for one in found["problems"])
    assert (found["usable"], found["problems_total"], len(found["pairs"])) == (False, 3, 4)
    assert found["pairs"][1]["aligned"] is False
    assert PromptSet.objects.count() == 0


def test_hostile_text_comes_back_as_it_was_written(api: APIClient, model: ModelSource) -> None:
    text = "<script>alert(1)</script> \u202e\u200b=cmd|' /C calc'!A0"
    pair = {**PAIR, "clean": text, "corrupted": text}
    made = api.post(SETS, {"title": text[:60], "pairs": [pair]})
    stored = api.get(f"{made['Location']}versions/1/")
    assert stored.json()["pairs"][0]["clean"] == text
    assert stored["Content-Type"] == "application/json"


def test_models_are_described_without_their_place_on_disk(api: APIClient, model: ModelSource, problem: Problem) -> None:
    found = api.get("/api/v1/models/tiny/").json()
    assert found["facts"]["n_layers"] == 3
    assert found in [
        {**one, **{k: found[k] for k in found if k not in one}} for one in api.get("/api/v1/models/").json()["results"]
    ]
    assert "location" not in found
    ModelSource.objects.update(allowed=False)
    problem(api.get("/api/v1/models/tiny/"), 404, "not_found")
