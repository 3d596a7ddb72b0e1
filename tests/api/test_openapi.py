"""The OpenAPI document: valid, complete, and the one that is committed beside this file."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from rest_framework.test import APIClient

COMMITTED = Path(__file__).with_name("openapi.yaml")
REFRESH = "PATCHBAY_MODE=test python manage.py spectacular --file tests/api/openapi.yaml"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("openapi") / "openapi.yaml"
    call_command("spectacular", file=str(path), validate=True, fail_on_warn=True)
    return path.read_text()


def test_the_committed_document_is_the_generated_one(generated: str) -> None:
    assert generated == COMMITTED.read_text(), f"The API has changed; if that is meant: {REFRESH}"


def test_every_operation_is_named_described_and_may_fail_with_a_problem(generated: str) -> None:
    for path, method, operation in operations(yaml.safe_load(generated)):
        where = f"{method.upper()} {path}"
        assert path.startswith("/api/v1/"), where
        assert operation.get("summary"), where
        assert len(operation.get("description", "")) > 20, where
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}, where
        for parameter in operation.get("parameters", []):
            assert parameter["in"] == "path" or parameter.get("description") or "enum" in str(parameter), (
                where,
                parameter,
            )


def test_operation_ids_are_unique(generated: str) -> None:
    names = [operation["operationId"] for _, _, operation in operations(yaml.safe_load(generated))]
    assert len(set(names)) == len(names)


def test_writing_always_needs_credentials(generated: str) -> None:
    for path, method, operation in operations(yaml.safe_load(generated)):
        if method != "get":
            assert {} not in operation["security"], f"{method.upper()} {path}"


@pytest.mark.django_db
def test_the_server_gives_out_the_same_document(generated: str) -> None:
    client = APIClient()
    assert yaml.safe_load(client.get("/api/v1/schema/").content) == yaml.safe_load(generated)
    assert client.get("/api/v1/schema/?format=json").json() == yaml.safe_load(generated)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_reference_leads_somewhere(generated: str) -> None:
    document = yaml.safe_load(generated)
    for reference in re.findall(r"#/components/(\w+)/([\w.-]+)", generated):
        section, name = reference
        assert name in document["components"].get(section, {}), reference
