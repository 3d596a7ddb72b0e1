"""allow_model: runs may use a registered model again."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.catalog import services
from interp_app.core.errors import ServiceError


class Command(BaseCommand):
    """Rows and results of the model stay as they are."""

    help = "Let runs use a model again that disallow_model took out."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            model = services.allow_model(actor=None, slug=options["slug"], allowed=True)
        except ServiceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Runs may use {model.title} ({model.slug}) again.")
