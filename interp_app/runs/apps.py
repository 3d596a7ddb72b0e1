"""The runs app: experiments, their queue, their event log and their live socket."""

from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "interp_app.runs"
    label = "runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Whoever appends to a log, in whichever process, rings for those who watch it."""
        from interp_app.runs import doorbell, events  # models exist only now

        events.add_bell(doorbell.ring)
