"""Every address of the site. Each app owns its own part."""

from django.urls import URLPattern, URLResolver, include, path

from interp_app.core.health import healthz, readyz
from interp_app.core.metrics import metrics

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/", include("interp_app.api_urls")),
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", metrics, name="metrics"),
    path("", include("interp_app.web.urls")),
]
handler400 = "interp_app.web.views.errors.bad_request"
handler403 = "interp_app.web.views.errors.forbidden"
handler404 = "interp_app.web.views.errors.not_found"
handler500 = "interp_app.web.views.errors.server_error"
