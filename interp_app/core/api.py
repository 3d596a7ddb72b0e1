"""What every API view stands on: JSON in and out, limits on the body, one set of permissions, rates and errors."""

import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from django.utils.decorators import method_decorator
from django.views.decorators.vary import vary_on_headers
from rest_framework import serializers
from rest_framework.authentication import SessionAuthentication
from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated, ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from interp_app.core.authentication import BearerAuthentication, CanWrite, TokenScope
from interp_app.core.models import User
from interp_app.core.openapi import ApiSchema
from interp_app.core.throttling import AnonRate, UserRate

MAX_DEPTH: Final = 64


class FiniteJSONRenderer(JSONRenderer):
    """JSON as the standard has it: NaN and infinities, which JSON cannot say, become null."""

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        try:
            return bytes(super().render(data, accepted_media_type, renderer_context))
        except ValueError:
            return bytes(super().render(finite(data), accepted_media_type, renderer_context))


def finite(value: Any) -> Any:
    """The value with null for every float JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class StorableJSONParser(JSONParser):
    """JSON of sane depth, and nothing the database could not store (zero bytes, half surrogate pairs).

    Django limits the size of the body (`DATA_UPLOAD_MAX_MEMORY_SIZE`), chunked ones included, before it gets here.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            value = json.loads(stream.read().decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            raise ParseError(f"The body is not UTF-8: byte {error.start} cannot be read.") from None
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}.") from None
        _check_storable(value)
        return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON value")


def _check_storable(value: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ParseError(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ParseError("A text has a character that is no text: a zero byte or half a surrogate pair.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ParseError("A number is too large.")
    elif isinstance(value, list):
        for item in value:
            _check_storable(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_storable(key, depth + 1)
            _check_storable(item, depth + 1)


class JSONOnly(BaseContentNegotiation):
    """Always the first parser and renderer that fit: what an address answers does not depend on Accept."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        content_type = (request.content_type or "").split(";")[0].strip().lower()
        for parser in parsers:
            if parser.media_type == content_type:
                return parser  # type: ignore[no-any-return]
        return None

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


JSON_TYPES: Final[tuple[tuple[type[serializers.Field], type, str], ...]] = (
    (serializers.BooleanField, bool, "true or false"),
    (serializers.IntegerField, int, "a whole number"),
    (serializers.CharField, str, "a text"),
    (serializers.UUIDField, str, "a text"),
)


class StrictSerializer(serializers.Serializer[Any]):
    """Checks the shape of what comes in. An unknown key is an error, so a misspelt option is not silently dropped.

    JSON's types are taken at their word: 0 is not false, 5 is not "5". In query strings everything is a text, which
    `checked(…, texts=True)` says.
    """

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = [str(name) for name in data if name not in self.fields]
            if unknown:
                known = ", ".join(self.fields)
                raise serializers.ValidationError(
                    {name[:80]: [f"There is no such input. Known: {known}."] for name in unknown[:20]}
                )
            if not self.root.context.get("texts"):
                wrong = {name: [text] for name in data if (text := _wrong_type(self.fields[name], data[name]))}
                if wrong:
                    raise serializers.ValidationError(wrong)
        return super().to_internal_value(data)


def _wrong_type(field: serializers.Field, value: Any) -> str:
    """What is wrong with the JSON type of `value`; empty where it is the field's, or the field judges by itself."""
    if isinstance(field, serializers.ListField) and isinstance(value, list):
        return next((text for item in value if (text := _wrong_type(field.child, item))), "")
    if value is None:
        return ""  # whether null is allowed is the field's own question
    for kind, wanted, words in JSON_TYPES:
        if isinstance(field, kind):
            fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
            return "" if fits else f"This must be {words}."
    return ""


def checked(serializer: type[StrictSerializer], data: Any, *, texts: bool = False) -> dict[str, Any]:
    """The validated input. Raises DRF's `ValidationError`, which becomes a problem that names each field."""
    one = serializer(data=data, context={"texts": texts})
    one.is_valid(raise_exception=True)
    return dict(one.validated_data)


def account(request: Request) -> User:
    """The account that asks, where the view's permissions let nobody else in."""
    if not isinstance(request.user, User):
        raise NotAuthenticated
    return request.user


@method_decorator(vary_on_headers("Authorization", "Cookie"), name="dispatch")
class ApiView(APIView):
    """Base of every view under /api/v1/. Reading is open to whoever sees the object, writing to members.

    An answer is for the one who asked: caches keep it private and ask again.
    """

    authentication_classes = (BearerAuthentication, SessionAuthentication)
    permission_classes: Sequence[type[BasePermission]] = (TokenScope, CanWrite)
    throttle_classes: Sequence[type[BaseThrottle]] = (AnonRate, UserRate)
    renderer_classes = (FiniteJSONRenderer,)
    parser_classes = (StorableJSONParser,)
    content_negotiation_class = JSONOnly
    schema = ApiSchema()
    post_only_reads: ClassVar[bool] = False

    def http_method_not_allowed(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        raise MethodNotAllowed(str(request.method), detail=f"{request.method} is not possible at this address.")

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response
