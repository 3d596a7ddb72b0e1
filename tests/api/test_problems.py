"""Every error is a problem that names the input and the remedy: HTTP's own errors, limits, CSRF and rates."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.db import OperationalError
from rest_framework.test import APIClient

from interp_app.core.models import User
from tests.api.conftest import ClientFor
from tests.api.worlds import World

Problem = Callable[[Any, int, str], dict[str, Any]]
RUNS = "/api/v1/runs/"


def test_an_unknown_address_is_a_problem_for_every_method(api: APIClient, problem: Problem) -> None:
    for method in ("get", "post", "put", "patch", "delete"):
        problem(getattr(api, method)("/api/v1/no/such/address"), 404, "not_found")


def test_a_wrong_method_names_what_the_address_accepts(api: APIClient, problem: Problem) -> None:
    response = api.delete(RUNS)
    assert "DELETE" in problem(response, 405, "method_not_allowed")["detail"]
    assert response["Allow"] == "GET, POST, HEAD, OPTIONS"


@pytest.mark.parametrize("content_type", ["text/csv", "multipart/form-data; boundary=x", "application/xml", ""])
def test_a_wrong_content_type_says_what_to_send(api: APIClient, problem: Problem, content_type: str) -> None:
    response = api.generic("POST", RUNS, b"a,b", content_type=content_type)
    assert "application/json" in problem(response, 415, "unsupported_media_type")["remedy"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"title": "\xff"}', "not UTF-8"),
        (b'{"params": {"x": NaN}}', "NaN"),
        (b'{"params": {"x": 1e999}}', "too large"),
        (b'{"title": "a\\u0000b"}', "zero byte"),
        (b'{"title": "\\ud800"}', "surrogate"),
        (b"[" * 5000 + b"]" * 5000, "nested"),
        (b'{"a":' * 80 + b"1" + b"}" * 80, "nested"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(api: APIClient, problem: Problem, data: bytes, reason: str) -> None:
    body = problem(api.generic("POST", RUNS, data, content_type="application/json"), 400, "parse_error")
    assert reason in body["detail"]


def test_a_body_that_is_no_object_is_refused(api: APIClient, problem: Problem) -> None:
    problem(api.post(RUNS, [1, 2]), 400, "invalid")


def test_an_upload_of_20_mb_names_the_limit(api: APIClient, problem: Problem) -> None:
    pairs = [{"clean": "x" * 1000, "corrupted": "y" * 1000, "answer": ["z"]}] * 10_000
    data = json.dumps({"title": "Large", "pairs": pairs}).encode()
    assert len(data) > 20e6
    body = problem(api.generic("POST", "/api/v1/prompt-sets/", data, "application/json"), 413, "payload_too_large")
    assert "19.5 MB" in body["detail"]
    assert "limit is 6 MB" in body["detail"]
    assert "split" in body["remedy"]


def test_an_unknown_input_is_named_with_the_known_ones(api: APIClient, problem: Problem) -> None:
    fields = problem(api.post(RUNS, {"methd": "x"}), 400, "invalid")["fields"]
    assert "Known: method, params" in fields["methd"][0]


def test_an_unknown_filter_is_an_error_and_not_a_longer_list(api: APIClient, problem: Problem) -> None:
    assert "stauts" in problem(api.get(RUNS, {"stauts": "failed"}), 400, "invalid")["fields"]


def test_a_session_without_its_csrf_token_changes_nothing(member: User, world: World, problem: Problem) -> None:
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(member)
    address = f"{RUNS}{world.queued['lab'].pk}/cancel/"
    assert "X-CSRFToken" in problem(client.post(address), 403, "permission_denied")["remedy"]
    client.cookies["csrftoken"] = "a" * 32
    assert client.post(address, headers={"x-csrftoken": "a" * 32}).status_code == 200


def test_what_nobody_expected_is_a_problem_without_details(
    client_for: ClientFor, member: User, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret path /srv/data")

    monkeypatch.setattr("interp_app.runs.selectors.history", fail)
    client = client_for(member)
    client.raise_request_exception = False
    response = client.get(RUNS)
    problem(response, 500, "server_error")
    assert b"secret" not in response.content


def test_a_database_that_does_not_answer_is_a_503(
    api: APIClient, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("connection refused to 10.0.0.1")

    monkeypatch.setattr("interp_app.runs.selectors.history", fail)
    response = api.get(RUNS)
    assert "10.0.0.1" not in str(problem(response, 503, "unavailable"))
    assert response["Retry-After"]


def test_too_many_requests_are_told_when_to_come_back(
    client_for: ClientFor, member: User, problem: Problem, settings: Any
) -> None:
    cache.clear()
    settings.API_RATES = {"anon": "2/min", "user": "3/min", "events": None}
    visitor, account = client_for(None), client_for(member)
    assert [visitor.get("/api/v1/methods/").status_code for _ in range(2)] == [200, 200]
    response = visitor.get("/api/v1/methods/")
    problem(response, 429, "throttled")
    assert 1 <= int(response["Retry-After"]) <= 60
    assert [account.get("/api/v1/methods/").status_code for _ in range(4)] == [200, 200, 200, 429]
    cache.clear()


def test_a_forwarding_header_buys_no_second_allowance(client_for: ClientFor, settings: Any) -> None:
    cache.clear()
    settings.API_RATES = {"anon": "1/min", "user": None, "events": None}
    visitor = client_for(None)
    answers = [visitor.get("/api/v1/methods/", headers={"x-forwarded-for": f"10.0.0.{n}"}) for n in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    cache.clear()


def test_the_shipped_rates_are_60_and_600_a_minute() -> None:
    from interp_app.settings import base

    assert (base.API_RATES["anon"], base.API_RATES["user"]) == ("60/min", "600/min")


def test_answers_are_private_and_vary_by_who_asks(api: APIClient) -> None:
    response = api.get("/api/v1/me/")
    assert response["Cache-Control"] == "private, no-cache"
    assert {"Authorization", "Cookie"} <= {word.strip() for word in response["Vary"].split(",")}
    assert response["X-Content-Type-Options"] == "nosniff"
