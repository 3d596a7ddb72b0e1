"""Prompt pairs, their tokenisation, and whether clean and corrupted line up token by token.

A pair has a clean prompt, a corrupted prompt, the answer the clean one asks for and a foil (the answer the corrupted
one asks for). Position-wise patching is meaningful only where both prompts have the same number of tokens; `check`
reports every pair that cannot be used, with both tokenisations and the first difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
)

from tracing.errors import PromptError
from tracing.metric_facts import metric_facts
from tracing.prompt_spans import Span, Where, resolve
from tracing.tokens import Tokens


class PromptPair(BaseModel):
    """One clean/corrupted pair as a user writes it. Several answers or foils are allowed; each must be one token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clean: str
    corrupted: str
    answer: tuple[str, ...]
    foil: tuple[str, ...] = ()
    label: str = ""
    spans: tuple[tuple[str, Where], ...] = ()
    """Named places, given as a mapping: `{"IO": "Mary", "S2": ("John", 2), "END": -1, "middle": (3, 6)}`.

    A word of the clean prompt, its n-th occurrence, one token's position, or the first position and the one behind the
    last; positions from the end are negative, and None ends a range at the prompt's end.
    """

    @field_validator("answer", "foil", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("spans", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, dict) else value

    @field_serializer("spans")
    def _as_mapping(self, value: tuple[tuple[str, Where], ...]) -> dict[str, Any]:
        return {name: list(where) if isinstance(where, tuple) else where for name, where in value}

    @model_serializer(mode="wrap")
    def _without_empty_spans(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Stored prompt sets are known by the hash of this form: a pair without spans keeps the one it always had.
        found: dict[str, Any] = handler(self)
        if not self.spans:
            found.pop("spans", None)
        return found


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A pair as the model sees it. `differs[t]` is True where clean and corrupted tokens differ."""

    number: int
    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    clean_tokens: tuple[str, ...]
    corrupted_tokens: tuple[str, ...]
    answer_ids: tuple[int, ...]
    foil_ids: tuple[int, ...]
    answer_position: int = -1
    """Where the metric reads the logits: the last token, or a masked language model's mask token."""
    spans: tuple[Span, ...] = ()
    """Named places as (name, first position, the position behind the last)."""
    decoder_ids: tuple[int, ...] = ()
    """Of an encoder-decoder model: what its decoder reads, in both runs; empty means its start token alone."""

    @property
    def aligned(self) -> bool:
        return len(self.clean_ids) == len(self.corrupted_ids)

    @property
    def differs(self) -> tuple[bool, ...]:
        return tuple(a != b for a, b in zip(self.clean_ids, self.corrupted_ids, strict=False))

    @property
    def length(self) -> int:
        return len(self.clean_ids)


@dataclass(frozen=True, slots=True)
class PairProblem:
    """Why pair `number` (counted from 1) cannot be used: the field at fault, a sentence, and what to do."""

    number: int
    field: str
    message: str
    remedy: str


def tokenize(pair: PromptPair, number: int, tokens: Tokens) -> TokenizedPair:
    """Tokenise one pair without judging it. Answers of several tokens show up as several ids."""
    clean, corrupted = tokens.encode(pair.clean), tokens.encode(pair.corrupted)
    texts = tokens.texts(clean)
    return TokenizedPair(
        number=number,
        clean_ids=tuple(clean),
        corrupted_ids=tuple(corrupted),
        clean_tokens=tuple(texts),
        corrupted_tokens=tuple(tokens.texts(corrupted)),
        answer_ids=tuple(i for text in pair.answer for i in tokens.encode(text, special=False)),
        foil_ids=tuple(i for text in pair.foil for i in tokens.encode(text, special=False)),
        answer_position=clean.index(tokens.mask_id) if tokens.mask_id in clean else -1,
        spans=resolve(pair.spans, texts)[0],
    )


def check(pairs: Sequence[PromptPair], tokens: Tokens, max_positions: int) -> list[PairProblem]:
    """Every reason why these pairs cannot be patched position by position; an empty list means all can."""
    if not pairs:
        return [PairProblem(0, "pairs", "The prompt set has no pairs.", "Add at least one clean/corrupted pair.")]
    return [
        problem
        for number, pair in enumerate(pairs, start=1)
        for problem in _problems(pair, number, tokens, max_positions)
    ]


def tokenize_all(pairs: Sequence[PromptPair], tokens: Tokens, max_positions: int) -> list[TokenizedPair]:
    """Tokenise pairs for a run. Raises `PromptError` naming the first unusable pair (and how many there are)."""
    problems = check(pairs, tokens, max_positions)
    if problems:
        _refuse(problems)
    return [tokenize(pair, number, tokens) for number, pair in enumerate(pairs, start=1)]


def require_usable(pairs: Sequence[TokenizedPair], needs_foil: str = "") -> None:
    """Raises `PromptError` for the first tokenized pair that does not align, or lacks an answer.

    `needs_foil` names the metric that compares answers with foils, where there is one.
    """
    for pair in pairs:
        problems = _alignment_problems(pair)
        if not pair.answer_ids:
            problems.append(_missing(pair.number, "answer", "Give the token the clean prompt asks for."))
        if needs_foil and not pair.foil_ids:
            problems.append(_foil_problem(pair.number, needs_foil))
        if problems:
            _refuse(problems)


def require_readable(pair: TokenizedPair, vocabulary: int, max_positions: int | None = None) -> None:
    """Raises `PromptError` for a tokenized pair that a model of these sizes cannot read as it is written.

    Its prompts are not longer than `max_positions`; ids are those of a vocabulary of so many tokens; the answer's
    position and the spans lie in the prompt. A wrong one would read another place, or fail far from its cause.
    """
    found = _outside(pair, vocabulary, max_positions)
    if found is not None:
        field, message, remedy = found
        _refuse([PairProblem(pair.number, field, f"Pair {pair.number}: {message}", remedy)])


def _outside(pair: TokenizedPair, vocabulary: int, max_positions: int | None) -> tuple[str, str, str] | None:
    prompts = {"clean": pair.clean_ids, "corrupted": pair.corrupted_ids, "decoder_ids": pair.decoder_ids}
    for field, ids in {**prompts, "answer": pair.answer_ids, "foil": pair.foil_ids}.items():
        bad = [one for one in ids if not 0 <= one < vocabulary]
        if bad:
            return field, f"{bad[0]} is no token id of the model ({field}).", f"Its ids are 0 to {vocabulary - 1}."
        if field in prompts and max_positions is not None and len(ids) > max_positions:
            over = len(ids) - max_positions
            message = f"{field} has {len(ids)} tokens, the model reads at most {max_positions}."
            return field, message, f"Shorten it by {over} tokens."
    if not pair.clean_ids:
        return "clean", "the prompt has no tokens.", "Give it at least one."
    length = pair.length
    if not -length <= pair.answer_position < length:
        message = f"the answer cannot be read at position {pair.answer_position} of {length} tokens."
        return "answer_position", message, f"Use {-length} to {length - 1}; negative ones count from the end."
    for name, start, stop in pair.spans:
        if not 0 <= start < stop <= len(pair.clean_ids):
            message = f"the span {name!r} is ({start}, {stop}), which is no place in {len(pair.clean_ids)} tokens."
            return "spans", message, "A span is its first position and the one behind its last."
    return None


def check_for_metric(pairs: Sequence[PromptPair], metric: str) -> list[PairProblem]:
    """Pairs that lack what a metric needs: those without a foil, where it compares answers with foils.

    Raises `MetricError` for an unknown metric.
    """
    if not metric_facts(metric).needs_foil:
        return []
    return [_foil_problem(number, metric) for number, pair in enumerate(pairs, start=1) if not pair.foil]


def require_for_metric(pairs: Sequence[PromptPair], metric: str) -> None:
    """Raises `PromptError` naming the first pair that lacks what the metric needs."""
    problems = check_for_metric(pairs, metric)
    if problems:
        _refuse(problems)


def _refuse(problems: Sequence[PairProblem]) -> NoReturn:
    first, others = problems[0], len(problems) - 1
    more = f" ({others} more problem{'s' if others > 1 else ''}.)" if others else ""
    raise PromptError(first.message + more, remedy=first.remedy, where={"pair": first.number, "field": first.field})


def _missing(number: int, field: str, remedy: str) -> PairProblem:
    return PairProblem(number, field, f"Pair {number}: there is no {field}.", remedy)


def _foil_problem(number: int, metric: str) -> PairProblem:
    return PairProblem(
        number,
        "foil",
        f"Pair {number}: the metric {metric} compares the answer with a foil, and there is none.",
        "Give the token the corrupted prompt asks for, or choose a metric that needs no foil.",
    )


def _problems(pair: PromptPair, number: int, tokens: Tokens, max_positions: int) -> list[PairProblem]:
    found = [
        PairProblem(number, name, f"Pair {number}: the {name} prompt is empty.", "Write a prompt, or delete the pair.")
        for name, text in (("clean", pair.clean), ("corrupted", pair.corrupted))
        if not text.strip()
    ]
    if found:
        return found
    seen = tokenize(pair, number, tokens)
    return [
        *_length_problems(seen, max_positions),
        *_unknown_problems(pair, seen, tokens),
        *_word_problems(pair, number, tokens),
        *_alignment_problems(seen),
        *_mask_problems(seen, tokens),
        *_span_problems(pair, seen),
    ]


def _mask_problems(seen: TokenizedPair, tokens: Tokens) -> list[PairProblem]:
    """A mask token is where the answer is read, so there is one, at the same place of both prompts."""
    places = [
        [position for position, id_ in enumerate(ids) if id_ == tokens.mask_id]
        for ids in (seen.clean_ids, seen.corrupted_ids)
    ]
    if tokens.mask_id is None or places in ([[], []], [[seen.answer_position]] * 2):
        return []
    return [
        PairProblem(
            seen.number,
            "corrupted",
            f"Pair {seen.number}: the mask token is at positions {places[0]} of the clean prompt and {places[1]} of "
            "the corrupted one; the answer is read at one mask, at the same position of both.",
            "Write one mask token in each prompt, at the same place.",
        )
    ]


def _span_problems(pair: PromptPair, seen: TokenizedPair) -> list[PairProblem]:
    problems = resolve(pair.spans, list(seen.clean_tokens))[1]
    return [PairProblem(seen.number, "spans", f"Pair {seen.number}: {message}", remedy) for message, remedy in problems]


def _length_problems(seen: TokenizedPair, max_positions: int) -> list[PairProblem]:
    return [
        PairProblem(
            seen.number,
            name,
            f"Pair {seen.number}: the {name} prompt has {len(ids)} tokens, the model reads at most {max_positions}.",
            f"Shorten it by {len(ids) - max_positions} tokens.",
        )
        for name, ids in (("clean", seen.clean_ids), ("corrupted", seen.corrupted_ids))
        if len(ids) > max_positions
    ]


def _unknown_problems(pair: PromptPair, seen: TokenizedPair, tokens: Tokens) -> list[PairProblem]:
    """Words outside the vocabulary: they all become one token, so the model would not read what the user wrote."""
    if tokens.unknown_id is None:
        return []
    remedy = "Use words of its vocabulary."
    found = [
        PairProblem(
            seen.number,
            name,
            f"Pair {seen.number}: the {name} prompt has a word this tokenizer does not know, at position "
            f"{ids.index(tokens.unknown_id)}.",
            remedy,
        )
        for name, ids in (("clean", seen.clean_ids), ("corrupted", seen.corrupted_ids))
        if tokens.unknown_id in ids
    ]
    found += [
        PairProblem(seen.number, name, f"Pair {seen.number}: this tokenizer does not know the {name} {text!r}.", remedy)
        for name, texts in (("answer", pair.answer), ("foil", pair.foil))
        for text in texts
        if tokens.unknown_id in tokens.encode(text, special=False)
    ]
    return found


def _word_problems(pair: PromptPair, number: int, tokens: Tokens) -> list[PairProblem]:
    problems = []
    if not pair.answer:
        problems.append(_missing(number, "answer", "Give the token the clean prompt asks for."))
    for name, texts in (("answer", pair.answer), ("foil", pair.foil)):
        for text in texts:
            ids = tokens.encode(text, special=False)
            if len(ids) != 1:
                pieces = " | ".join(repr(piece) for piece in tokens.texts(ids)) or "nothing"
                hint = "" if text.startswith(" ") else " A leading space often makes a word one token."
                problems.append(
                    PairProblem(
                        number,
                        name,
                        f"Pair {number}: the {name} {text!r} is {len(ids)} tokens ({pieces}), it must be exactly one.",
                        f"Choose a word this tokenizer knows as one token.{hint}",
                    )
                )
    both = set(pair.answer) & set(pair.foil)
    if both:
        problems.append(
            PairProblem(
                number,
                "foil",
                f"Pair {number}: {min(both)!r} is both an answer and a foil.",
                "A foil is what the corrupted prompt asks for instead of the answer.",
            )
        )
    return problems


def _alignment_problems(seen: TokenizedPair) -> list[PairProblem]:
    if not seen.aligned:
        where = next(
            (t for t, differs in enumerate(seen.differs) if differs), min(seen.length, len(seen.corrupted_ids))
        )
        clean = seen.clean_tokens[where] if where < seen.length else "end of prompt"
        corrupted = seen.corrupted_tokens[where] if where < len(seen.corrupted_ids) else "end of prompt"
        return [
            PairProblem(
                seen.number,
                "corrupted",
                f"Pair {seen.number}: clean has {seen.length} tokens, corrupted has {len(seen.corrupted_ids)}; "
                f"they first differ at position {where} ({clean!r} against {corrupted!r}).",
                "Replace words by words of the same number of tokens.",
            )
        ]
    if not any(seen.differs):
        return [
            PairProblem(
                seen.number,
                "corrupted",
                f"Pair {seen.number}: clean and corrupted are the same tokens, so there is nothing to patch.",
                "Change at least one token in the corrupted prompt.",
            )
        ]
    return []
