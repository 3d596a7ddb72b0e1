"""Reads of the catalog, each through the visibility of the user who asks."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import IntegerField, OuterRef, Subquery

from interp_app.catalog import files
from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.core.errors import ServiceError, not_found
from interp_app.core.visibility import VisibleQuerySet
from tracing.experiments.registry import ModelFacts, PromptFacts
from tracing.prompts import PairProblem, PromptPair, TokenizedPair, check, tokenize
from tracing.tokens import Tokens


@dataclass(frozen=True, slots=True)
class TokenView:
    """Pairs as one model sees them, and every reason why some cannot be used."""

    pairs: list[TokenizedPair]
    problems: list[PairProblem]
    special_ids: frozenset[int]


def allowed_models() -> Any:
    """Queryset of the models runs may use."""
    return ModelSource.objects.filter(allowed=True)


def model_by_slug(slug: str) -> ModelSource:
    """The allowed model of that slug. Raises `ServiceError` 404."""
    model: ModelSource | None = allowed_models().filter(slug=slug).first()
    if model is None:
        raise not_found("model")
    return model


def facts_of(model: ModelSource) -> ModelFacts:
    """The library's facts about a model, from the row."""
    return ModelFacts(**model.facts)


def sites_of(model: ModelSource) -> tuple[str, ...]:
    """The standard sites that experiments may name on this model."""
    return files.sites_at(model.family)


def visible_prompt_sets(user: Any, *, archived: bool = False) -> VisibleQuerySet:
    """Prompt sets `user` may see, with `latest_number` and `latest_pairs` of their newest version."""
    newest = PromptSetVersion.objects.filter(prompt_set=OuterRef("pk")).order_by("-number")
    annotated: VisibleQuerySet = (
        PromptSet.objects.visible_to(user)
        .filter(archived_at__isnull=not archived)
        .select_related("owner")
        .annotate(
            latest_number=Subquery(newest.values("number")[:1], output_field=IntegerField()),
            latest_pairs=Subquery(newest.values("n_pairs")[:1], output_field=IntegerField()),
        )
    )
    return annotated


def prompt_set_for(user: Any, id_: uuid.UUID | str) -> PromptSet:
    """The prompt set of that id, archived or not. Raises `ServiceError` 404 where `user` may not see it."""
    try:
        found: PromptSet | None = PromptSet.objects.visible_to(user).select_related("owner").filter(pk=id_).first()
    except (ValidationError, ValueError):
        found = None
    if found is None:
        raise not_found("prompt set")
    return found


def version_for(user: Any, id_: uuid.UUID | str, number: int | None = None) -> PromptSetVersion:
    """Version `number` (None: the newest) of a visible prompt set. Raises `ServiceError` 404."""
    prompt_set = prompt_set_for(user, id_)
    versions = PromptSetVersion.objects.select_related("prompt_set__owner").filter(prompt_set=prompt_set)
    found = (versions.filter(number=number) if number is not None else versions.order_by("-number")).first()
    if found is None:
        raise not_found("version of this prompt set")
    return found


def pairs_of(version: PromptSetVersion) -> list[PromptPair]:
    """The pairs of a version as the library's type."""
    return [PromptPair.model_validate(pair) for pair in version.pairs]


def tokens_of(model: ModelSource) -> Tokens:
    """The model's tokenizer. Raises `ServiceError` where this machine does not have it."""
    return files.tokens_at(model.location)


def tokenised(model: ModelSource, pairs: Sequence[PromptPair]) -> TokenView:
    """Pairs tokenised and judged for `model`. Raises `ServiceError` where the tokenizer cannot be read."""
    tokens = tokens_of(model)
    return TokenView(
        pairs=[tokenize(pair, number, tokens) for number, pair in enumerate(pairs, start=1)],
        problems=check(pairs, tokens, facts_of(model).max_positions),
        special_ids=tokens.special_ids,
    )


def usable_prompts(model: ModelSource, version: PromptSetVersion) -> PromptFacts:
    """Token lengths of a version that runs on `model`. Raises `ServiceError` `prompt_invalid` naming every bad pair.

    A version never changes and a tokenizer is known by its hash, so the answer is remembered.
    """
    return _usable(model.location, model.tokenizer_sha256, facts_of(model).max_positions, version.pk)


@lru_cache(maxsize=256)
def _usable(location: str, tokenizer_sha256: str, max_positions: int, version_pk: int) -> PromptFacts:
    del tokenizer_sha256  # part of the cache's key
    pairs = pairs_of(PromptSetVersion.objects.get(pk=version_pk))
    tokens = files.tokens_at(location)
    problems = check(pairs, tokens, max_positions)
    if problems:
        first = problems[0]
        more = f" {len(problems) - 1} more problems follow." if len(problems) > 1 else ""
        raise ServiceError(
            "prompt_invalid",
            first.message + more,
            first.remedy,
            fields={"prompts": [f"{problem.message} {problem.remedy}" for problem in problems[:50]]},
        )
    seen = [tokenize(pair, number, tokens) for number, pair in enumerate(pairs, start=1)]
    return PromptFacts(
        lengths=tuple(pair.length for pair in seen),
        first_differences=tuple(pair.differs.index(True) for pair in seen),
    )
