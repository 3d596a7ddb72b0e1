"""Keyset pages of any sorted list of runs: the cursor is where the page begins, so page 500 costs what page 1 does."""

import base64
import binascii
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import Q, QuerySet, Value
from django.db.models.functions import Coalesce

from interp_app.core.errors import ServiceError

NOT_FINISHED: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""Runs that have not finished sort as if they finished last."""
TIMES: Final = ("created_at", "finished_at")


@dataclass(frozen=True, slots=True)
class SortedPage:
    """Rows, and the cursors of the neighbouring pages (None at the ends)."""

    rows: Sequence[Any]
    next: str | None
    previous: str | None


def read_sorted(queryset: QuerySet[Any], *, sort: str, cursor: str, size: int) -> SortedPage:
    """One page in the order of `sort` (`-created_at`, `title`, …), ties broken by id. Raises `ServiceError`."""
    field = sort.lstrip("-")
    key = "sort_key" if field == "finished_at" else field
    if field == "finished_at":
        queryset = queryset.annotate(sort_key=Coalesce("finished_at", Value(NOT_FINISHED)))
    back, place = _decode(cursor, field) if cursor else (False, None)
    descending = sort.startswith("-") != back
    if place is not None:
        queryset = queryset.filter(_beyond(key, *place, descending=descending))
    sign = "-" if descending else ""
    found = list(queryset.order_by(f"{sign}{key}", f"{sign}id")[: size + 1])
    more, rows = len(found) > size, found[:size]
    if back:
        rows.reverse()
    has_next, has_previous = (True, more) if back else (more, place is not None)
    if not rows:
        return SortedPage([], None, None)
    return SortedPage(
        rows,
        next=_encode(False, getattr(rows[-1], key), rows[-1].pk) if has_next else None,
        previous=_encode(True, getattr(rows[0], key), rows[0].pk) if has_previous else None,
    )


def _beyond(key: str, value: Any, id_: uuid.UUID, *, descending: bool) -> Q:
    side = "lt" if descending else "gt"
    return Q(**{f"{key}__{side}e": value}) & (Q(**{f"{key}__{side}": value}) | Q(**{f"id__{side}": id_}))


def _encode(back: bool, value: Any, id_: uuid.UUID) -> str:
    shown = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([back, shown, str(id_)]).encode()).decode().rstrip("=")


def _decode(cursor: str, field: str) -> tuple[bool, tuple[Any, uuid.UUID]]:
    try:
        back, value, id_ = json.loads(base64.urlsafe_b64decode(cursor[:600] + "=" * (-len(cursor) % 4)))
        at = datetime.fromisoformat(value) if field in TIMES else str(value)
        if "\x00" in str(at):
            raise ValueError("a zero byte")
        return bool(back), (at, uuid.UUID(id_))
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise ServiceError(
            "cursor_invalid", "This page of the list does not exist.", "Start again from its first page."
        ) from error
