"""The core app: accounts, tokens, audit, and what every other app stands on."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    name = "interp_app.core"
    label = "core"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from interp_app.core import checks  # registers the system checks; needs the app registry

        del checks
