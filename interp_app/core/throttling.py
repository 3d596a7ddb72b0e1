"""Rates for manners, not for security: quotas that matter are counted in SQL by the services.

Rates are read from `settings.API_RATES` at each request ({"anon": "60/min", …}; None switches one off). The counters
live in the process's cache, so with several web processes the real limit is that many times higher.
"""

from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView


class _Rate(SimpleRateThrottle):
    def get_rate(self) -> str | None:
        rates: dict[str, str | None] = settings.API_RATES
        return rates.get(str(self.scope))

    def ident(self, request: Request) -> str:
        user: Any = request.user
        if user.is_authenticated:
            return f"user-{user.pk}"
        # Never X-Forwarded-For, which anybody may write; behind a proxy the server has put the client's address here.
        return f"ip-{request.META.get('REMOTE_ADDR', '')}"


class AnonRate(_Rate):
    """Visitors who are not signed in, by address."""

    scope = "anon"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        if request.user.is_authenticated:
            return None
        return f"throttle-anon-{self.ident(request)}"


class UserRate(_Rate):
    """Accounts, by account."""

    scope = "user"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        if not request.user.is_authenticated:
            return None
        return f"throttle-user-{self.ident(request)}"


class EventsRate(_Rate):
    """Followers of a run's events, who ask often by design: a rate of its own for accounts and visitors alike."""

    scope = "events"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        return f"throttle-events-{self.ident(request)}"
