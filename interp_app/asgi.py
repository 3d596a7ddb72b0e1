"""ASGI entry point: HTTP goes to Django, sockets to the runs app after a look at where they come from and who it is."""

import warnings

from interp_app.mode import configure

# WhiteNoise reads its small files in a thread; Django's advice to do otherwise is not for whoever runs this.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

configure()

from django.core.asgi import get_asgi_application  # noqa: E402

django_application = get_asgi_application()

# Imported after Django is set up: they load models.
import structlog  # noqa: E402
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.conf import settings  # noqa: E402

from interp_app.core.bodies import CappedBodies  # noqa: E402
from interp_app.core.origins import SameOriginValidator  # noqa: E402
from interp_app.runs.reaper import Reaper  # noqa: E402
from interp_app.runs.routing import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": CappedBodies(django_application),
        "websocket": SameOriginValidator(
            AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))
        ),
    }
)
if settings.WEB_REAPS:
    Reaper().start()
structlog.get_logger(__name__).info("application_ready", mode=settings.MODE)
