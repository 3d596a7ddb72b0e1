"""Signing in and out, the theme, API tokens."""

import re
from collections.abc import Iterator

import pytest
from django.core.cache import cache
from django.test import Client

from interp_app.core.models import ApiToken, User
from interp_app.core.tokens import issue_token, verify_token
from interp_app.web.views.account import ATTEMPTS

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def no_attempts_yet() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def sign_in(client: Client, password: str = PASSWORD, **data: str) -> object:
    return client.post("/login/", {"username": "ada", "password": password, **data})


def test_signing_in_leads_to_where_one_wanted_to_go(client: Client, member: User) -> None:
    assert sign_in(client, next="/queue/").url == "/queue/"
    assert client.get("/queue/").status_code == 200


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/x", "javascript:alert(1)"])
def test_signing_in_never_leads_to_another_site(client: Client, member: User, target: str) -> None:
    assert sign_in(client, next=target).url == "/"


def test_a_wrong_password_is_explained_and_keeps_the_name(client: Client, member: User) -> None:
    response = sign_in(client, "wrong")
    assert response.status_code == 400
    assert "do not match an active account" in response.text
    assert 'value="ada"' in response.text
    assert "wrong" not in response.text


def test_too_many_wrong_passwords_close_the_form_for_that_name(client: Client, member: User) -> None:
    for _ in range(ATTEMPTS):
        sign_in(client, "wrong")
    response = sign_in(client)
    assert response.status_code == 429
    assert "Wait five minutes" in response.text
    assert client.get("/queue/").status_code == 302


def test_a_success_forgets_the_wrong_passwords_before_it(client: Client, member: User) -> None:
    for _ in range(ATTEMPTS - 1):
        sign_in(client, "wrong")
    assert sign_in(client).status_code == 302


def test_signing_out_takes_a_post(ada: Client) -> None:
    assert ada.get("/logout/").status_code == 405
    assert ada.post("/logout/").url == "/"
    assert ada.get("/queue/").status_code == 302


def test_the_theme_is_chosen_without_scripts(client: Client, db: None) -> None:
    assert "data-theme" not in client.get("/").text
    response = client.post("/settings/theme/", {"theme": "dark", "next": "/help/"})
    assert response.url == "/help/"
    assert 'data-theme="dark"' in client.get("/").text
    client.post("/settings/theme/", {"theme": '"><script>'})
    assert 'data-theme="dark"' in client.get("/").text
    client.cookies["theme"] = '"><script>'
    assert "data-theme" not in client.get("/").text


def test_a_token_is_shown_once_and_works(ada: Client, member: User) -> None:
    response = ada.post("/settings/tokens/", {"name": "notebook", "scope": "read", "lifetime": "30"})
    secret = re.search(r"pbt_[0-9a-f]{16}\.[\w-]{43}", response.text)[0]
    token = verify_token(secret)
    assert (token.user, token.scopes, token.expires_at is not None) == (member, ["read"], True)
    assert response["Cache-Control"].startswith("max-age=0")
    again = ada.get("/settings/tokens/").text
    assert secret.partition(".")[2] not in again
    assert "notebook" in again


def test_a_token_that_is_revoked_is_gone(ada: Client, member: User) -> None:
    token, _ = issue_token(user=member, name="old", scopes=["read"])
    assert "is revoked" in ada.post(f"/settings/tokens/{token.pk}/revoke/", follow=True).text
    assert ApiToken.objects.get().revoked_at is not None


def test_nobody_revokes_another_ones_token(ada: Client, colleague: User) -> None:
    token, _ = issue_token(user=colleague, name="theirs", scopes=["read"])
    assert ada.post(f"/settings/tokens/{token.pk}/revoke/").status_code == 404
    assert ApiToken.objects.get().revoked_at is None


@pytest.mark.parametrize(
    ("data", "said"),
    [({"name": ""}, "required"), ({"name": "x" * 81}, "at most 80"), ({"scope": "root"}, "not one of")],
)
def test_a_bad_token_form_says_why(ada: Client, data: dict[str, str], said: str) -> None:
    response = ada.post("/settings/tokens/", {"name": "n", "scope": "read", "lifetime": "", **data})
    assert response.status_code == 400
    assert said in response.text
    assert not ApiToken.objects.exists()
