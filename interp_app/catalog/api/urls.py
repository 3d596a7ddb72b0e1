"""Addresses of the catalog under /api/v1/."""

from django.urls import path

from interp_app.catalog.api import views

urlpatterns = [
    path("models/", views.ModelList.as_view(), name="models"),
    path("models/<slug:slug>/", views.ModelOne.as_view(), name="model"),
    path("prompt-sets/", views.PromptSetList.as_view(), name="prompt-sets"),
    path("prompt-sets/check/", views.PromptCheck.as_view(), name="prompt-check"),
    path("prompt-sets/<uuid:id>/", views.PromptSetOne.as_view(), name="prompt-set"),
    path("prompt-sets/<uuid:id>/versions/", views.VersionList.as_view(), name="versions"),
    path("prompt-sets/<uuid:id>/versions/<int:number>/", views.VersionOne.as_view(), name="version"),
    path("prompt-sets/<uuid:id>/versions/<int:number>/tokens/", views.VersionTokens.as_view(), name="version-tokens"),
]
