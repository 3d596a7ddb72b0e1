"""Pairs that cannot be used say which pair, which field, why, and what to do."""

import pytest

from tests import tiny
from tests.decoders import pair as ids_pair
from tracing.errors import MetricError, PromptError
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
