"""register_model: allow a model of one of the lab's roots."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.catalog import services
from interp_app.core.errors import ServiceError


class Command(BaseCommand):
    """Reads config, tokenizer and weight hashes; weights are not loaded. Run again after a folder changed."""

    help = "Allow the model at <root>/<folder> (roots: PATCHBAY_MODEL_ROOTS), or read its folder again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("location", help="<root>/<folder>, e.g. lab/gpt2-small")
        parser.add_argument("--slug", required=True, help="short name in URLs and the API")
        parser.add_argument("--title", default="")
        parser.add_argument("--description", default="")
        parser.add_argument("--revision", default="", help="commit the files came from, for the record")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            model = services.register_model(
                actor=None,
                location=options["location"],
                slug=options["slug"],
                title=options["title"],
                description=options["description"],
                revision=options["revision"],
            )
        except ServiceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{model.title} ({model.slug}): {model.family}, {model.facts['n_layers']} layers × "
            f"{model.facts['n_heads']} heads, {model.facts['n_params'] / 1e6:.1f}M parameters. "
            f"Verify its adapter with: manage.py check_model {model.slug}"
        )
