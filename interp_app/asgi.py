"""ASGI entry point: HTTP to Django; the socket is added by the runs app."""

from interp_app.mode import configure

configure()

from django.core.asgi import get_asgi_application  # noqa: E402

application = get_asgi_application()
