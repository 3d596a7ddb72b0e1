"""Prompt sets: seeing them as tokens, making them by hand, from a text and from a file, and what goes wrong."""

import csv
import io
import json
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.core.models import User
from tests.factories import PromptSetFactory, PromptSetVersionFactory
from tests.unit.web.conftest import PAIR

ROW = {f"row-1-{name}": text for name, text in PAIR.items()}
CSV = "clean,corrupted,answer,foil\n{clean},{corrupted},{answer},{foil}\n".format(**PAIR)
MISALIGNED = {**ROW, "row-1-corrupted": "When Mary and John went to the big store Mary gave a drink to"}


def post(client: Client, **data: object) -> Any:
    return client.post("/prompts/new/", {"title": "Drinks", "visibility": "lab", "model": "tiny", **data})


def test_pairs_typed_by_hand_become_version_1(ada: Client, model: ModelSource) -> None:
    response = post(ada, **ROW)
    made = PromptSet.objects.get()
    assert response.url == f"/prompts/{made.pk}/v1/"
    assert made.versions.get().pairs == [{**PAIR, "answer": ["Mary"], "foil": ["John"], "label": ""}]


@pytest.mark.parametrize(
    "text", [CSV, json.dumps(PAIR), f"{json.dumps(PAIR)}\n\n{json.dumps({**PAIR, 'label': 'second'})}\n"]
)
def test_pasted_csv_and_json_lines_are_told_apart(ada: Client, model: ModelSource, text: str) -> None:
    assert post(ada, pairs_text=text).status_code == 302
    assert PromptSetVersion.objects.get().pairs[0]["clean"] == PAIR["clean"]


def test_a_file_is_uploaded(ada: Client, model: ModelSource) -> None:
    assert post(ada, file=SimpleUploadedFile("pairs.csv", CSV.encode("utf-8-sig"))).status_code == 302
    assert PromptSetVersion.objects.get().n_pairs == 1


def test_a_leading_space_survives_typing_downloading_and_uploading(ada: Client, model: ModelSource) -> None:
    post(ada, save_anyway="on", **{**ROW, "row-1-answer": " Mary"})
    version = PromptSetVersion.objects.get()
    assert version.pairs[0]["answer"] == [" Mary"]
    for suffix in ("csv", "jsonl"):
        file = ada.get(f"/prompts/{version.prompt_set_id}/v1.{suffix}")
        upload = SimpleUploadedFile(f"again.{suffix}", file.content)
        post(ada, title=f"From {suffix}", file=upload, save_anyway="on")
        again = PromptSetVersion.objects.get(prompt_set__title=f"From {suffix}")
        assert again.sha256 == version.sha256


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "no prompt pairs yet"),
        ({**ROW, "row-1-answer": ""}, "Row 1: the answer is empty"),
        ({"pairs_text": "clean,answer\na,b\n"}, "lacks corrupted"),
        ({"pairs_text": '{"clean": "a", "corrupted": 3, "answer": "b"}'}, "Row 1"),
        ({"pairs_text": '{"clean": '}, "Row 1"),
        ({**ROW, "pairs_text": CSV}, "more than one place"),
        ({**ROW, "title": "x" * 121}, "at most 120"),
    ],
)
def test_a_bad_form_says_what_is_wrong_and_keeps_what_was_typed(
    ada: Client, model: ModelSource, data: dict[str, str], said: str
) -> None:
    response = post(ada, description="Kept as typed", **data)
    assert response.status_code == 400
    assert said in response.text
    assert "Kept as typed" in response.text
    for name, typed in data.items():
        if typed and name != "title":
            assert typed.splitlines()[0].replace('"', "&quot;") in response.text
    assert not PromptSet.objects.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs.csv", CSV.encode("utf-16"), "not UTF-8"),
        ("pairs.csv", CSV.replace("Mary", "Zoë").encode("latin-1"), "on line 2"),
        ("pairs.xlsx", b"PK", "neither CSV nor JSON Lines"),
        ("pairs.csv", b"x" * (5 * 2**20 + 1), "larger than 5 MB"),
        ("pairs.csv", b"clean,corrupted,answer\n", "no prompt pairs"),
        ("pairs.csv", CSV.encode() + b"too,few\n", "Row 3 has 2 cells"),
    ],
)
def test_a_bad_file_is_refused_with_the_row_and_the_remedy(
    ada: Client, model: ModelSource, name: str, content: bytes, said: str
) -> None:
    response = post(ada, description="Kept as typed", file=SimpleUploadedFile(name, content))
    assert response.status_code == 400
    assert said in response.text
    assert "Kept as typed" in response.text


def test_a_file_with_a_bad_row_comes_back_as_text_to_correct(ada: Client, model: ModelSource) -> None:
    response = post(ada, file=SimpleUploadedFile("pairs.csv", CSV.encode() + b"too,few\n"))
    assert "too,few\n</textarea>" in response.text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (MISALIGNED, "clean has 13 tokens, corrupted has 14"),
        ({**ROW, "row-1-answer": "Mary John"}, "is 2 tokens"),
        ({**ROW, "row-1-corrupted": PAIR["clean"]}, "the same tokens"),
        ({**ROW, "row-1-clean": " "}, "the clean prompt is empty"),
    ],
)
def test_pairs_that_cannot_be_patched_are_explained_before_they_are_saved(
    ada: Client, model: ModelSource, data: dict[str, str], said: str
) -> None:
    response = post(ada, **data)
    assert response.status_code == 400
    assert said in response.text
    assert not PromptSet.objects.exists()
    assert post(ada, save_anyway="on", **data).status_code == 302


def test_checking_tokens_saves_nothing_and_shows_them(ada: Client, model: ModelSource) -> None:
    response = post(ada, action="check", **ROW)
    assert response.status_code == 200
    assert "All pairs can be patched" in response.text
    assert "tok-differs" in response.text
    assert not PromptSet.objects.exists()


def test_more_rows_keeps_what_was_typed_and_complains_about_nothing(ada: Client, model: ModelSource) -> None:
    response = post(ada, title="", action="more", **ROW)
    assert response.status_code == 200
    assert PAIR["clean"] in response.text
    assert 'name="row-7-clean"' in response.text
    assert "required" not in response.text.partition("<form")[0]
    assert "error-text" not in response.text


def test_a_version_shows_tokens_ids_and_what_differs(
    ada: Client, model: ModelSource, prompts: PromptSetVersion
) -> None:
    response = ada.get(f"/prompts/{prompts.prompt_set_id}/v1/")
    assert response.text.count("tok-differs") == 4  # one token in clean and corrupted of each of two pairs
    assert "All 2 pairs line up" in response.text
    assert "id 1, &#x27;Mary&#x27;" in response.text


def test_a_version_says_which_pairs_a_model_cannot_run(ada: Client, model: ModelSource) -> None:
    bad = {**PAIR, "answer": ["Mary John"], "foil": ["John"]}
    version = PromptSetVersionFactory(pairs=[bad, {**bad, "answer": ["Mary"]}])
    response = ada.get(f"/prompts/{version.prompt_set_id}/v1/")
    assert "1 of 2 pairs cannot be patched with" in response.text
    assert "must be exactly one" in response.text


def test_a_missing_tokenizer_leaves_the_texts(ada: Client, prompts: PromptSetVersion, model: ModelSource) -> None:
    model.location = "tests/nowhere"
    model.tokenizer_sha256 = "c" * 64
    model.save()
    response = ada.get(f"/prompts/{prompts.prompt_set_id}/v1/")
    assert response.status_code == 200
    assert "The tokens cannot be shown" in response.text
    assert prompts.pairs[0]["clean"] in response.text


def test_editing_writes_the_next_version_and_keeps_the_old(
    ada: Client, model: ModelSource, prompts: PromptSetVersion
) -> None:
    form = ada.get(f"/prompts/{prompts.prompt_set_id}/edit/")
    assert prompts.pairs[1]["clean"] in form.text
    data = {"title": "Renamed", "visibility": "lab", "model": "tiny", "note": "one pair", **ROW}
    response = ada.post(f"/prompts/{prompts.prompt_set_id}/edit/", data)
    assert response.url == f"/prompts/{prompts.prompt_set_id}/v2/"
    assert ada.get(f"/prompts/{prompts.prompt_set_id}/v1/").text.count("<tr id=") == 2
    assert ada.get(f"/prompts/{prompts.prompt_set_id}/").url.endswith("/v2/")


def test_downloads_hold_every_pair(ada: Client, prompts: PromptSetVersion) -> None:
    rows = list(csv.DictReader(io.StringIO(ada.get(f"/prompts/{prompts.prompt_set_id}/v1.csv").text)))
    lines = [json.loads(line) for line in ada.get(f"/prompts/{prompts.prompt_set_id}/v1.jsonl").text.splitlines()]
    assert [row["clean"] for row in rows] == [line["clean"] for line in lines] == [p["clean"] for p in prompts.pairs]
    assert ada.get(f"/prompts/{prompts.prompt_set_id}/v1.exe").status_code == 404


def test_a_downloaded_formula_is_quoted_and_comes_back_as_it_was(ada: Client, model: ModelSource) -> None:
    pairs = [
        {"clean": "=HYPERLINK(1)", "corrupted": "+1", "answer": [" -3", "@x"], "foil": ["'=y"], "label": "\t="},
        {"clean": "'s", "corrupted": "  =2", "answer": ["-a"], "foil": [], "label": "''quoted''"},
    ]
    version = PromptSetVersionFactory(pairs=pairs)
    file = ada.get(f"/prompts/{version.prompt_set_id}/v1.csv")
    cells = [cell for row in csv.reader(io.StringIO(file.text, newline="")) for cell in row]
    assert not [cell for cell in cells if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t"))]
    post(ada, title="Again", file=SimpleUploadedFile("again.csv", file.content), save_anyway="on")
    assert PromptSetVersion.objects.get(prompt_set__title="Again").pairs == pairs


def test_pairs_that_csv_cannot_hold_are_offered_as_json_lines_only(
    ada: Client, member: User, model: ModelSource
) -> None:
    pairs = [{"clean": "a", "corrupted": "b", "answer": ["x|y"], "foil": [], "label": ""}]
    version = PromptSetVersionFactory(prompt_set__owner=member, pairs=pairs)
    path = f"/prompts/{version.prompt_set_id}"
    shown = ada.get(f"{path}/v1/").text
    assert "v1.jsonl" in shown
    assert "v1.csv" not in shown
    refused = ada.get(f"{path}/v1.csv")
    assert (refused.status_code, "JSON Lines" in refused.text) == (409, True)
    assert json.loads(ada.get(f"{path}/v1.jsonl").text)["answer"] == "x|y"
    assert "x|y" in ada.get(f"{path}/edit/").context["form"]["pairs_text"].value()


def test_an_archived_set_leaves_the_list_and_comes_back(ada: Client, prompts: PromptSetVersion) -> None:
    path = f"/prompts/{prompts.prompt_set_id}/archive/"
    ada.post(path, {"archived": "1"})
    assert prompts.prompt_set.title not in ada.get("/prompts/").text
    assert prompts.prompt_set.title in ada.get("/prompts/?archived=1").text
    ada.post(path, {"archived": "0"})
    assert prompts.prompt_set.title in ada.get("/prompts/").text


def test_an_empty_list_says_what_will_be_there(ada: Client) -> None:
    assert "Make the first one" in ada.get("/prompts/").text
    PromptSetFactory(title="Something")
    assert "Show all" in ada.get("/prompts/?q=nothing-like-it").text
