"""Schemathesis against the real application: whatever the document allows or forbids, the server keeps to it.

Every operation gets generated good and bad requests, and all of schemathesis's checks: no 5xx, documented status codes
and bodies, bad data refused, good data taken, missing credentials refused, unsupported methods answered 405. Generated
ids and slugs of good requests are replaced by ones that exist, so that the inside of the operations is reached too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode

from interp_app.core.models import User
from interp_app.core.tokens import issue_token
from tests.api.worlds import World

EXAMPLES = 6
CONFIG = {
    "generation": {"with-security-parameters": False, "allow-x00": True},
    "checks": {
        # A request can fit its schema and still be refused: prompts that do not fit the model, a quota, a state.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "304", "400", "403", "404", "409", "416"]},
        # More pairs than a set holds can be more bytes than a body may have.
        "negative_data_rejection": {"expected-statuses": ["400", "401", "403", "404", "405", "409", "413", "415"]},
    },
}
OPENAPI = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text())
schema = schemathesis.openapi.from_dict(OPENAPI, config=SchemathesisConfig.from_dict(CONFIG))
schema.app = get_wsgi_application()


@pytest.fixture(autouse=True)
def one_connection() -> Iterator[None]:
    """The requests see the test's transaction, as those of Django's own test client do."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def lab(world: World, member: User) -> dict[str, Any]:
    """What exists, by the name it has in paths and bodies."""
    run, queued, prompts = world.runs["lab"], world.queued["lab"], world.prompts["lab"]
    token, _ = issue_token(user=member, name="revocable", scopes=["read"])
    return {
        "slug": "tiny",
        "number": 1,
        "index": 0,
        "runs": str(run.pk),
        "queued": str(queued.pk),
        "prompt-sets": str(prompts.prompt_set_id),
        "tokens": str(token.pk),
    }


@pytest.fixture
def credentials(member: User) -> dict[str, str]:
    """A token of the owner of everything."""
    return {"Authorization": f"Bearer {issue_token(user=member, name='fuzz', scopes=['write'])[1]}"}


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_server_keeps_to_its_document(case: Any, lab: dict[str, Any], credentials: dict[str, str]) -> None:
    use_what_exists(case, lab)
    case.call_and_validate(headers=credentials)


def use_what_exists(case: Any, lab: dict[str, Any]) -> None:
    """Good parts of a request name things that exist; bad parts stay as bad as they are."""
    modes = {location: info.mode for location, info in case.meta.components.items()}
    if modes.get(ParameterLocation.PATH) == GenerationMode.POSITIVE:
        kind = case.path.removeprefix("/api/v1/").split("/")[0]
        acts = case.path.endswith(("/cancel/", "/resume/"))
        known = {
            "slug": "tiny",
            "number": 1,
            "index": 0,
            "id": lab["queued" if acts else kind] if kind in lab else None,
        }
        names = {"methods": "activation_patching", "runs": "resid_pre.safetensors"}
        for name in case.path_parameters:
            case.path_parameters[name] = names[kind] if name == "name" else known[name]
    if modes.get(ParameterLocation.QUERY) == GenerationMode.POSITIVE and case.query:
        if "model" in case.query:
            case.query["model"] = "tiny"
        case.query.pop("cursor", None)  # a text to the schema, but only given out by the server
        if "wait" in case.query:
            case.query["wait"] = 0.1
    if modes.get(ParameterLocation.BODY) == GenerationMode.POSITIVE and isinstance(case.body, dict):
        if "model" in case.body:
            case.body["model"] = "tiny"
        if "prompts" in case.body:
            case.body["prompts"] = {"id": lab["prompt-sets"], "version": 1}
        if "method" in case.body:
            case.body["method"] = "activation_patching"
            case.body.pop("cloned_from", None)
