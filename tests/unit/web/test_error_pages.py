"""What a visitor reads when something is wrong."""

from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, RequestFactory

from interp_app.catalog.models import PromptSetVersion
from interp_app.core.models import User
from interp_app.web.views import errors


def test_what_does_not_exist_says_what_to_try(client: Client, db: None) -> None:
    response = client.get("/no/such/page/")
    assert response.status_code == 404
    assert "sign in first" in response.text


@pytest.mark.parametrize("path", ["/prompts/?q=%00", "/runs/?model=%00", "/runs/?q=a%00b", "/login/?next=%00"])
def test_a_zero_byte_in_an_address_is_a_400(ada: Client, path: str) -> None:
    response = ada.get(path)
    assert response.status_code == 400
    assert "could not read this request" in response.text


def test_a_zero_byte_in_an_address_of_the_api_is_a_problem(ada: Client) -> None:
    response = ada.get("/api/v1/runs/?q=%00")
    assert (response.status_code, response.json()["code"]) == (400, "query_invalid")


@pytest.mark.parametrize("number", ["²", "١", "9" * 30, "9" * 5000, "-1", "x"])
def test_a_version_that_is_no_number_is_left_out_of_the_form(
    ada: Client, prompts: PromptSetVersion, number: str
) -> None:
    response = ada.get("/runs/new/", {"prompts": f"{prompts.prompt_set_id}@{number}"})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/runs/01890a5d-ac96-774b-bcce-b302099a8057/", "/runs/new/?from=x", "/models/none/"])
def test_what_is_not_there_is_a_404(ada: Client, path: str) -> None:
    assert ada.get(path).status_code == 404


def test_a_text_that_is_too_large_is_a_413_with_a_way_out(ada: Client) -> None:
    response = ada.post("/prompts/new/", {"title": "Large", "pairs_text": "x" * (7 * 2**20)})
    assert response.status_code == 413
    assert "at most 5 MB" in response.text


def test_an_upload_of_20_mb_is_a_413_whoever_sends_it(client: Client, db: None) -> None:
    file = SimpleUploadedFile("pairs.csv", b"x" * (20 * 2**20))
    response = client.post("/prompts/new/", {"title": "Large", "file": file})
    assert response.status_code == 413
    assert "at most 5 MB" in response.text


def test_the_page_of_a_crash_needs_nothing_from_the_server() -> None:
    response = errors.server_error(RequestFactory().get("/"))
    assert response.status_code == 500
    assert "Nothing you saved is lost" in response.text


def test_a_crash_answers_with_that_page(client: Client, member: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr("interp_app.web.views.start.selectors.visible_runs", crash)
    client.raise_request_exception = False
    response = client.get("/")
    assert response.status_code == 500
    assert "The server made a mistake" in response.text
    assert "secret" not in response.text


def test_a_request_body_over_the_limit_is_told_apart_from_a_broken_one(db: None) -> None:
    request = RequestFactory().get("/")
    request.user = User()
    assert errors.bad_request(request, RequestDataTooBig("large")).status_code == 413
    assert errors.bad_request(request).status_code == 400


def test_without_the_browser_code_every_page_says_how_to_build_it(
    client: Client, db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = {"default": {"dev_mode": False, "manifest_path": tmp_path / "manifest.json"}}
    monkeypatch.setattr(settings, "DJANGO_VITE", missing)
    response = client.get("/help/")
    assert response.status_code == 200
    assert "make up" in response.text


def test_pages_have_no_inline_script_or_style(ada: Client) -> None:
    for path in ("/", "/runs/", "/prompts/new/", "/help/methods/activation_patching/", "/settings/tokens/"):
        response = ada.get(path)
        assert " style=" not in response.text
        assert "<style" not in response.text
        assert " onclick=" not in response.text
        scripts = [tag for tag in response.text.split("<script")[1:] if "application/json" not in tag[:80]]
        assert all(" src=" in tag[:200] for tag in scripts)
        assert "default-src 'self'" in response["Content-Security-Policy"]
