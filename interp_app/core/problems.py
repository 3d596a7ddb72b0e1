"""Errors of the API as RFC 9457 problems: what was wrong with which input, and what to do about it.

`handle` is the one exception handler: errors of services and of the library, of serializers and of specs, of HTTP
(404, 405, 413, 415, 429) and of the server itself all leave in the same shape. `code` is for programs, `detail` and
`remedy` for people, `fields` maps dotted input names (`params.sites`, `prompts`) to sentences.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from pydantic import ValidationError as SpecValidationError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from interp_app.core.errors import ServiceError
from tracing.errors import TracingError

CONTENT_TYPE: Final = "application/problem+json"
_log = logging.getLogger(__name__)


REMEDIES: Final[dict[str, str]] = {
    "not_authenticated": "Sign in, or send `Authorization: Bearer <token>`.",
    "authentication_failed": "Make a new token under Settings → Tokens.",
    "permission_denied": "If this is a signed-in browser, send the CSRF cookie's value as X-CSRFToken.",
    "role_required": "Ask an administrator of the lab for the role member.",
    "lab_only": "Ask an administrator of the lab for an account of the lab.",
    "token_scope": "Make a token with the scope write.",
    "session_required": "Open Settings → Tokens in a browser.",
    "method_not_allowed": "See /api/v1/schema/ for what this address accepts.",
    "unsupported_media_type": "Send JSON with the header `Content-Type: application/json`.",
    "parse_error": "Send one JSON document in UTF-8.",
    "throttled": "Wait as long as the Retry-After header says.",
    "payload_too_large": "Send less at once; a large prompt set can be split.",
    "not_found": "",
    "unavailable": "Try again in a few seconds.",
    "server_error": "Try again; if it stays, the server's log has the details.",
}


def problem(
    status: int,
    code: str,
    detail: str,
    remedy: str | None = None,
    fields: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """The body of an error."""
    return {
        "type": f"urn:patchbay:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "remedy": REMEDIES.get(code, "") if remedy is None else remedy,
        "fields": {name: list(texts) for name, texts in (fields or {}).items()},
    }


def handle(error: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's exception handler. Always answers; what nobody expected is logged and answered as a 500 without details."""
    set_rollback()
    request = context["request"]._request if context.get("request") is not None else None
    body, headers = _body_of(error, request)
    if body is None:
        got_request_exception.send(sender=None, request=request)
        _log.exception("unexpected error in the API")
        body = problem(500, "server_error", "The server made a mistake with this request.")
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _body_of(error: Exception, request: HttpRequest | None) -> tuple[dict[str, Any] | None, dict[str, str]]:
    match error:
        case ServiceError():
            return problem(error.status, error.code, error.message, error.remedy, error.fields), {}
        case TracingError():
            return problem(400, error.code, error.message, error.remedy), {}
        case SpecValidationError():
            return problem_of_spec(error), {}
        case exceptions.ValidationError():
            fields = dict(flatten(error.detail))
            return problem(400, "invalid", first_sentence(fields), "Correct the named fields.", fields), {}
        case exceptions.APIException():
            return _of_http(error)
        case Http404():
            return problem(404, "not_found", "There is nothing at this address, or you may not see it."), {}
        case RequestDataTooBig():
            return problem(413, "payload_too_large", too_large(request)), {}
        case PermissionDenied():
            return problem(403, "permission_denied", "You may not do this."), {}
        case OperationalError():
            _log.warning("the database did not answer: %s", type(error).__name__)
            return problem(503, "unavailable", "The database does not answer at the moment."), {"Retry-After": "2"}
    return None, {}


def too_large(request: HttpRequest | None) -> str:
    """What a body that was too large had, and what the limit is."""
    length = request.META.get("CONTENT_LENGTH", "") if request else ""
    got = f"has {int(length) / 2**20:.1f} MB" if length.isdigit() and int(length) else "is too large"
    return f"The body {got}; the limit is {settings.DATA_UPLOAD_MAX_MEMORY_SIZE / 2**20:.0f} MB."


def _of_http(error: exceptions.APIException) -> tuple[dict[str, Any], dict[str, str]]:
    headers: dict[str, str] = {}
    challenge = getattr(error, "auth_header", None)
    if challenge:
        headers["WWW-Authenticate"] = challenge
    if isinstance(error, exceptions.Throttled):
        seconds = math.ceil(getattr(error, "wait", None) or 1)
        headers["Retry-After"] = str(seconds)
        return problem(429, "throttled", f"Too many requests; the next is welcome in {seconds} s."), headers
    if isinstance(error, exceptions.NotFound):
        return problem(404, "not_found", "There is nothing at this address, or you may not see it."), headers
    codes = error.get_codes()
    code = codes if isinstance(codes, str) else error.default_code
    return problem(error.status_code, code, str(error.detail)), headers


def problem_of_spec(error: SpecValidationError, prefix: str = "params") -> dict[str, Any]:
    """The problem of a spec that pydantic refused: one field a location, named from `prefix` on."""
    fields = spec_fields(error, prefix)
    return problem(400, "spec_invalid", first_sentence(fields), "Correct the named parameters.", fields)


def spec_fields(error: SpecValidationError, prefix: str = "params") -> dict[str, list[str]]:
    """Dotted location → messages, e.g. {"params.sites.0": ["Input should be …"]}."""
    fields: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join([prefix, *(str(part) for part in item["loc"])])
        fields.setdefault(name, []).append(item["msg"].removeprefix("Value error, "))
    return fields


def flatten(detail: Any, name: str = "") -> list[tuple[str, list[str]]]:
    """DRF's nested error detail as (dotted name, sentences)."""
    if isinstance(detail, Mapping):
        return [pair for key, value in detail.items() for pair in flatten(value, f"{name}.{key}" if name else str(key))]
    if isinstance(detail, list) and detail and all(isinstance(item, Mapping | list) for item in detail):
        return [pair for index, item in enumerate(detail) for pair in flatten(item, f"{name}.{index}")]
    texts = [str(item) for item in detail] if isinstance(detail, list) else [str(detail)]
    return [(name or "body", texts)] if texts else []


def first_sentence(fields: Mapping[str, list[str]]) -> str:
    """One sentence for people: the first field, its message, and how many follow."""
    if not fields:
        return "The request is not valid."
    name, texts = next(iter(fields.items()))
    label = "" if name in ("body", "non_field_errors", "params") else f"`{name}`: "
    more = f" ({len(fields) - 1} more)" if len(fields) > 1 else ""
    return f"{label}{texts[0]}{more}"


def http_problem(request: HttpRequest, status: int, code: str, detail: str) -> JsonResponse:
    """A problem from outside DRF (an unknown address, a failed CSRF check)."""
    del request
    return JsonResponse(problem(status, code, detail), status=status, content_type=CONTENT_TYPE)
