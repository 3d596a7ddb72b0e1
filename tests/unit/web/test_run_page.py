"""The run page without scripts, and its buttons."""

import json
import re

import pytest
from django.test import Client
from django.utils import timezone

from interp_app.catalog.models import PromptSet
from interp_app.core.models import User
from interp_app.runs.models import Run, Status
from tests.factories import RunFactory


def test_the_page_shows_status_values_configuration_log_and_files(ada: Client, finished: Run) -> None:
    text = ada.get(f"/runs/{finished.pk}/").text
    for said in (
        "Succeeded",
        "6 of 6 cells",
        "Loaded in 0.3 s",
        "resid_pre.csv",
        "4.25",
        "\u22123.5",
        "layer_position",
    ):
        assert said in text


def test_layer_0_is_the_last_row_and_unknown_cells_are_hatched(ada: Client, finished: Run) -> None:
    text = ada.get(f"/runs/{finished.pk}/").text
    body = text.partition("grid-values")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    cells = re.findall(r'<td class="(\S+)">(.*?)</td>', body)
    unknown = ("v-unknown", "")
    assert cells == [("v2", "\u22120.50"), ("v5", "0.00"), unknown, ("v6", "0.25"), ("v10", "1.00"), unknown]


def test_the_island_starts_from_the_apis_own_json(ada: Client, finished: Run) -> None:
    page = ada.get(f"/runs/{finished.pk}/")
    props = json.loads(re.search(r'<script id="run-props".*?>(.*?)</script>', page.text)[1])
    assert props["run"] == ada.get(f"/api/v1/runs/{finished.pk}/").json()
    assert props["panels"] == ada.get(f"/api/v1/runs/{finished.pk}/panels/").json()
    assert "csrftoken" in page.cookies


@pytest.mark.parametrize("status", Status.values)
def test_every_state_has_a_page(ada: Client, member: User, status: str) -> None:
    run = RunFactory(owner=member, status=status)
    if status == Status.FAILED:
        run.failure_code, run.failure_text = "out_of_memory", "The batch did not fit. Choose a smaller one."
        run.save()
    text = ada.get(f"/runs/{run.pk}/").text
    assert status.capitalize() in text
    if status == Status.FAILED:
        assert "The batch did not fit" in text
        assert str(run.pk) in text
    if status == Status.QUEUED:
        assert "No worker is online" in text


def test_a_public_page_names_nothing_private_that_the_run_stands_on(ada: Client, member: User, finished: Run) -> None:
    PromptSet.objects.update(visibility="private", title="Secret prompts")
    Run.objects.filter(pk=finished.pk).update(visibility="private", title="Secret source")
    run = RunFactory(
        owner=member, model=finished.model, prompts=finished.prompts, status=Status.SUCCEEDED, visibility="public",
        reused_from=finished, cloned_from=finished, title="Shared",
    )  # fmt: skip
    hers = ada.get(f"/runs/{run.pk}/").text
    assert "Secret source" in hers
    assert "Secret prompts" in hers
    assert "Shared" not in Client().get("/runs/?q=Secret+prompts").text
    for path in (f"/runs/{run.pk}/", "/", "/runs/"):
        text = Client().get(path).text
        assert "Shared" in text
        for hidden in ("Secret source", "Secret prompts", str(finished.pk), str(run.prompts.prompt_set_id)):
            assert hidden not in text, path


def test_a_run_asked_to_stop_is_cancelling(ada: Client, member: User) -> None:
    run = RunFactory(owner=member, status=Status.RUNNING, cancel_requested_at=timezone.now())
    text = ada.get(f"/runs/{run.pk}/").text
    assert "Cancelling" in text
    assert f"/runs/{run.pk}/cancel/" not in text


def test_cancel_and_resume_are_forms(ada: Client, member: User) -> None:
    run = RunFactory(owner=member)
    assert ada.get(f"/runs/{run.pk}/cancel/").status_code == 405
    assert ada.post(f"/runs/{run.pk}/cancel/", {"next": "/runs/"}).url == "/runs/"
    run.refresh_from_db()
    assert run.status == Status.CANCELLED
    ada.post(f"/runs/{run.pk}/resume/")
    run.refresh_from_db()
    assert run.status == Status.QUEUED


def test_changing_a_run_needs_the_forms_secret(member: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(member)
    run = RunFactory(owner=member)
    response = strict.post(f"/runs/{run.pk}/cancel/")
    assert response.status_code == 403
    assert "form has expired" in response.text
    run.refresh_from_db()
    assert run.status == Status.QUEUED


def test_an_action_that_is_too_late_says_so(ada: Client, finished: Run) -> None:
    response = ada.post(f"/runs/{finished.pk}/cancel/", follow=True)
    assert "cannot be cancelled" in response.text


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_a_form_never_sends_anybody_to_another_site(ada: Client, member: User, target: str) -> None:
    run = RunFactory(owner=member)
    assert ada.post(f"/runs/{run.pk}/cancel/", {"next": target}).url == f"/runs/{run.pk}/"
    assert ada.post("/settings/theme/", {"theme": "dark", "next": target}).url == "/"


def test_filing_changes_title_tags_visibility_and_archive(ada: Client, finished: Run) -> None:
    ada.post(f"/runs/{finished.pk}/file/", {"title": "Renamed", "tags": "b, a", "visibility": "public"})
    ada.post(f"/runs/{finished.pk}/file/", {"archived": "1"})
    finished.refresh_from_db()
    assert (finished.title, finished.visibility, finished.archived_at is not None) == ("Renamed", "public", True)
    assert [tag.name for tag in finished.tags.all()] == ["a", "b"]
    response = ada.post(f"/runs/{finished.pk}/file/", {"title": " "}, follow=True)
    assert "title is empty" in response.text


def test_a_reused_run_shows_the_values_of_its_source(ada: Client, finished: Run, member: User) -> None:
    run = RunFactory(
        owner=member, model=finished.model, prompts=finished.prompts, status=Status.SUCCEEDED, reused_from=finished
    )
    text = ada.get(f"/runs/{run.pk}/").text
    assert "1.00" in text
    assert f"/runs/{finished.pk}/" in text
