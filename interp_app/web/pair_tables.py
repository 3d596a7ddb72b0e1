"""Prompt pairs as lines of a table: tokens clean over corrupted, answers with their ids, and what is wrong."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from interp_app.catalog import selectors
from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.catalog.selectors import TokenView
from interp_app.web.tokens import TokenChip, chips
from tracing.prompts import PairProblem, PromptPair


@dataclass(frozen=True, slots=True)
class PairLine:
    """Pair `number` of a version. Without a tokenizer only the texts are known."""

    number: int
    pair: PromptPair
    clean: list[TokenChip] = field(default_factory=list)
    corrupted: list[TokenChip] = field(default_factory=list)
    answers: list[tuple[str, int | None]] = field(default_factory=list)
    foils: list[tuple[str, int | None]] = field(default_factory=list)
    problems: list[PairProblem] = field(default_factory=list)

    @property
    def state(self) -> str:
        return "misaligned" if self.problems else "aligned"


def problems_by_pair(problems: Sequence[PairProblem]) -> dict[int, list[PairProblem]]:
    """Problems by pair number."""
    found: dict[int, list[PairProblem]] = defaultdict(list)
    for problem in problems:
        found[problem.number].append(problem)
    return found


def version_problems(model: ModelSource, version: PromptSetVersion) -> Sequence[PairProblem]:
    """What keeps a version from running on `model`; remembered, since neither version nor tokenizer ever changes.

    Raises `ServiceError` where the tokenizer cannot be read.
    """
    return _problems(model.slug, model.tokenizer_sha256, version.pk)


@lru_cache(maxsize=128)
def _problems(slug: str, tokenizer_sha256: str, version_pk: int) -> tuple[PairProblem, ...]:
    del tokenizer_sha256  # part of the cache's key
    version = PromptSetVersion.objects.get(pk=version_pk)
    return tuple(selectors.tokenised(selectors.model_by_slug(slug), selectors.pairs_of(version)).problems)


def pair_lines(
    pairs: Sequence[PromptPair], view: TokenView | None, start: int, *, problems: Sequence[PairProblem] = ()
) -> list[PairLine]:
    """Lines of `pairs`, the first of which is pair `start + 1`; `view` holds the same pairs, `problems` any."""
    if view is None:
        return [
            PairLine(number, pair, answers=_words(pair.answer, ()), foils=_words(pair.foil, ()))
            for number, pair in enumerate(pairs, start=start + 1)
        ]
    known = problems_by_pair(problems)
    return [
        PairLine(
            number,
            pair,
            clean=chips(seen.clean_ids, seen.clean_tokens, seen.differs, view.special_ids),
            corrupted=chips(seen.corrupted_ids, seen.corrupted_tokens, seen.differs, view.special_ids),
            answers=_words(pair.answer, seen.answer_ids),
            foils=_words(pair.foil, seen.foil_ids),
            problems=known.get(number, []),
        )
        for number, (pair, seen) in enumerate(zip(pairs, view.pairs, strict=True), start=start + 1)
    ]


def _words(texts: Sequence[str], ids: Sequence[int]) -> list[tuple[str, int | None]]:
    """Each text with its token id; where some text is not one token the ids cannot be told apart and are left out."""
    if len(texts) != len(ids):
        return [(text, None) for text in texts]
    return list(zip(texts, ids, strict=True))
