"""`Idempotency-Key`: repeating a submission gives the first answer, not a second run."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import IdempotencyKey, Role, User
from interp_app.runs.models import Run
from tests.api.conftest import ClientFor
from tests.factories import UserFactory

Problem = Callable[[Any, int, str], dict[str, Any]]
RUNS = "/api/v1/runs/"


@pytest.fixture
def body(model: ModelSource, prompts: PromptSetVersion) -> dict[str, Any]:
    return {"method": "activation_patching", "model": "tiny", "prompts": {"id": str(prompts.prompt_set_id)}}


def test_the_same_key_and_body_give_the_same_run(api: APIClient, body: dict[str, Any]) -> None:
    first = api.post(RUNS, body, headers={"idempotency-key": "k1"})
    again = api.post(RUNS, body, headers={"idempotency-key": "k1"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert (first.get("Idempotency-Replayed"), again["Idempotency-Replayed"]) == (None, "true")
    assert Run.objects.count() == 1


def test_without_a_key_each_submission_is_a_run_of_its_own(api: APIClient, body: dict[str, Any]) -> None:
    assert api.post(RUNS, body).json()["id"] != api.post(RUNS, body).json()["id"]


def test_the_same_key_with_another_body_is_a_conflict(api: APIClient, body: dict[str, Any], problem: Problem) -> None:
    api.post(RUNS, body, headers={"idempotency-key": "k1"})
    other = {**body, "title": "another"}
    problem(api.post(RUNS, other, headers={"idempotency-key": "k1"}), 409, "idempotency_conflict")
    assert Run.objects.count() == 1


def test_the_order_of_keys_in_the_body_does_not_matter(api: APIClient, body: dict[str, Any]) -> None:
    api.post(RUNS, body, headers={"idempotency-key": "k1"})
    turned = dict(reversed(body.items()))
    assert api.post(RUNS, turned, headers={"idempotency-key": "k1"})["Idempotency-Replayed"] == "true"


def test_keys_belong_to_their_user(
    api: APIClient, client_for: ClientFor, colleague: User, body: dict[str, Any]
) -> None:
    first = api.post(RUNS, body, headers={"idempotency-key": "k1"}).json()
    other = client_for(colleague).post(RUNS, body, headers={"idempotency-key": "k1"}).json()
    assert first["id"] != other["id"]


def test_a_failed_submission_leaves_its_key_free(api: APIClient, body: dict[str, Any], problem: Problem) -> None:
    problem(api.post(RUNS, {**body, "model": "none"}, headers={"idempotency-key": "k1"}), 400, "model_unknown")
    assert api.post(RUNS, body, headers={"idempotency-key": "k1"}).status_code == 201


def test_a_key_is_forgotten_after_a_day(api: APIClient, body: dict[str, Any]) -> None:
    first = api.post(RUNS, body, headers={"idempotency-key": "k1"}).json()
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert api.post(RUNS, body, headers={"idempotency-key": "k1"}).json()["id"] != first["id"]


@pytest.mark.parametrize("key", ["", "x" * 129, "tab\there"])
def test_an_unusable_key_is_named(api: APIClient, body: dict[str, Any], key: str, problem: Problem) -> None:
    fields = problem(api.post(RUNS, body, headers={"idempotency-key": key}), 400, "idempotency_key_invalid")["fields"]
    assert "Idempotency-Key" in fields


@pytest.mark.django_db(transaction=True)
def test_eight_simultaneous_repeats_make_one_run(
    model: ModelSource, client_for: ClientFor, body: dict[str, Any]
) -> None:
    owner = UserFactory(username="parallel", role=Role.MEMBER)
    clients = [client_for(owner) for _ in range(8)]
    answers: list[tuple[int, str]] = []

    def submit(client: APIClient) -> None:
        try:
            response = client.post(RUNS, body, headers={"idempotency-key": "k1"})
            answers.append((response.status_code, response.json()["id"]))
        finally:
            connection.close()

    threads = [threading.Thread(target=submit, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert Run.objects.count() == 1
