"""What people get wrong: each mistake is named where it was made, with what to do, and nothing typed is lost."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.site import Api

CLEAN = "The Eiffel Tower is in the city of"
CORRUPTED = "The Colosseum is in the city of"
MISALIGNED = "The big Colosseum is in the city of"
HEADER = "clean,corrupted,answer,foil\n"
GOOD_ROW = f"{CLEAN},{CORRUPTED}, Paris, Rome\n"


def fill_row(page: Page, **cells: str) -> None:
    for name, text in {"clean": CLEAN, "corrupted": CORRUPTED, "answer": " Paris", "foil": " Rome", **cells}.items():
        page.locator(f"#row-1-{name}").fill(text)


def open_form(page: Page, title: str) -> None:
    page.goto("/prompts/new/")
    page.get_by_label("Title").fill(title)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"corrupted": MISALIGNED}, "clean has 7 tokens, corrupted has 8"),
        ({"answer": " Paris Rome"}, "is 2 tokens"),
        ({"clean": " "}, "the clean prompt is empty"),
        ({"corrupted": CLEAN}, "the same tokens"),
        ({"clean": "of " * 200, "corrupted": "in " * 200}, "the model reads at most"),
    ],
)
def test_a_pair_that_cannot_be_patched_is_explained_and_kept(
    page: Page, api: Api, cells: dict[str, str], said: str
) -> None:
    open_form(page, "Faulty")
    fill_row(page, **cells)
    page.get_by_role("button", name="Save prompt set").click()
    alert = page.get_by_role("alert").filter(has_text=said)
    expect(alert.first).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("Faulty")
    for name, text in cells.items():
        expect(page.locator(f"#row-1-{name}")).to_have_value(text)


def test_the_live_check_marks_a_misaligned_pair_before_saving(page: Page, api: Api) -> None:
    open_form(page, "Live")
    fill_row(page, corrupted=MISALIGNED)
    check = page.get_by_role("region", name="Token check")
    expect(check.get_by_text(re.compile("1 pair has a problem"))).to_be_visible()
    page.locator("#row-1-corrupted").fill(CORRUPTED)
    expect(check.get_by_text("1 pair lines up")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("large.csv", b"x" * (20 * 2**20), "larger than 5 MB"),
        ("latin.csv", (HEADER + GOOD_ROW).replace("Paris", "Zürich").encode("latin-1"), "not UTF-8"),
        ("row.csv", (HEADER + GOOD_ROW + "too,few\n").encode(), "Row 3 has 2 cells"),
        ("sheet.xlsx", b"PK\x03\x04", "neither CSV nor JSON Lines"),
    ],
    ids=["20 MB", "wrong encoding", "bad row", "spreadsheet"],
)
def test_a_bad_upload_is_refused_with_a_reason(
    page: Page, api: Api, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    open_form(page, "Uploaded")
    (tmp_path / name).write_bytes(content)
    page.get_by_label("Upload a file").set_input_files(tmp_path / name)
    page.get_by_role("button", name="Save prompt set").click()
    expect(page.get_by_role("alert").filter(has_text=said).first).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("Uploaded")


def test_a_good_upload_becomes_a_version_that_runs(page: Page, api: Api) -> None:
    open_form(page, "Landmarks, mine")
    file: Any = {"name": "mine.csv", "mimeType": "text/csv", "buffer": (HEADER + GOOD_ROW).encode()}
    page.get_by_label("Upload a file").set_input_files(file)
    page.get_by_role("button", name="Save prompt set").click()
    page.wait_for_url(re.compile(r"/v1/$"))
    expect(page.get_by_text("line up token by token")).to_be_visible()
    page.get_by_role("link", name="New run").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}/$"))


def test_a_run_on_a_misaligned_set_is_refused_beside_the_prompts(page: Page, api: Api) -> None:
    pair = {"clean": CLEAN, "corrupted": MISALIGNED, "answer": [" Paris"], "foil": [" Rome"]}
    made = api.post("prompt-sets/", {"title": "Misaligned", "pairs": [pair]})
    page.goto(f"/runs/new/?prompts={made['id']}")
    problem = page.get_by_text(re.compile("clean has 7 tokens, corrupted has 8"))
    expect(problem.first).to_be_visible()
    runs = len(api.get("runs/")["results"])
    run = page.get_by_role("button", name="Run", exact=True)
    if run.is_enabled():
        run.click()
        expect(problem.first).to_be_visible()
    assert len(api.get("runs/")["results"]) == runs
