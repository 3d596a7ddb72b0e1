"""Who sees which page."""

from collections.abc import Callable

import pytest
from django.test import Client

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.core.visibility import Visibility
from interp_app.runs.models import Run

OPEN = ("/", "/prompts/", "/runs/", "/help/", "/help/shortcuts/", "/help/methods/activation_patching/", "/login/")
LAB = ("/models/", "/models/tiny/", "/queue/")
MEMBERS = ("/runs/new/", "/prompts/new/")
BrowserOf = Callable[[User | None], Client]


@pytest.mark.parametrize("path", OPEN)
def test_open_pages_need_no_account(client: Client, model: ModelSource, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", [*LAB, *MEMBERS, "/settings/tokens/"])
def test_pages_of_the_lab_send_visitors_to_sign_in_and_back(client: Client, model: ModelSource, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.url) == (302, f"/login/?next={path}")


@pytest.mark.parametrize("path", [*LAB, *MEMBERS])
def test_guests_are_told_whom_to_ask(browser_of: BrowserOf, stranger: User, model: ModelSource, path: str) -> None:
    response = browser_of(stranger).get(path)
    assert response.status_code == 403
    assert "Ask an administrator" in response.text


@pytest.mark.parametrize("path", LAB)
def test_readers_see_the_lab(browser_of: BrowserOf, reader: User, model: ModelSource, path: str) -> None:
    assert browser_of(reader).get(path).status_code == 200


@pytest.mark.parametrize("path", MEMBERS)
def test_readers_may_not_run(browser_of: BrowserOf, reader: User, path: str) -> None:
    response = browser_of(reader).get(path)
    assert response.status_code == 403
    assert "role member" in response.text


@pytest.mark.parametrize("path", [*OPEN[:-1], *LAB, *MEMBERS, "/settings/tokens/"])
def test_members_see_every_page(ada: Client, model: ModelSource, path: str) -> None:
    assert ada.get(path).status_code == 200


@pytest.mark.parametrize(
    ("visibility", "seen_by"),
    [
        (Visibility.PRIVATE, {"member"}),
        (Visibility.LAB, {"member", "colleague", "reader"}),
        (Visibility.PUBLIC, {"member", "colleague", "reader", "stranger", None}),
    ],
)
def test_runs_and_prompts_are_seen_as_their_owner_decided(
    browser_of: BrowserOf,
    finished: Run,
    member: User,
    colleague: User,
    reader: User,
    stranger: User,
    visibility: str,
    seen_by: set[str | None],
) -> None:
    prompt_set = finished.prompts.prompt_set
    for thing in (finished, prompt_set):
        thing.visibility = visibility
        thing.save()
    people = {"member": member, "colleague": colleague, "reader": reader, "stranger": stranger, None: None}
    for name, user in people.items():
        browser = browser_of(user)
        expected = 200 if name in seen_by else 404
        assert browser.get(f"/runs/{finished.pk}/").status_code == expected, name
        assert browser.get(f"/prompts/{prompt_set.pk}/v1/").status_code == expected, name
        assert browser.get(f"/prompts/{prompt_set.pk}/v1.csv").status_code == expected, name


def test_outsiders_of_a_public_run_do_not_see_the_labs_models(
    browser_of: BrowserOf, finished: Run, stranger: User
) -> None:
    finished.prompts.prompt_set.visibility = Visibility.PUBLIC
    finished.prompts.prompt_set.save()
    for user in (stranger, None):
        text = browser_of(user).get(f"/prompts/{finished.prompts.prompt_set_id}/v1/").text
        assert 'name="model"' not in text


def test_only_the_owner_gets_the_buttons(browser_of: BrowserOf, finished: Run, member: User, colleague: User) -> None:
    mine = browser_of(member).get(f"/runs/{finished.pk}/").text
    theirs = browser_of(colleague).get(f"/runs/{finished.pk}/").text
    assert f"/runs/{finished.pk}/file/" in mine
    assert f"/runs/{finished.pk}/file/" not in theirs
    assert f"/runs/new/?from={finished.pk}" in theirs


@pytest.mark.parametrize("action", ["cancel", "resume", "file"])
def test_nobody_changes_another_ones_run(browser_of: BrowserOf, finished: Run, colleague: User, action: str) -> None:
    before = Run.objects.values().get(pk=finished.pk)
    response = browser_of(colleague).post(f"/runs/{finished.pk}/{action}/", {"archived": "1"}, follow=True)
    assert "belongs to someone else" in response.text
    assert Run.objects.values().get(pk=finished.pk) == before


def test_nobody_edits_another_ones_prompts(browser_of: BrowserOf, prompts: PromptSetVersion, colleague: User) -> None:
    browser = browser_of(colleague)
    assert browser.get(f"/prompts/{prompts.prompt_set_id}/edit/").status_code == 403
    browser.post(f"/prompts/{prompts.prompt_set_id}/archive/", {"archived": "1"})
    prompts.prompt_set.refresh_from_db()
    assert prompts.prompt_set.archived_at is None
