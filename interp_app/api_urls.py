"""Every address under /api/v1/. An unknown one is answered with a problem, like every other error."""

from django.urls import include, path, re_path

from interp_app.core import api_accounts

app_name = "api"
urlpatterns = [
    path("", include("interp_app.catalog.api.urls")),
    path("", include("interp_app.runs.api.urls")),
    path("me/", api_accounts.Me.as_view(), name="me"),
    path("tokens/", api_accounts.TokenList.as_view(), name="tokens"),
    path("tokens/<uuid:id>/", api_accounts.TokenOne.as_view(), name="token"),
    path("schema/", api_accounts.Schema.as_view(), name="schema"),
    re_path(r"", api_accounts.Nowhere.as_view(), name="nowhere"),
]
