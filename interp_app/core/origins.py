"""Only this site's own pages may open sockets: browsers send cookies along with a socket from any page.

Channels' validator compares host names with ALLOWED_HOSTS. That leaves other ports of the same host (another service
on localhost) and clients without an Origin, which this stricter check refuses too: the Origin must be the address the
request went to, or the site's public address. Scripts have no Origin; they follow the log over HTTP.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings

Application = Callable[..., Awaitable[Any]]


class SameOriginValidator:
    """ASGI middleware for sockets; refuses with HTTP 403 before the handshake is complete."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Application, send: Application) -> Any:
        allowed = is_own_origin(_header(scope, b"origin"), _header(scope, b"host"))
        application = self._application if allowed else WebsocketDenier()
        return await application(scope, receive, send)


def is_own_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` is one of ours, for a request sent to `host`."""
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return False
    trusted = {settings.PUBLIC_URL.rstrip("/"), *settings.CSRF_TRUSTED_ORIGINS}
    return parts.netloc.lower() == host.lower() or f"{parts.scheme}://{parts.netloc}" in trusted


def _header(scope: dict[str, Any], name: bytes) -> str:
    values = [value for key, value in scope.get("headers", []) if key == name]
    return str(values[0].decode("latin-1")) if len(values) == 1 else ""
