"""The catalog app: the models a lab allows and its prompt sets."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "interp_app.catalog"
    label = "catalog"
    default_auto_field = "django.db.models.BigAutoField"
