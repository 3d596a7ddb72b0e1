"""The JSON of models and prompt sets as the API and the pages show it: one definition, so they cannot drift apart."""

from collections.abc import Sequence
from typing import Any

from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.catalog.selectors import TokenView
from interp_app.core.shapes import moment, person
from tracing.prompts import TokenizedPair
from tracing.tokens import Tokens

MAX_PROBLEMS = 200
"""Problems listed at once; their total is told as well."""


def model(source: ModelSource) -> dict[str, Any]:
    """A model in lists."""
    return {
        "slug": source.slug,
        "title": source.title,
        "description": source.description,
        "family": source.family,
        "revision": source.revision,
        "facts": source.facts,
        "created_at": moment(source.created_at),
        "url": f"/models/{source.slug}/",
    }


def model_detail(source: ModelSource) -> dict[str, Any]:
    """A model with its configuration and hashes. Its location on disk is nobody's business."""
    return {
        **model(source),
        "config": source.config,
        "weights_sha256": source.weights_sha256,
        "tokenizer_sha256": source.tokenizer_sha256,
        "config_sha256": source.config_sha256,
    }


def prompt_set(found: Any) -> dict[str, Any]:
    """A prompt set annotated with `latest_number` and `latest_pairs`."""
    return {
        "id": str(found.pk),
        "slug": found.slug,
        "title": found.title,
        "description": found.description,
        "task": found.task,
        "owner": person(found.owner),
        "visibility": found.visibility,
        "archived": found.archived_at is not None,
        "version": found.latest_number,
        "pairs": found.latest_pairs,
        "created_at": moment(found.created_at),
        "url": f"/prompts/{found.pk}/",
    }


def prompt_set_detail(found: PromptSet, versions: Sequence[PromptSetVersion], *, can_edit: bool) -> dict[str, Any]:
    """A prompt set with its versions, newest first."""
    newest = versions[0]
    found.latest_number, found.latest_pairs = newest.number, newest.n_pairs  # type: ignore[attr-defined]
    return {
        **prompt_set(found),
        "versions": [version_summary(version) for version in versions],
        "can": {"edit": can_edit},
    }


def version_summary(version: PromptSetVersion) -> dict[str, Any]:
    """A version without its pairs."""
    return {
        "number": version.number,
        "n_pairs": version.n_pairs,
        "sha256": version.sha256,
        "note": version.note,
        "created_at": moment(version.created_at),
        "created_by": person(version.created_by) if version.created_by else None,
    }


def version_detail(version: PromptSetVersion) -> dict[str, Any]:
    """A version with its pairs."""
    return {
        **version_summary(version),
        "prompt_set": {"id": str(version.prompt_set_id), "title": version.prompt_set.title},
        "pairs": version.pairs,
    }


def token_view(slug: str, tokens: Tokens, view: TokenView, *, start: int = 1, limit: int = 50) -> dict[str, Any]:
    """Pairs `start`, `start + 1`, … as a model sees them, with the problems of all."""
    shown = view.pairs[start - 1 : start - 1 + limit]
    return {
        "model": slug,
        "usable": not view.problems,
        "total": len(view.pairs),
        "pairs": [_tokenised_pair(pair, tokens, view.special_ids) for pair in shown],
        "problems": [
            {"number": one.number, "field": one.field, "message": one.message, "remedy": one.remedy}
            for one in view.problems[:MAX_PROBLEMS]
        ],
        "problems_total": len(view.problems),
    }


def _tokenised_pair(pair: TokenizedPair, tokens: Tokens, special: frozenset[int]) -> dict[str, Any]:
    def side(ids: Sequence[int], texts: Sequence[str]) -> list[dict[str, Any]]:
        differs = pair.differs
        return [
            # positions past the shorter prompt have no counterpart, so they differ
            {"id": id_, "text": text, "special": id_ in special, "differs": differs[t] if t < len(differs) else True}
            for t, (id_, text) in enumerate(zip(ids, texts, strict=True))
        ]

    def words(ids: Sequence[int]) -> list[dict[str, Any]]:
        texts = tokens.texts(list(ids))
        return [
            {"id": id_, "text": text, "special": id_ in special, "differs": False}
            for id_, text in zip(ids, texts, strict=True)
        ]

    return {
        "number": pair.number,
        "clean": side(pair.clean_ids, pair.clean_tokens),
        "corrupted": side(pair.corrupted_ids, pair.corrupted_tokens),
        "answer": words(pair.answer_ids),
        "foil": words(pair.foil_ids),
        "aligned": pair.aligned,
    }
