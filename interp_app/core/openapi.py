"""The OpenAPI document: what drf-spectacular finds, plus what is true of every operation.

- every operation may answer with a problem, whatever its status;
- bodies are strict: an unknown key is an error, so the schema says so too;
- reading needs no credentials except where a view asks for an account.
"""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from rest_framework.permissions import SAFE_METHODS

from interp_app.core.authentication import SignedIn

PROBLEM_RESPONSE = {
    "description": "The request failed; `code`, `detail`, `remedy` and `fields` say why and what to do.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_SENTENCES = {"type": "array", "items": {"type": "string"}}
PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail", "code", "remedy", "fields"],
    "properties": {
        "type": {"type": "string", "description": "`urn:patchbay:problem:<code>`."},
        "title": {"type": "string", "description": "The HTTP status in words."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, in a sentence."},
        "code": {"type": "string", "description": "Stable and meant for programs."},
        "remedy": {"type": "string", "description": "What to do about it; may be empty."},
        "fields": {
            "type": "object",
            "description": "Dotted input name (`params.sites`, `prompts`) → what is wrong with it.",
            "additionalProperties": _SENTENCES,
        },
    },
}


class ApiSchema(AutoSchema):
    """drf-spectacular's view of one operation, knowing this API's permissions."""

    def get_auth(self) -> list[dict[str, list[str]]]:
        auths: list[dict[str, list[str]]] = super().get_auth()
        needs_account = any(isinstance(one, SignedIn) for one in self.view.get_permissions())
        if self.method in SAFE_METHODS and not needs_account:
            auths.append({})
        return auths

    def get_tags(self) -> list[str]:
        return [self.path.removeprefix("/api/v1/").split("/")[0]]


def finish(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Postprocessing hook."""
    schemas = result["components"].setdefault("schemas", {})
    for name, schema in schemas.items():
        if name.endswith("Request") and schema.get("type") == "object" and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    schemas["Problem"] = PROBLEM_SCHEMA
    result["components"]["responses"] = {"Problem": PROBLEM_RESPONSE}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
    return result
