"""API tokens: `pbt_<key>.<secret>`. The secret is shown once; the database keeps a keyed hash of it.

The hash is HMAC-SHA256 with a pepper derived from SECRET_KEY, so a leaked table alone cannot be searched for secrets.
A token is good for its scopes until it expires or is revoked, and never after its user is deactivated.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from interp_app.core.errors import ServiceError
from interp_app.core.models import ApiToken, User

Scope = Literal["read", "write"]
SCOPES: Final[tuple[Scope, ...]] = ("read", "write")
PREFIX: Final = "pbt_"
MAX_LIVE_TOKENS: Final = 50
_FORM: Final = re.compile(r"pbt_([0-9a-f]{16})\.([A-Za-z0-9_-]{43})")
_LAST_USED_STEP: Final = timedelta(minutes=1)
"""`last_used_at` is written at most this often, so that reading the API costs no write a request."""


class TokenRefused(Exception):
    """The token is not accepted; `reason` may be told to whoever presented it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def issue_token(
    *, user: User, name: str, scopes: Sequence[Scope], expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """A new token and its full text, which cannot be had again. Write includes read."""
    if expires_at is not None and expires_at <= timezone.now():
        raise ServiceError(
            "token_expired_already",
            "The token would have expired already.",
            "Give a time in the future, or none for a token that does not expire.",
            fields={"expires_at": ["This time is in the past."]},
        )
    if live_tokens(user).count() >= MAX_LIVE_TOKENS:
        raise ServiceError(
            "token_quota",
            f"You have {MAX_LIVE_TOKENS} live tokens, the most an account may have.",
            "Revoke one that is no longer used.",
            status=429,
        )
    key, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    granted = {"read", *scopes}
    token = ApiToken.objects.create(
        user=user,
        name=name,
        key=key,
        secret_hash=_hash(secret, settings.SECRET_KEY),
        scopes=[scope for scope in SCOPES if scope in granted],
        expires_at=expires_at,
    )
    return token, f"{PREFIX}{key}.{secret}"


def verify_token(text: str) -> ApiToken:
    """The token this text belongs to, its use noted. Raises `TokenRefused` with a reason that gives nothing away."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise TokenRefused("The token does not have the form pbt_<key>.<secret>.")
    key, secret = match.groups()
    token = ApiToken.objects.select_related("user").filter(key=key).first()
    peppers = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    if token is None or not any(constant_time_compare(token.secret_hash, _hash(secret, pepper)) for pepper in peppers):
        raise TokenRefused("There is no such token.")
    if token.revoked_at is not None:
        raise TokenRefused("The token was revoked.")
    now = timezone.now()
    if token.expires_at is not None and token.expires_at <= now:
        raise TokenRefused("The token has expired.")
    if not token.user.is_active:
        raise TokenRefused("The account of this token is not active.")
    _note_use(token, now)
    return token


def live_tokens(user: User) -> QuerySet[ApiToken]:
    """The user's tokens that were not revoked (expired ones included: their owner should see why they stopped)."""
    return ApiToken.objects.filter(user=user, revoked_at__isnull=True).order_by("-created_at", "-id")


def revoke_token(*, token: ApiToken) -> None:
    """End a token at once. Revoking twice changes nothing."""
    ApiToken.objects.filter(pk=token.pk, revoked_at__isnull=True).update(revoked_at=timezone.now())


def _hash(secret: str, pepper: str | bytes) -> str:
    return salted_hmac("interp_app.core.tokens", secret, secret=pepper, algorithm="sha256").hexdigest()


def _note_use(token: ApiToken, now: datetime) -> None:
    stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - _LAST_USED_STEP)
    if token.last_used_at is None or token.last_used_at < now - _LAST_USED_STEP:
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
