"""add_user: an account of the lab, from the command line."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.core import accounts
from interp_app.core.errors import ServiceError
from interp_app.core.models import Role


class Command(BaseCommand):
    """Prints a password made up for the account, once; only its hash is kept."""

    help = "Make an account. Its password is made up and printed once, or read from the standard input."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--role",
            required=True,
            choices=Role.values,
            help="guest: public data only; reader: sees what the lab shares; member: also runs; admin: everything",
        )
        parser.add_argument("--email", default="")
        parser.add_argument("--password-stdin", action="store_true", help="read the password: one line")

    def handle(self, *_: Any, **options: Any) -> None:
        given = sys.stdin.readline().rstrip("\r\n") if options["password_stdin"] else None
        try:
            user, password = accounts.add_user(
                username=options["username"], role=options["role"], email=options["email"], password=given
            )
        except ServiceError as error:
            raise CommandError(str(error)) from error
        self.stderr.write(f"Made the account {user.username} with the role {user.role}.")
        if given is None:
            self.stderr.write("Its password, shown this once (change it with: manage.py changepassword):")
            self.stdout.write(password)
