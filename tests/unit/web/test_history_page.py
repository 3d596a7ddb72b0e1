"""The history: its filters are its address, its pages are keyset pages, and it costs the same with many rows."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs.models import Run, Status, Tag
from tests.factories import RunFactory


@pytest.fixture
def make_runs(member: User, model: ModelSource, prompts: PromptSetVersion) -> Callable[..., list[Run]]:
    """Runs of Ada's, each with a tag."""

    def make(count: int, **fields: object) -> list[Run]:
        tag, _ = Tag.objects.get_or_create(name="first-look")
        runs = [RunFactory(owner=member, model=model, prompts=prompts, **fields) for _ in range(count)]
        for run in runs:
            run.tags.add(tag)
        return runs

    return make


def titles(client: Client, query: str) -> list[str]:
    return [run.title for run in client.get(f"/runs/?{query}").context["page"].rows]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["B queued", "A done"]),
        ("q=DONE", ["A done"]),
        ("q=gets+the+drink", ["B queued", "A done"]),
        ("status=succeeded", ["A done"]),
        ("model=tiny", ["B queued", "A done"]),
        ("method=activation_patching&status=queued", ["B queued"]),
        ("tag=First-Look", ["B queued", "A done"]),
        ("owner=ada", ["B queued", "A done"]),
        ("owner=nobody", []),
        ("archived=on", ["C archived"]),
        ("since=2999-01-01", []),
        ("until=2999-01-01", ["B queued", "A done"]),
        ("sort=title", ["A done", "B queued"]),
        ("sort=created_at", ["A done", "B queued"]),
        ("sort=-finished_at", ["B queued", "A done"]),
    ],
)
def test_every_filter_is_in_the_address(
    ada: Client, make_runs: Callable[..., list[Run]], query: str, found: list[str]
) -> None:
    make_runs(1, title="A done", status=Status.SUCCEEDED)
    make_runs(1, title="B queued")
    make_runs(1, title="C archived", archived_at=timezone.now())
    assert titles(ada, query) == found


def test_a_filter_in_force_is_a_chip_that_removes_it(ada: Client, make_runs: Callable[..., list[Run]]) -> None:
    make_runs(1)
    page = ada.get("/runs/?q=Run&status=queued&sort=title")
    assert page.context["chips"] == [
        ("Search titles and prompt sets: Run", "status=queued&sort=title"),
        ("Status: Queued", "q=Run&sort=title"),
    ]


@pytest.mark.parametrize(
    "query", ["status=nonsense", "since=tomorrow", "until=9999-12-31", "sort=password", "prompts=x"]
)
def test_a_filter_that_makes_no_sense_is_reported_and_left_out(
    ada: Client, make_runs: Callable[..., list[Run]], query: str
) -> None:
    make_runs(1, title="Still here")
    assert titles(ada, query) == ["Still here"]


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-finished_at", "title", "status"])
def test_pages_go_there_and_back_without_gaps_or_repeats(
    ada: Client, make_runs: Callable[..., list[Run]], sort: str
) -> None:
    make_runs(60, status=Status.SUCCEEDED)
    make_runs(60, title="The same title for all")
    seen, query, last = [], f"sort={sort}", None
    while query:
        last = ada.get(f"/runs/?{query}").context["page"]
        seen += [run.pk for run in last.rows]
        query = f"sort={sort}&page={last.next}" if last.next else ""
    assert len(seen) == len(set(seen)) == 120
    back = ada.get(f"/runs/?sort={sort}&page={last.previous}").context["page"]
    assert [run.pk for run in back.rows] == seen[50:100]


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "W10",
        "eyJhIjogMX0",
        "WzAsICJcdTAwMDAiLCAiMDE4OTBhNWQtYWM5Ni03NzRiLWJjY2UtYjMwMjA5OWE4MDU3Il0",
        "W2ZhbHNlLCAieCIsICJ5Il0",
    ],
)
def test_a_made_up_page_is_an_answer_not_a_crash(ada: Client, cursor: str) -> None:
    response = ada.get(f"/runs/?sort=title&page={cursor}")
    assert response.status_code == 400
    assert "first page" in response.text


@pytest.mark.parametrize("path", ["/runs/", "/", "/queue/", "/prompts/", "/models/tiny/"])
def test_pages_cost_the_same_queries_with_many_rows(
    ada: Client,
    make_runs: Callable[..., list[Run]],
    django_assert_max_num_queries: DjangoAssertNumQueries,
    path: str,
) -> None:
    make_runs(3)
    ada.get(path)
    with django_assert_max_num_queries(30) as few:
        ada.get(path)
    make_runs(40)
    with django_assert_max_num_queries(len(few)):
        ada.get(path)


def test_an_empty_history_explains_itself(ada: Client) -> None:
    assert "Start the first run" in ada.get("/runs/").text
    assert "No run matches" in ada.get("/runs/?q=nothing").text


def test_rows_offer_what_one_may_do(ada: Client, make_runs: Callable[..., list[Run]]) -> None:
    queued, *_ = make_runs(1)
    cancelled, *_ = make_runs(1, status=Status.CANCELLED)
    text = ada.get("/runs/").text
    assert f"/runs/{queued.pk}/cancel/" in text
    assert f"/runs/{cancelled.pk}/resume/" in text
    assert f"/runs/new/?from={queued.pk}" in text


def test_a_time_filter_takes_whole_days(ada: Client, make_runs: Callable[..., list[Run]]) -> None:
    run, *_ = make_runs(1)
    Run.objects.filter(pk=run.pk).update(created_at=timezone.now() - timedelta(days=3))
    day = (timezone.now() - timedelta(days=3)).date()
    assert len(titles(ada, f"since={day}&until={day}")) == 1
    assert titles(ada, f"since={day + timedelta(days=1)}") == []
