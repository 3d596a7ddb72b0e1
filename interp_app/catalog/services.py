"""Writes of the catalog: allowing models, creating prompt sets and adding versions to them."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from interp_app.catalog import files
from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.catalog.uploads import MAX_PAIRS, MAX_UPLOAD_BYTES, pairs_from_rows
from interp_app.core import audit, filing
from interp_app.core.canonical import canonical_json, sha256_of
from interp_app.core.errors import ServiceError, not_allowed, not_found
from interp_app.core.models import User
from interp_app.core.visibility import Visibility
from tracing.prompts import PromptPair

MAX_TITLE = 120


@transaction.atomic
def register_model(
    *, actor: User | None, location: str, slug: str, title: str, description: str = "", revision: str = ""
) -> ModelSource:
    """Allow the model at `location`, or read its folder again where the slug exists.

    `actor` None is the command line, whose user already has the machine. Raises `ServiceError` where the actor is no
    administrator of the lab, or the folder cannot be used.
    """
    if actor is not None and not actor.is_lab_admin:
        raise not_allowed("Only an administrator of the lab may register models.")
    if not slug or slug != slugify(slug):
        message = f"{slug!r} is not a short name: use small letters, digits and dashes."
        raise ServiceError("slug_invalid", message, fields={"slug": [message]})
    folder = files.read_model_folder(location)
    model, created = ModelSource.objects.update_or_create(
        slug=slug,
        defaults={
            "title": title or slug,
            "description": description,
            "location": location,
            "revision": revision,
            "family": folder.facts["family"],
            "facts": folder.facts,
            "config": folder.config,
            "weights_sha256": folder.weights_sha256,
            "tokenizer_sha256": folder.tokenizer_sha256,
            "config_sha256": folder.config_sha256,
            "allowed": True,
        },
    )
    audit.record(actor=actor, action="model.register" if created else "model.update", target=model, location=location)
    return model


@transaction.atomic
def allow_model(*, actor: User | None, slug: str, allowed: bool) -> ModelSource:
    """Let runs use a registered model, or no longer. `actor` None is the command line. Raises `ServiceError`."""
    if actor is not None and not actor.is_lab_admin:
        raise not_allowed("Only an administrator of the lab may do this.")
    model = ModelSource.objects.select_for_update(no_key=True).filter(slug=slug).first()
    if model is None:
        raise not_found("model")
    model.allowed = allowed
    model.save(update_fields=["allowed"])
    audit.record(actor=actor, action="model.allow" if allowed else "model.disallow", target=model)
    return model


@transaction.atomic
def create_prompt_set(
    *,
    owner: User,
    title: str,
    pairs: Sequence[PromptPair] | Sequence[dict[str, Any]],
    description: str = "",
    task: str = "",
    visibility: str = Visibility.LAB,
    slug: str | None = None,
    note: str = "",
) -> PromptSet:
    """A prompt set with its version 1. `pairs` are checked as an upload is. Raises `ServiceError`."""
    if not owner.can_run:
        raise not_allowed("Your account may not create prompt sets.", "Ask an administrator for the role member.")
    prompt_set = PromptSet(
        title=filing.title(title, at_most=MAX_TITLE),
        description=description.strip(),
        task=task,
        owner=owner,
        visibility=filing.visibility(visibility),
        slug=slug,
    )
    checked = _checked(pairs)
    prompt_set.save()
    _write_version(prompt_set, 1, checked, owner, note)
    audit.record(actor=owner, action="prompts.create", target=prompt_set, pairs=len(checked))
    return prompt_set


@transaction.atomic
def add_version(
    *,
    prompt_set: PromptSet,
    actor: User,
    pairs: Sequence[PromptPair] | Sequence[dict[str, Any]],
    note: str = "",
) -> PromptSetVersion:
    """The next version of a prompt set; the latest one itself where nothing changed. Raises `ServiceError`."""
    _require_editable(prompt_set, actor)
    checked = _checked(pairs)
    PromptSet.objects.select_for_update(no_key=True).get(pk=prompt_set.pk)  # two editors get two numbers
    latest = prompt_set.versions.order_by("-number").first()
    if latest is not None and latest.sha256 == sha256_of(checked):
        return latest
    number = latest.number + 1 if latest else 1
    version = _write_version(prompt_set, number, checked, actor, note)
    audit.record(actor=actor, action="prompts.add_version", target=prompt_set, number=number, pairs=len(checked))
    return version


@transaction.atomic
def update_prompt_set(
    *,
    prompt_set: PromptSet,
    actor: User,
    title: str | None = None,
    description: str | None = None,
    visibility: str | None = None,
    archived: bool | None = None,
) -> PromptSet:
    """Change what is not part of a version; None leaves a field as it is. Raises `ServiceError`."""
    _require_editable(prompt_set, actor)
    if title is not None:
        prompt_set.title = filing.title(title, at_most=MAX_TITLE)
    if description is not None:
        prompt_set.description = description.strip()
    if visibility is not None:
        prompt_set.visibility = filing.visibility(visibility)
    if archived is not None:
        prompt_set.archived_at = timezone.now() if archived else None
    prompt_set.save()
    audit.record(actor=actor, action="prompts.update", target=prompt_set, visibility=prompt_set.visibility)
    return prompt_set


def _write_version(
    prompt_set: PromptSet, number: int, checked: list[dict[str, Any]], actor: User, note: str
) -> PromptSetVersion:
    return PromptSetVersion.objects.create(
        prompt_set=prompt_set,
        number=number,
        pairs=checked,
        n_pairs=len(checked),
        sha256=sha256_of(checked),
        note=note[:200],
        created_by=actor,
    )


def _checked(pairs: Sequence[PromptPair] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs as the JSON that is stored and hashed, within the limits."""
    rows = [pair.model_dump(mode="json") if isinstance(pair, PromptPair) else pair for pair in pairs[: MAX_PAIRS + 1]]
    checked = [pair.model_dump(mode="json") for pair in pairs_from_rows(enumerate(rows, start=1))]
    size = len(canonical_json(checked).encode())
    if size > MAX_UPLOAD_BYTES:
        message = f"The pairs are {size / 2**20:.1f} MB of text; a prompt set holds up to {MAX_UPLOAD_BYTES >> 20} MB."
        raise ServiceError("upload_too_large", message, "Split it.", fields={"pairs": [message]}, status=413)
    return checked


def _require_editable(prompt_set: PromptSet, actor: User) -> None:
    if not PromptSet.objects.editable_by(actor).filter(pk=prompt_set.pk).exists():
        raise not_allowed("This prompt set belongs to someone else.", "Make a set of your own from its pairs.")
