"""check_model: load a registered model and verify its family's adapter numerically."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.catalog import selectors
from interp_app.core.errors import ServiceError
from interp_app.runs import warm_models
from tracing.errors import TracingError


class Command(BaseCommand):
    """Prints every identity and how exactly it holds; ends with status 1 where one does not."""

    help = "Load a registered model and check that its sites mean what they say."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            report = warm_models.certify(selectors.model_by_slug(options["slug"]))
        except (ServiceError, TracingError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(str(report))
        if not report.exact:
            raise CommandError("The adapter does not describe this model.")
