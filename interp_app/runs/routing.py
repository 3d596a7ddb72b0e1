"""Where sockets are: `/ws/`, and nothing else answers."""

from typing import Any

from django.urls import path, re_path

from interp_app.runs.consumers import Receive, Send, SocketApp


async def refuse(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """No socket lives at this address."""
    await receive()
    await send({"type": "websocket.close", "code": 4404})


websocket_urlpatterns = [
    path("ws/", SocketApp()),  # type: ignore[arg-type]  # an ASGI application, as Channels routes them
    re_path(r"", refuse),  # type: ignore[arg-type]
]
