"""`Idempotency-Key`: a POST repeated with the same key gives the first answer again instead of a second object.

The key is inserted before the work and in its transaction: a second request with the key waits for the first, then
reads its answer; a failed first request leaves no key behind. The same key with another body is a mistake (409).
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone

from interp_app.core.canonical import sha256_of
from interp_app.core.errors import ServiceError, conflict
from interp_app.core.models import IdempotencyKey, User

HEADER: Final = "Idempotency-Key"
LIFETIME: Final = timedelta(hours=24)
_MAX_LENGTH: Final = 128

Answer = tuple[int, Any]
"""HTTP status and JSON body."""


def once(*, user: User, key: str | None, request: Any, work: Callable[[], Answer]) -> tuple[Answer, bool]:
    """The answer of `work`, and whether it is a stored one. `request` is JSON: what makes two requests the same."""
    if key is None:
        return work(), False
    if not key or len(key) > _MAX_LENGTH or not (key.isascii() and key.isprintable()):
        raise ServiceError(
            "idempotency_key_invalid",
            f"The {HEADER} header must be 1 to {_MAX_LENGTH} printable ASCII characters.",
            "Send a random UUID.",
            fields={HEADER: ["Not a usable key."]},
        )
    fingerprint = sha256_of(request)
    IdempotencyKey.objects.filter(created_at__lt=timezone.now() - LIFETIME).delete()
    try:
        with transaction.atomic():
            row = IdempotencyKey.objects.create(user=user, key=key, request_hash=fingerprint, status=0, response={})
            status, body = work()
            row.status, row.response = status, body
            row.save(update_fields=["status", "response"])
            return (status, body), False
    except IntegrityError:
        stored = IdempotencyKey.objects.filter(user=user, key=key).first()
        if stored is None:
            raise  # not about the key: the work broke a rule of the database
    if stored.request_hash != fingerprint:
        raise conflict(
            "idempotency_conflict",
            f"The {HEADER} {key!r} was used for another request.",
            "Use a new key for a new request.",
        )
    return (stored.status, stored.response), True
