"""make_token: an API token for an account, from the command line."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from interp_app.core import audit
from interp_app.core.errors import ServiceError
from interp_app.core.models import User
from interp_app.core.tokens import issue_token


class Command(BaseCommand):
    """Prints the token once; only its hash is kept."""

    help = "Make an API token. It is printed once and cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--name", default="command line", help="what the token is for")
        parser.add_argument("--read-only", action="store_true", help="may read, not submit or change")
        parser.add_argument("--days", type=int, help="days until it expires (default: never)")

    def handle(self, *_: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active account {options['username']!r}.")
        expires = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        try:
            token, text = issue_token(
                user=user,
                name=options["name"][:80],
                scopes=["read"] if options["read_only"] else ["read", "write"],
                expires_at=expires,
            )
        except ServiceError as error:
            raise CommandError(str(error)) from error
        audit.record(actor=None, action="token.create", target=token, user=user.username)
        self.stdout.write(text)
