"""The runs app: experiments, their queue, their event log and their live socket."""

from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "interp_app.runs"
    label = "runs"
    default_auto_field = "django.db.models.BigAutoField"
