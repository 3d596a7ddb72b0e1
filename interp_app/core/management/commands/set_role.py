"""set_role: what an account may do, from the command line."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.core import accounts
from interp_app.core.errors import ServiceError
from interp_app.core.models import Role


class Command(BaseCommand):
    """Open pages and sockets of the account learn of it within a minute."""

    help = "Give an account another role: guest, reader, member or admin."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("role", choices=Role.values)

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            user = accounts.set_role(username=options["username"], role=options["role"])
        except ServiceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{user.username} is {user.role} now.")
