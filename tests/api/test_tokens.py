"""API tokens: shown once, stored as a keyed hash, good for their scopes until they expire or are revoked."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from interp_app.core.models import ApiToken, User
from interp_app.core.tokens import issue_token, revoke_token, verify_token
from tests.api.conftest import ClientFor
from tests.api.worlds import World

Problem = Callable[[Any, int, str], dict[str, Any]]


def bearer(text: str) -> APIClient:
    client = APIClient(headers={"authorization": f"Bearer {text}"}, enforce_csrf_checks=True)
    client.default_format = "json"
    return client


@pytest.fixture
def read_token(member: User) -> tuple[ApiToken, str]:
    return issue_token(user=member, name="notebook", scopes=["read"])


def test_a_new_token_is_shown_once_and_stored_as_a_hash(api: APIClient) -> None:
    made = api.post("/api/v1/tokens/", {"name": "notebook", "scopes": ["write"]}).json()
    assert made["scopes"] == ["read", "write"]
    key, secret = made["token"].removeprefix("pbt_").split(".")
    stored = ApiToken.objects.get(pk=made["id"])
    assert stored.key == key == made["key"]
    assert secret not in str(ApiToken.objects.filter(pk=made["id"]).values()[0])
    assert len(stored.secret_hash) == 64
    listed = api.get("/api/v1/tokens/").json()["results"]
    assert [row["id"] for row in listed] == [made["id"]]
    assert secret not in str(listed)


def test_a_token_speaks_for_its_user(world: World, read_token: tuple[ApiToken, str]) -> None:
    client = bearer(read_token[1])
    me = client.get("/api/v1/me/").json()
    assert (me["username"], me["token"]["name"], me["token"]["scopes"]) == ("ada", "notebook", ["read"])
    assert client.get(f"/api/v1/runs/{world.runs['private'].pk}/").status_code == 200


def test_a_read_token_reads_and_previews_but_changes_nothing(
    world: World, read_token: tuple[ApiToken, str], problem: Problem
) -> None:
    client = bearer(read_token[1])
    run = world.queued["lab"]
    plan = {
        "method": "activation_patching",
        "model": "tiny",
        "prompts": {"id": str(world.prompts["lab"].prompt_set_id)},
    }
    assert client.post("/api/v1/runs/preview/", plan).status_code == 200
    problem(client.post("/api/v1/runs/", plan), 403, "token_scope")
    problem(client.patch(f"/api/v1/runs/{run.pk}/", {"title": "no"}), 403, "token_scope")
    body = problem(client.post(f"/api/v1/runs/{run.pk}/cancel/"), 403, "token_scope")
    assert "scope write" in body["remedy"]
    run.refresh_from_db()
    assert run.status == "queued"


def test_a_write_token_needs_no_csrf_token(world: World, member: User) -> None:
    client = bearer(issue_token(user=member, name="ci", scopes=["write"])[1])
    assert client.post(f"/api/v1/runs/{world.queued['lab'].pk}/cancel/").json()["status"] == "cancelled"


def test_a_token_manages_no_tokens(read_token: tuple[ApiToken, str], member: User, problem: Problem) -> None:
    client = bearer(issue_token(user=member, name="ci", scopes=["read", "write"])[1])
    problem(client.get("/api/v1/tokens/"), 403, "session_required")
    problem(client.post("/api/v1/tokens/", {"name": "more", "scopes": ["read"]}), 403, "session_required")
    problem(client.delete(f"/api/v1/tokens/{read_token[0].pk}/"), 403, "session_required")


def test_a_revoked_token_is_refused_at_once(api: APIClient, read_token: tuple[ApiToken, str], problem: Problem) -> None:
    client = bearer(read_token[1])
    assert client.get("/api/v1/me/").status_code == 200
    assert api.delete(f"/api/v1/tokens/{read_token[0].pk}/").status_code == 204
    body = problem(client.get("/api/v1/me/"), 401, "authentication_failed")
    assert "revoked" in body["detail"]
    problem(api.delete(f"/api/v1/tokens/{read_token[0].pk}/"), 404, "not_found")


def test_an_expired_token_is_refused(member: User, problem: Problem) -> None:
    token, text = issue_token(user=member, name="old", scopes=["read"], expires_at=timezone.now() + timedelta(hours=1))
    assert bearer(text).get("/api/v1/me/").status_code == 200
    ApiToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert "expired" in problem(bearer(text).get("/api/v1/me/"), 401, "authentication_failed")["detail"]


def test_a_token_of_a_deactivated_account_is_refused(
    member: User, read_token: tuple[ApiToken, str], problem: Problem
) -> None:
    User.objects.filter(pk=member.pk).update(is_active=False)
    problem(bearer(read_token[1]).get("/api/v1/me/"), 401, "authentication_failed")


@pytest.mark.parametrize(
    "text", ["", "x", "pbt_", "pbt_0123456789abcdef.short", "pbt_0123456789abcdef." + "A" * 43, "a b", "\u00fc"]
)
def test_what_is_no_token_is_refused_with_a_challenge(db: None, text: str, problem: Problem) -> None:
    response = APIClient(HTTP_AUTHORIZATION=f"Bearer {text}").get("/api/v1/runs/")
    problem(response, 401, "authentication_failed")
    assert response["WWW-Authenticate"] == 'Bearer realm="Patchbay"'


def test_the_right_key_with_another_secret_is_refused(read_token: tuple[ApiToken, str], problem: Problem) -> None:
    forged = read_token[1][:-1] + ("A" if read_token[1][-1] != "A" else "B")
    problem(bearer(forged).get("/api/v1/me/"), 401, "authentication_failed")


def test_tokens_outlive_a_rotated_secret_key_that_is_kept_as_fallback(
    read_token: tuple[ApiToken, str], settings: Any
) -> None:
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another-secret-key-" + "z" * 40
    assert verify_token(read_token[1]).pk == read_token[0].pk


def test_a_leaked_table_is_useless_without_the_secret_key(
    read_token: tuple[ApiToken, str], settings: Any, problem: Problem
) -> None:
    settings.SECRET_KEY = "another-secret-key-" + "z" * 40
    problem(bearer(read_token[1]).get("/api/v1/me/"), 401, "authentication_failed")


def test_the_last_use_is_written_once_a_minute(read_token: tuple[ApiToken, str]) -> None:
    token, text = read_token
    verify_token(text)
    token.refresh_from_db()
    assert token.last_used_at is not None
    with CaptureQueriesContext(
        connection,
    ) as queries:
        verify_token(text)
    assert [q["sql"] for q in queries if q["sql"].startswith("UPDATE")] == []
    ApiToken.objects.filter(pk=token.pk).update(last_used_at=timezone.now() - timedelta(minutes=2))
    with CaptureQueriesContext(connection) as queries:
        verify_token(text)
    assert len([q for q in queries if q["sql"].startswith("UPDATE")]) == 1


def test_nobody_sees_or_revokes_the_tokens_of_others(
    client_for: ClientFor, colleague: User, lab_admin: User, read_token: tuple[ApiToken, str], problem: Problem
) -> None:
    for other in (colleague, lab_admin):
        client = client_for(other)
        assert client.get("/api/v1/tokens/").json()["results"] == []
        problem(client.delete(f"/api/v1/tokens/{read_token[0].pk}/"), 404, "not_found")
    assert verify_token(read_token[1])


def test_a_token_that_would_have_expired_is_not_made(api: APIClient, problem: Problem) -> None:
    past = (timezone.now() - timedelta(days=1)).isoformat()
    body = problem(
        api.post("/api/v1/tokens/", {"name": "x", "scopes": ["read"], "expires_at": past}), 400, "token_expired_already"
    )
    assert "expires_at" in body["fields"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["read"]}, "name"),
        ({"name": "x"}, "scopes"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["admin"]}, "scopes.0"),
        ({"name": "x", "scopes": ["read"], "expires": "never"}, "expires"),
    ],
)
def test_a_token_needs_a_name_and_known_scopes(
    api: APIClient, problem: Problem, body: dict[str, Any], field: str
) -> None:
    assert field in problem(api.post("/api/v1/tokens/", body), 400, "invalid")["fields"]


def test_an_account_has_a_limited_number_of_live_tokens(
    api: APIClient, member: User, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_app.core.tokens.MAX_LIVE_TOKENS", 2)
    first, _ = issue_token(user=member, name="1", scopes=["read"])
    issue_token(user=member, name="2", scopes=["read"])
    assert problem(api.post("/api/v1/tokens/", {"name": "3", "scopes": ["read"]}), 429, "token_quota")["remedy"]
    revoke_token(token=first)
    assert api.post("/api/v1/tokens/", {"name": "3", "scopes": ["read"]}).status_code == 201
