"""Middleware: a number for every request, no zero bytes in addresses, and the local account of `make up`."""

import ipaddress
import re
import secrets
from collections.abc import Callable
from typing import Final

import structlog
from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse
from django.urls import get_resolver

from interp_app.core.models import User
from interp_app.core.problems import http_problem

GetResponse = Callable[[HttpRequest], HttpResponse]

LOCAL_USERNAME: Final = "local"
LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
SIGNED_OUT: Final = "local_signed_out"
FORWARDED: Final = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
PLAIN_PATHS: Final = ("/static/", "/healthz", "/readyz", "/metrics")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIdMiddleware:
    """Binds `request_id` for every log line of a request and answers it in `X-Request-ID`."""

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self._get_response(request)
        response["X-Request-ID"] = request_id
        return response


class PlainQueryMiddleware:
    """Refuses addresses with a zero byte in their query: no text of ours holds one, and the database takes none."""

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        query = request.META.get("QUERY_STRING", "")
        if "%00" in query or "\x00" in query:
            if request.path.startswith("/api/"):
                return http_problem(request, 400, "query_invalid", "The query of the address has a zero byte.")
            page: HttpResponse = get_resolver().resolve_error_handler(400)(request)
            return page
        return self._get_response(request)


class LocalAccountMiddleware:
    """Embedded mode only: a browser on this very machine is signed in as the account `local`, until it signs out.

    "This very machine" is a loopback connection that no proxy forwarded, for a host name that is local too: a page
    elsewhere that points its name at 127.0.0.1 does not pass, nor does a tunnel that says whom it speaks for.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated and self._applies(request):
            account = User.objects.filter(username=LOCAL_USERNAME, is_active=True).first()
            if account is not None:
                login(request, account, backend=settings.AUTHENTICATION_BACKENDS[0])
        was_local = request.user.is_authenticated and request.user.get_username() == LOCAL_USERNAME
        response = self._get_response(request)
        if was_local and not request.user.is_authenticated:
            request.session[SIGNED_OUT] = True
        return response

    def _applies(self, request: HttpRequest) -> bool:
        return (
            settings.MODE == "embedded"
            and request.method in ("GET", "HEAD")
            and not request.path.startswith(PLAIN_PATHS)
            and "HTTP_AUTHORIZATION" not in request.META
            and is_local(request)
            and not request.session.get(SIGNED_OUT)
        )


def is_local(request: HttpRequest) -> bool:
    """Whether the request came from this machine, by a loopback address, under a local name, past no proxy."""
    if any(name in request.META for name in FORWARDED):
        return False
    host = request.META.get("HTTP_HOST", "")
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if name.lower() not in LOCAL_HOSTS:
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
