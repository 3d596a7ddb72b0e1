"""Cursor pages: every row once, whatever is added meanwhile; same-time rows too; forwards and backwards."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.core.pagination import Cursor, read_page
from interp_app.runs.models import Run
from tests.factories import RunFactory

RUNS = "/api/v1/runs/"
Problem = Callable[[Any, int, str], dict[str, Any]]


@pytest.fixture
def many(member: User, model: ModelSource, prompts: PromptSetVersion) -> list[str]:
    """25 runs, newest first; five at a time share their creation time."""
    rows = [RunFactory(owner=member, model=model, prompts=prompts) for _ in range(25)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for n, row in enumerate(rows):
        row.created_at = start + timedelta(minutes=n // 5)
    Run.objects.bulk_update(rows, ["created_at"])
    return [str(row.pk) for row in sorted(rows, key=lambda row: (row.created_at, row.pk), reverse=True)]


def ids(page: dict[str, Any]) -> list[str]:
    return [row["id"] for row in page["results"]]


@pytest.mark.parametrize("ordering", ["-created", "created"])
@pytest.mark.parametrize("limit", [1, 4, 5, 24, 25, 26])
def test_every_row_comes_once_forwards_and_backwards(
    api: APIClient, many: list[str], ordering: str, limit: int
) -> None:
    expected = many if ordering == "-created" else many[::-1]
    page = api.get(RUNS, {"limit": limit, "ordering": ordering}).json()
    assert page["previous"] is None
    found, pages = ids(page), [page]
    while page["next"]:
        page = api.get(page["next"]).json()
        pages.append(page)
        found += ids(page)
    assert found == expected
    for earlier, later in zip(pages[-2::-1], pages[:0:-1], strict=True):
        assert ids(api.get(later["previous"]).json()) == ids(earlier)


def test_rows_added_while_paging_move_nothing(
    api: APIClient, many: list[str], member: User, model: ModelSource, prompts: PromptSetVersion
) -> None:
    page = api.get(RUNS, {"limit": 10}).json()
    found = ids(page)
    while page["next"]:
        RunFactory(owner=member, model=model, prompts=prompts)
        page = api.get(page["next"]).json()
        found += ids(page)
    assert found == many


def test_rows_that_vanish_while_paging_skip_nothing(api: APIClient, many: list[str]) -> None:
    page = api.get(RUNS, {"limit": 10}).json()
    Run.objects.filter(pk__in=many[8:12]).delete()
    assert ids(api.get(page["next"]).json()) == many[12:22]


def test_filters_stay_in_the_addresses_of_pages(api: APIClient, many: list[str]) -> None:
    Run.objects.filter(pk__in=many[::2]).update(title="even one")
    page = api.get(RUNS, {"limit": 5, "q": "even"}).json()
    assert ids(page) + ids(api.get(page["next"]).json()) == many[::2][:10]


def test_pages_hold_50_rows_unless_asked_and_200_at_most(
    api: APIClient, member: User, model: ModelSource, prompts: PromptSetVersion, problem: Problem
) -> None:
    RunFactory.create_batch(55, owner=member, model=model, prompts=prompts)
    assert len(ids(api.get(RUNS).json())) == 50
    assert len(ids(api.get(RUNS, {"limit": 200}).json())) == 55
    for bad in ("0", "201", "-1", "x", "", "1e2"):
        assert "limit" in problem(api.get(RUNS, {"limit": bad}), 400, "invalid")["fields"]
        assert "limit" in problem(api.get("/api/v1/models/", {"limit": bad}), 400, "limit_invalid")["fields"]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "e30", "eyJhdCI6MX0", "W10", "bnVsbA", "é", "[" * 3000])
def test_a_made_up_cursor_is_a_problem(api: APIClient, cursor: str, problem: Problem) -> None:
    assert "next" in problem(api.get(RUNS, {"cursor": cursor}), 400, "cursor_invalid")["remedy"]


def test_an_empty_list_has_no_neighbours(api: APIClient, prompts: PromptSetVersion) -> None:
    assert api.get(RUNS).json() == {"next": None, "previous": None, "results": []}


def test_a_cursor_survives_its_text_form(many: list[str]) -> None:
    row = Run.objects.get(pk=many[3])
    cursor = Cursor(row.created_at, row.pk, back=True)
    assert Cursor.decode(cursor.encode()) == cursor
    page = read_page(Run.objects.all(), cursor=Cursor(row.created_at, row.pk).encode(), size=2)
    assert [str(one.pk) for one in page.rows] == many[4:6]
