"""The local account of embedded mode: for a browser on this machine, and nobody else."""

import pytest
from django.test import Client, override_settings

from interp_app.core.middleware import LOCAL_USERNAME
from interp_app.core.models import Role, User
from interp_app.settings import embedded

pytestmark = pytest.mark.django_db

PATH = "/api/v1/me/"


@pytest.fixture(autouse=True)
def embedded_mode():
    with override_settings(MODE="embedded", MIDDLEWARE=embedded.MIDDLEWARE):
        yield


@pytest.fixture
def local(db) -> User:
    return User.objects.create(username=LOCAL_USERNAME, role=Role.ADMIN)


def who(client: Client, **headers: str) -> str | None:
    client.get(PATH, **{"HTTP_HOST": "localhost:8000", "REMOTE_ADDR": "127.0.0.1", **headers})
    id_ = client.session.get("_auth_user_id")
    return User.objects.get(pk=id_).username if id_ else None


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_browser_on_this_machine_is_signed_in(local, client, host, address):
    assert who(client, HTTP_HOST=host, REMOTE_ADDR=address) == LOCAL_USERNAME


@pytest.mark.parametrize(
    "headers",
    [
        {"REMOTE_ADDR": "192.168.1.7"},
        {"REMOTE_ADDR": ""},
        {"HTTP_HOST": "evil.example"},
        {"HTTP_HOST": "localhost.evil.example"},
        {"HTTP_HOST": "127.0.0.1.evil.example:8000"},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_X_FORWARDED_FOR": "203.0.113.9"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
        {"HTTP_AUTHORIZATION": "Bearer pbt_x"},
    ],
    ids=lambda headers: "-".join(f"{name}={value}" for name, value in headers.items()),
)
def test_anything_that_is_not_plainly_local_is_not_signed_in(local, client, headers):
    with override_settings(ALLOWED_HOSTS=["*"]):
        assert who(client, **headers) is None


def test_a_post_signs_nobody_in(local, client):
    client.post(PATH, HTTP_HOST="localhost", REMOTE_ADDR="127.0.0.1")
    assert "_auth_user_id" not in client.session


def test_signing_out_lasts(local, client):
    assert who(client) == LOCAL_USERNAME
    client.post("/logout/", HTTP_HOST="localhost:8000", REMOTE_ADDR="127.0.0.1")
    assert who(client) is None


def test_a_deactivated_local_account_is_not_used(local, client):
    User.objects.update(is_active=False)
    assert who(client) is None


def test_no_other_mode_has_it(local, client):
    with override_settings(MODE="services"):
        assert who(client) is None


def test_every_answer_carries_a_request_id(local, client):
    answer = client.get("/healthz", HTTP_X_REQUEST_ID="abc-1")
    assert answer["X-Request-ID"] == "abc-1"
    assert client.get("/healthz", HTTP_X_REQUEST_ID="a b\n")["X-Request-ID"] != "a b\n"
