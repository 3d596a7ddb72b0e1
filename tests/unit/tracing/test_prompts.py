"""Pairs that cannot be used say which pair, which field, why, and what to do."""

from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tests import tiny
from tests.decoders import pair as ids_pair
from tracing.errors import MetricError, PromptError
from tracing.prompt_spans import resolve
from tracing.prompts import PromptPair, check, check_for_metric, require_usable, tokenize, tokenize_all
from tracing.tokens import Tokens


@pytest.fixture(scope="module")
def tokens(tokenizer_folder) -> Tokens:
    return Tokens.from_folder(tokenizer_folder)


def pair(**changes) -> PromptPair:
    """Mary and John, with changes."""
    fields = {"clean": "Mary saw John", "corrupted": "John saw John", "answer": "Mary", "foil": "John"}
    return PromptPair(**{**fields, **changes})


def problems(tokens: Tokens, max_positions: int = 10, **changes) -> list[tuple[int, str, str]]:
    found = check([pair(), pair(**changes)], tokens, max_positions)
    assert all(problem.remedy for problem in found)
    return [(problem.number, problem.field, problem.message) for problem in found]


def test_a_usable_pair_has_no_problems(tokens: Tokens) -> None:
    assert problems(tokens) == []
    assert check(tiny.pairs(8), tokens, 64) == []


@pytest.mark.parametrize("field", ["clean", "corrupted"])
def test_an_empty_prompt_is_named(tokens: Tokens, field: str) -> None:
    assert problems(tokens, **{field: " \n"}) == [(2, field, f"Pair 2: the {field} prompt is empty.")]


def test_a_misaligned_pair_shows_lengths_and_first_difference(tokens: Tokens) -> None:
    [(number, field, message)] = problems(tokens, corrupted="Mary and John saw")
    assert (number, field) == (2, "corrupted")
    assert message == (
        "Pair 2: clean has 3 tokens, corrupted has 4; they first differ at position 1 ('saw' against 'and')."
    )


def test_a_prompt_that_only_goes_on_differs_where_the_other_ends(tokens: Tokens) -> None:
    [(_, _, message)] = problems(tokens, corrupted="Mary saw John and")
    assert "position 3 ('end of prompt' against 'and')" in message


def test_equal_prompts_have_nothing_to_patch(tokens: Tokens) -> None:
    [(_, field, message)] = problems(tokens, corrupted="Mary saw John")
    assert field == "corrupted"
    assert "the same tokens" in message


def test_an_answer_of_several_tokens_shows_its_pieces(tokens: Tokens) -> None:
    [(_, field, message)] = problems(tokens, answer="the store")
    assert field == "answer"
    assert "'the store' is 2 tokens ('the' | 'store'), it must be exactly one" in message


def test_each_of_several_answers_is_checked(tokens: Tokens) -> None:
    assert [field for _, field, _ in problems(tokens, answer=("Mary", "the store"), foil=("a drink",))] == [
        "answer",
        "foil",
    ]


def test_a_missing_answer_is_named(tokens: Tokens) -> None:
    assert problems(tokens, answer=()) == [(2, "answer", "Pair 2: there is no answer.")]


def test_an_answer_cannot_be_its_own_foil(tokens: Tokens) -> None:
    assert problems(tokens, foil=("John", "Mary")) == [(2, "foil", "Pair 2: 'Mary' is both an answer and a foil.")]


def test_a_prompt_longer_than_the_context_says_by_how_much(tokens: Tokens) -> None:
    found = check([pair()], tokens, 2)
    assert [(one.field, one.remedy) for one in found] == [
        ("clean", "Shorten it by 1 tokens."),
        ("corrupted", "Shorten it by 1 tokens."),
    ]


def test_no_pairs_is_a_problem_of_the_set(tokens: Tokens) -> None:
    assert [(one.number, one.field) for one in check([], tokens, 10)] == [(0, "pairs")]


def test_tokenising_for_a_run_raises_the_first_problem_and_counts_the_others(tokens: Tokens) -> None:
    with pytest.raises(PromptError, match=r"Pair 1: the clean prompt is empty\. \(1 more problem\.\)") as caught:
        tokenize_all([pair(clean=""), pair(answer=())], tokens, 10)
    assert caught.value.where == {"pair": 1, "field": "clean"}


def test_a_tokenized_pair_knows_where_it_differs(tokens: Tokens) -> None:
    seen = tokenize(pair(), 1, tokens)
    assert (seen.differs, seen.aligned, seen.length) == ((True, False, False), True, 3)
    assert seen.clean_tokens == ("Mary", "saw", "John")


def test_metrics_that_compare_with_a_foil_need_one() -> None:
    several = [pair(), pair(foil=())]
    assert [(one.number, one.field) for one in check_for_metric(several, "logit_diff")] == [(2, "foil")]
    assert check_for_metric(several, "prob") == []
    with pytest.raises(MetricError, match="no metric named 'loss'"):
        check_for_metric(several, "loss")


def test_tokenized_pairs_are_checked_too() -> None:
    require_usable([ids_pair([1, 2], [1, 3], (5,))])
    with pytest.raises(PromptError, match="Pair 1: there is no answer"):
        require_usable([ids_pair([1, 2], [1, 3], ())])


def test_one_answer_may_be_written_bare() -> None:
    assert PromptPair(clean="a", corrupted="b", answer=" c").answer == (" c",)
    assert PromptPair.model_validate({"clean": "a", "corrupted": "b", "answer": ["c", "d"]}).answer == ("c", "d")


# -- spans and masks --------------------------------------------------------------------------------------------------
def test_a_pair_without_spans_is_stored_as_it_always_was() -> None:
    pair = PromptPair(clean="a", corrupted="b", answer="c")
    assert pair.model_dump(mode="json") == {"clean": "a", "corrupted": "b", "answer": ["c"], "foil": [], "label": ""}


def test_spans_are_a_mapping_in_json_and_come_back_the_same() -> None:
    spans = {"IO": "Mary", "S2": ("John", 2), "END": -1, "middle": (3, None)}
    pair = PromptPair(clean="a", corrupted="b", answer="c", spans=spans)
    assert pair.model_dump(mode="json")["spans"] == {"IO": "Mary", "S2": ["John", 2], "END": -1, "middle": [3, None]}
    assert PromptPair.model_validate_json(pair.model_dump_json()) == pair
    assert PromptPair.model_validate(pair.model_dump(mode="json")) == pair
    assert len({pair, pair}) == 1


TEXTS = ("When", " Mary", " and", " John", " met", ",", " John", " Smith", "son", " said")


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("Mary", (1, 2)),
        (" Mary", (1, 2)),
        ("Smithson", (7, 9)),
        ("Mary and John", (1, 4)),
        (("John", 2), (6, 7)),
        (3, (3, 4)),
        (-1, (9, 10)),
        ((2, 5), (2, 5)),
        ((-3, None), (7, 10)),
        ((-3, -1), (7, 9)),
    ],
    ids=str,
)
def test_a_span_is_resolved_on_tokens(where: Any, place: tuple[int, int]) -> None:
    assert resolve((("X", where),), TEXTS) == ((("X", *place),), [])


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("John", "'John' is there 2 times"),
        ("Smit", "'Smit' is no whole tokens"),
        (("John", 3), "no occurrence 3"),
        (10, "10 is no place in a prompt of 10 tokens"),
        ((4, 4), r"(4, 4) is no place"),
        ((-12, None), "is no place"),
    ],
    ids=str,
)
def test_a_span_that_is_not_there_says_why_and_shows_the_tokens(where: Any, problem: str) -> None:
    found, [(message, remedy)] = resolve((("X", where),), TEXTS)
    assert found == ()
    assert problem in message
    assert "' Mary' | ' and'" in remedy


def test_a_name_is_given_once() -> None:
    assert "given twice" in resolve((("X", 1), ("X", 2)), TEXTS)[1][0][0]


def test_a_span_that_a_pair_lacks_is_a_problem_of_the_pair(tokens: Tokens) -> None:
    [(number, field, message)] = problems(tokens, spans={"IO": "Anna"})
    assert (number, field) == (2, "spans")
    assert message.startswith("Pair 2: the span IO: 'Anna' is no whole tokens")
    seen = tokenize(pair(spans={"IO": ("Mary", 1), "END": -1}), 1, tokens)
    assert seen.spans == (("IO", 0, 1), ("END", seen.length - 1, seen.length))


def test_the_answer_is_read_at_the_mask_token_of_a_tokenizer_that_has_one() -> None:
    words = ["[MASK]", "Mary", "saw", "John"]
    fast = FastTokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[MASK]"))
    fast.pre_tokenizer = WhitespaceSplit()
    fast.add_special_tokens(["[MASK]"])
    masked = Tokens(fast)
    masked.unknown_id = None
    one = PromptPair(clean="Mary saw [MASK]", corrupted="John saw [MASK]", answer="John", foil="Mary")
    assert (masked.mask_id, tokenize(one, 1, masked).answer_position) == (0, 2)
    assert check([one], masked, 10) == []
    moved = one.model_copy(update={"corrupted": "[MASK] saw Mary"})
    [problem] = check([moved], masked, 10)
    assert "positions [2] of the clean prompt and [0] of the corrupted one" in problem.message
