"""Clients of the API: one a person, over a session."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource
from interp_app.core.models import User
from tests.api.worlds import World, build_world

ClientFor = Callable[[User | None], APIClient]


def close_connection() -> None:
    """Close the connection of the thread that runs this: `connection.close` would name the caller's."""
    connection.close()


@pytest.fixture
def client_for(db: None) -> ClientFor:
    """A client signed in as that user; None is a visitor."""

    def make(user: User | None) -> APIClient:
        client = APIClient()
        client.default_format = "json"
        if user is not None:
            client.force_login(user)
        return client

    return make


@pytest.fixture
def api(client_for: ClientFor, member: User) -> APIClient:
    """A client signed in as the member `ada`."""
    return client_for(member)


@pytest.fixture
def world(member: User, model: ModelSource) -> World:
    """Runs and prompt sets of `ada` in every visibility."""
    return build_world(member, model)


@pytest.fixture
def problem() -> Callable[[Any, int, str], dict[str, Any]]:
    """Asserts that an answer is a problem of that status and code, and gives its body."""

    def check(response: Any, status: int, code: str) -> dict[str, Any]:
        assert response.status_code == status, response.content
        assert response["Content-Type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert set(body) == {"type", "title", "status", "detail", "code", "remedy", "fields"}
        assert (body["status"], body["code"]) == (status, code), body
        assert body["detail"]
        return body

    return check
