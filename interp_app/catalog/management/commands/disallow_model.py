"""disallow_model: no run may use a model any more."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.catalog import services
from interp_app.core.errors import ServiceError


class Command(BaseCommand):
    """Rows and results of the model stay as they are."""

    help = "Take a model out of the lists. Queued runs on it wait until allow_model; results stay."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            model = services.allow_model(actor=None, slug=options["slug"], allowed=False)
        except ServiceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"No run may use {model.title} ({model.slug}) from now on; queued ones wait. "
            f"Undo: manage.py allow_model {model.slug}"
        )
