"""Every address under /api/v1/ as everybody: who gets in, and that nobody reads what is not theirs.

`WALK` names each address and method once; a test fails where the URL configuration has one that is not in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from rest_framework.test import APIClient

from interp_app.core.models import User
from interp_app.core.tokens import issue_token
from interp_app.runs.models import Run
from tests.api.conftest import ClientFor
from tests.api.worlds import VISIBILITIES, World

ROLES = ("anonymous", "guest", "reader", "colleague", "owner", "admin")
SEES = {
    "anonymous": {"public"},
    "guest": {"public"},
    "reader": {"lab", "public"},
    "colleague": {"lab", "public"},
    "owner": {"private", "lab", "public"},
    "admin": {"private", "lab", "public"},
}
# Status by role for addresses that are about no one's object.
EVERYBODY = dict.fromkeys(ROLES, 200)
THE_LAB = {**EVERYBODY, "anonymous": 401, "guest": 403}
ACCOUNTS = {**EVERYBODY, "anonymous": 401}
MEMBERS_MAKE = {"anonymous": 401, "guest": 403, "reader": 403, "colleague": 201, "owner": 201, "admin": 201}

PAIR = {"clean": "Mary gave a book to", "corrupted": "John gave a book to", "answer": ["Mary"], "foil": ["John"]}

# (name, method) → how it is walked: a status a role, "object" (readable by whoever sees it), "change" (its owner's).
WALK: dict[tuple[str, str], Any] = {
    ("models", "get"): THE_LAB,
    ("model", "get"): THE_LAB,
    ("prompt-sets", "get"): EVERYBODY,
    ("prompt-sets", "post"): MEMBERS_MAKE,
    ("prompt-check", "post"): THE_LAB,
    ("prompt-set", "get"): "object",
    ("prompt-set", "patch"): "change",
    ("versions", "post"): "change",
    ("version", "get"): "object",
    ("version-tokens", "get"): "lab object",
    ("methods", "get"): EVERYBODY,
    ("method", "get"): EVERYBODY,
    ("runs", "get"): EVERYBODY,
    ("runs", "post"): MEMBERS_MAKE,
    ("preview", "post"): THE_LAB,
    ("run", "get"): "object",
    ("run", "patch"): "change",
    ("cancel", "post"): "change",
    ("resume", "post"): "change",
    ("events", "get"): "object",
    ("panels", "get"): "object",
    ("panel-bin", "get"): "object",
    ("panel-csv", "get"): "object",
    ("panel-json", "get"): "object",
    ("artifacts", "get"): "object",
    ("artifact", "get"): "object",
    ("results", "get"): "object",
    ("result", "get"): "object",
    ("result-csv", "get"): "object",
    ("notebook", "get"): "object",
    ("queue", "get"): THE_LAB,
    ("workers", "get"): THE_LAB,
    ("me", "get"): EVERYBODY,
    ("tokens", "get"): ACCOUNTS,
    ("tokens", "post"): {**dict.fromkeys(ROLES, 201), "anonymous": 401},
    ("token", "delete"): {**dict.fromkeys(ROLES, 404), "anonymous": 401, "owner": 204},
    ("schema", "get"): EVERYBODY,
    ("nowhere", "get"): dict.fromkeys(ROLES, 404),
}
LISTS = ("prompt-sets", "runs", "queue")


@dataclass
class Walker:
    """Calls an address by its name, as a role, about the object of a visibility."""

    world: World
    clients: dict[str, APIClient]
    token_id: Any

    def arguments(self, name: str, level: str) -> dict[str, Any]:
        version = self.world.prompts[level]
        prompt = {"id": version.prompt_set_id}
        run = {"id": self.world.runs[level].pk}
        return {
            "model": {"slug": "tiny"},
            "method": {"name": "activation_patching"},
            "prompt-set": prompt,
            "versions": prompt,
            "version": {**prompt, "number": 1},
            "version-tokens": {**prompt, "number": 1},
            **dict.fromkeys(("run", "events", "panels", "artifacts", "results", "notebook"), run),
            "cancel": {"id": self.world.queued[level].pk},
            "resume": {"id": self.world.queued[level].pk},
            **{form: {**run, "index": 0} for form in ("panel-bin", "panel-csv", "panel-json")},
            "artifact": {**run, "name": "resid_pre.safetensors"},
            **{form: {**run, "name": "heads"} for form in ("result", "result-csv")},
            "token": {"id": self.token_id},
        }.get(name, {})

    def body(self, name: str, level: str) -> dict[str, Any] | None:
        plan = {
            "method": "activation_patching",
            "model": "tiny",
            "prompts": {"id": str(self.world.prompts[level].prompt_set_id)},
        }
        return {
            "prompt-sets": {"title": "New", "pairs": [PAIR]},
            "prompt-check": {"model": "tiny", "pairs": [PAIR]},
            "prompt-set": {"description": "changed"},
            "versions": {"pairs": [PAIR]},
            "run": {"tags": ["changed"]},
            "runs": plan,
            "preview": plan,
            "tokens": {"name": "script", "scopes": ["read"]},
        }.get(name)

    def call(self, name: str, method: str, role: str, level: str = "public") -> Any:
        address = (
            "/api/v1/no/such/" if name == "nowhere" else reverse(f"api:{name}", kwargs=self.arguments(name, level))
        )
        query = {"model": "tiny"} if name == "version-tokens" else {}
        client = self.clients[role]
        if method == "get":
            return client.get(address, query)
        return getattr(client, method)(address, self.body(name, level), format="json")


@pytest.fixture
def walker(
    world: World,
    client_for: ClientFor,
    member: User,
    stranger: User,
    reader: User,
    colleague: User,
    lab_admin: User,
) -> Walker:
    people = (None, stranger, reader, colleague, member, lab_admin)
    token, _ = issue_token(user=member, name="hers", scopes=["read"])
    return Walker(world, dict(zip(ROLES, map(client_for, people), strict=True)), token.pk)


def entries(patterns: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, view class) of every address under /api/v1/."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from entries(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            assert pattern.name, f"{prefix}{pattern.pattern} has no name"
            yield pattern.name, pattern.callback.cls


def api_entries() -> list[tuple[str, Any]]:
    resolver = next(one for one in get_resolver().url_patterns if getattr(one, "app_name", "") == "api")
    return list(entries(resolver.url_patterns))


def test_every_address_and_method_is_walked() -> None:
    methods = ("get", "post", "put", "patch", "delete")
    served = {(name, method) for name, view in api_entries() for method in methods if hasattr(view, method)}
    assert served == set(WALK), f"not walked: {served - set(WALK)}; gone: {set(WALK) - served}"


def test_every_view_says_what_it_is_for() -> None:
    for name, view in api_entries():
        assert (view.__doc__ or "").strip(), f"{name}: {view.__name__} has no docstring"
        for method in ("get", "post", "patch", "delete"):
            handler = getattr(view, method, None)
            assert handler is None or (handler.__doc__ or "").strip(), f"{name}: {view.__name__}.{method} has none"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("name", "method"), [entry for entry, how in WALK.items() if isinstance(how, dict)])
def test_an_address_opens_to_the_roles_it_is_meant_for(walker: Walker, name: str, method: str, role: str) -> None:
    response = walker.call(name, method, role)
    assert response.status_code == WALK[name, method][role], response.content


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("name", "method"), [entry for entry, how in WALK.items() if how in ("object", "lab object")])
def test_an_object_exists_only_for_those_who_may_see_it(walker: Walker, name: str, method: str, role: str) -> None:
    for level in VISIBILITIES:
        response = walker.call(name, method, role, level)
        if WALK[name, method] == "lab object" and role in ("anonymous", "guest"):
            assert response.status_code == (401 if role == "anonymous" else 403)
        else:
            assert response.status_code == (200 if level in SEES[role] else 404), (level, text_of(response))
        if level not in SEES[role]:
            assert "secret-" not in text_of(response)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("name", "method"), [entry for entry, how in WALK.items() if how == "change"])
def test_an_object_is_changed_only_by_its_owner_or_an_admin(walker: Walker, name: str, method: str, role: str) -> None:
    for level in VISIBILITIES:
        response = walker.call(name, method, role, level)
        done = 409 if name == "resume" else 201 if name == "versions" else 200  # a queued run cannot be resumed
        expected = {
            "anonymous": 401,
            "guest": 403,
            "reader": 403,
            "colleague": 403 if level in SEES["colleague"] else 404,
            "owner": done,
            "admin": done,
        }[role]
        assert response.status_code == expected, (level, response.content)


@pytest.mark.parametrize("role", ROLES)
def test_lists_hold_all_that_is_visible_and_nothing_else(walker: Walker, role: str) -> None:
    expected_runs = {
        str(run.pk) for level in SEES[role] for run in (walker.world.runs[level], walker.world.queued[level])
    } | {str(walker.world.reused.pk), str(walker.world.lost.pk)}
    expected_sets = {str(walker.world.prompts[level].prompt_set_id) for level in SEES[role]}
    assert_same({row["id"] for row in walker.call("runs", "get", role).json()["results"]}, expected_runs)
    assert_same({row["id"] for row in walker.call("prompt-sets", "get", role).json()["results"]}, expected_sets)


@pytest.mark.parametrize("role", ["reader", "colleague", "owner", "admin"])
def test_the_queue_shows_visible_runs_and_counts_the_others(walker: Walker, role: str) -> None:
    body = walker.call("queue", "get", role).json()
    assert_same(
        {entry["run"]["id"] for entry in body["queued"]}, {str(walker.world.queued[level].pk) for level in SEES[role]}
    )
    assert body["hidden_queued"] == 3 - len(SEES[role])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("name", "method"), [entry for entry in WALK if entry[1] == "get"])
def test_no_text_of_a_hidden_object_is_in_any_answer(walker: Walker, name: str, method: str, role: str) -> None:
    hidden = [f"secret-{level}" for level in VISIBILITIES if level not in SEES[role]]
    text = text_of(walker.call(name, method, role))
    assert not [word for word in hidden if word in text]
    assert "@example.org" not in text


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["run", "events", "panels", "artifacts", "results", "notebook", "runs"])
def test_a_public_run_tells_nothing_of_the_private_things_it_stands_on(walker: Walker, name: str, role: str) -> None:
    sees = "private" in SEES[role]
    for run in (walker.world.reused, walker.world.lost):
        address = reverse("api:runs") if name == "runs" else reverse(f"api:{name}", kwargs={"id": run.pk})
        text = text_of(walker.clients[role].get(address))
        told = [word for word in ("secret-private", *walker.world.private_ids) if word in text]
        assert sees or not told, (run.title, told)
        assert role in ("reader", "colleague", "owner", "admin") or "gpu-7" not in text


def test_what_a_public_run_stands_on_is_named_to_those_who_may_see_it(walker: Walker, world: World) -> None:
    address = reverse("api:run", kwargs={"id": world.reused.pk})
    hers, theirs = (walker.clients[role].get(address).json() for role in ("owner", "colleague"))
    assert (hers["reused_from"], hers["cloned_from"], hers["prompts"]["id"]) == (
        world.private_ids[0], world.private_ids[0], world.private_ids[1],
    )  # fmt: skip
    assert (theirs["reused_from"], theirs["cloned_from"]) == (None, None)
    assert theirs["prompts"] == {"id": None, "title": "a prompt set you may not see", "version": 1, "pairs": 2}


@pytest.mark.parametrize("role", ROLES)
def test_a_search_finds_no_run_by_a_prompt_set_one_may_not_see(walker: Walker, role: str) -> None:
    hidden = walker.world.prompts["private"].prompt_set_id
    for query in ({"q": "secret-private prompts"}, {"prompts": str(hidden)}):
        found = walker.clients[role].get(reverse("api:runs"), query).json()["results"]
        assert bool(found) == ("private" in SEES[role]), query


def test_outsiders_do_not_read_about_the_lab_on_a_public_run(walker: Walker, world: World) -> None:
    Run.objects.filter(pk=world.runs["public"].pk).update(provenance={"worker": "gpu-7", "engine": 1})
    inside = walker.call("run", "get", "reader").json()
    outside = walker.call("run", "get", "anonymous").json()
    assert inside["provenance"] == {"worker": "gpu-7", "engine": 1}
    assert outside["provenance"] == {"engine": 1}


def assert_same(found: set[str], expected: set[str]) -> None:
    assert found == expected, f"missing: {expected - found}; leaked: {found - expected}"


def text_of(response: Any) -> str:
    content = b"".join(response.streaming_content) if response.streaming else response.content
    return str(content.decode("utf-8", "replace"))
