"""Cursor pagination by (created_at, id): stable while rows are added, and the same cost on every page.

A cursor is base64url JSON `{"at": created_at, "id": id, "back": bool}`: where the page starts, exclusive, and in which
direction. The row comparison is written as `created_at <= x AND (created_at < x OR id < y)`, whose first half an index
on (created_at, id) can use.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from django.db.models import Q, QuerySet
from rest_framework import serializers
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from interp_app.core.api import StrictSerializer
from interp_app.core.errors import ServiceError

PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200
Row = TypeVar("Row")
_CURSOR: Final = "Where the page starts; taken from `next` or `previous`, never made up."
_LIMIT: Final = f"Rows a page; default {PAGE_SIZE}."


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place between two rows. `back` reads the page before it."""

    at: datetime
    id: UUID
    back: bool = False

    def encode(self) -> str:
        text = json.dumps({"at": self.at.isoformat(), "id": str(self.id), "back": self.back}, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Raises `ServiceError` for anything this module did not write."""
        try:
            raw = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            at = datetime.fromisoformat(raw["at"])
            if at.tzinfo is None:
                raise ValueError("no time zone")
            return cls(at=at, id=UUID(raw["id"]), back=raw["back"] is True)
        except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ServiceError(
                "cursor_invalid",
                "The cursor is not one this server gave out.",
                "Follow the `next` and `previous` addresses of a page as they are.",
                fields={"cursor": ["Not a cursor."]},
            ) from None


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page in display order, and the cursors of its neighbours (None at the ends)."""

    rows: Sequence[Row]
    next: str | None
    previous: str | None


def read_page(
    queryset: QuerySet[Any], *, cursor: str | None = None, size: int = PAGE_SIZE, newest_first: bool = True
) -> Page[Any]:
    """One page of rows (instances or dicts) that have `created_at` and a UUID `id`, in one query.

    Raises `ServiceError` on a bad cursor.
    """
    place = Cursor.decode(cursor) if cursor else None
    back = place is not None and place.back
    descending = newest_first != back
    if place is not None:
        queryset = queryset.filter(_beyond(place, descending))
    order = ("-created_at", "-id") if descending else ("created_at", "id")
    found = list(queryset.order_by(*order)[: size + 1])
    more, rows = len(found) > size, found[:size]
    if back:
        rows.reverse()
    has_next, has_previous = (True, more) if back else (more, place is not None)
    if not rows:
        return Page([], None, None)
    return Page(
        rows,
        next=_at(rows[-1]).encode() if has_next else None,
        previous=_at(rows[0], back=True).encode() if has_previous else None,
    )


def _at(row: Any, *, back: bool = False) -> Cursor:
    at, id_ = (row["created_at"], row["id"]) if isinstance(row, dict) else (row.created_at, row.id)
    return Cursor(at, id_, back)


def _beyond(place: Cursor, descending: bool) -> Q:
    if descending:
        return Q(created_at__lte=place.at) & (Q(created_at__lt=place.at) | Q(id__lt=place.id))
    return Q(created_at__gte=place.at) & (Q(created_at__gt=place.at) | Q(id__gt=place.id))


def page_size(raw: str | None) -> int:
    """The `limit` parameter as a number from 1 to MAX_PAGE_SIZE. Raises `ServiceError` otherwise."""
    if raw is None:
        return PAGE_SIZE
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw[:9]) <= MAX_PAGE_SIZE):
        raise ServiceError(
            "limit_invalid",
            f"`limit` is {raw[:20]!r}; it must be a number from 1 to {MAX_PAGE_SIZE}.",
            f"Leave it out for {PAGE_SIZE} a page.",
            fields={"limit": [f"Not a number from 1 to {MAX_PAGE_SIZE}."]},
        )
    return int(raw)


class KeysetPagination(BasePagination):
    """`read_page` as DRF knows it; `next` and `previous` are full addresses."""

    newest_first = True

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        self._request = request
        self._page = read_page(
            queryset,
            cursor=request.query_params.get("cursor"),
            size=page_size(request.query_params.get("limit")),
            newest_first=self.newest_first,
        )
        return list(self._page.rows)

    def get_paginated_response(self, data: Any) -> Response:
        return Response(
            {"next": self._link(self._page.next), "previous": self._link(self._page.previous), "results": data}
        )

    def _link(self, cursor: str | None) -> str | None:
        if cursor is None:
            return None
        return str(replace_query_param(self._request.build_absolute_uri(), "cursor", cursor))

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return envelope(schema)

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return [
            {
                "name": "cursor",
                "in": "query",
                "required": False,
                "description": _CURSOR,
                "schema": {"type": "string"},
            },
            {
                "name": "limit",
                "in": "query",
                "required": False,
                "description": _LIMIT,
                "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": PAGE_SIZE},
            },
        ]


class PageQuerySerializer(StrictSerializer):
    """The parameters of a page, for lists that take filters as well."""

    cursor = serializers.CharField(required=False, help_text=_CURSOR)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=MAX_PAGE_SIZE, help_text=_LIMIT)


class WholeList(KeysetPagination):
    """The same envelope for lists that are short by nature (methods, workers): always one page."""

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return []


def envelope(schema: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI schema of a page of `schema`."""
    link = {"type": "string", "format": "uri", "nullable": True}
    return {
        "type": "object",
        "required": ["next", "previous", "results"],
        "properties": {
            "next": {**link, "description": "The following page, null on the last."},
            "previous": {**link, "description": "The page before, null on the first."},
            "results": schema,
        },
    }
