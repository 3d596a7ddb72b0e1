"""setup_demo: the local account, the demo model and its prompt sets. Safe to run again."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.core.errors import ServiceError
from interp_app.runs import demo


class Command(BaseCommand):
    """Part of `make up`."""

    help = "Put the demo model, its prompt sets and the local account in place."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--first-run", action="store_true", help="submit a first experiment, once")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            demo.set_up(first_run=options["first_run"], say=self.stdout.write)
        except ServiceError as error:
            raise CommandError(str(error)) from error
