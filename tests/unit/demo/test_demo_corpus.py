"""The synthetic corpus and its tokenizer: deterministic, split cleanly, and free of unknown words."""

import json
from random import Random

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tracing.demo import MODEL_DIR, corpus, evaluate, tokenizer, words

GENERATORS = {**corpus.TASKS, "background": corpus.background}


def draw(task: str, seed: int, count: int, held_out: bool = False) -> list[corpus.Example]:
    rng = Random(seed)
    return [GENERATORS[task](rng, held_out) for _ in range(count)]


@pytest.mark.parametrize("task", GENERATORS)
def test_the_same_seed_gives_the_same_text(task):
    assert draw(task, 3, 50) == draw(task, 3, 50)
    assert draw(task, 3, 50) != draw(task, 4, 50)


@pytest.mark.parametrize("task", corpus.TASKS)
def test_training_and_held_out_text_share_no_key(task):
    training = {example.key for example in draw(task, 1, 3000)}
    held_out = {example.key for example in draw(task, 2, 1000, held_out=True)}

    assert not training & held_out
    assert not any(corpus.is_held_out(key) for key in training)
    assert all(corpus.is_held_out(key) for key in held_out)


@pytest.mark.parametrize("task", corpus.TASKS)
def test_no_held_out_prompt_opens_a_training_sentence(task):
    training = [example.text for example in draw(task, 1, 1500)]

    for example in draw(task, 2, 60, held_out=True):
        assert not any(text.startswith(example.prompt) for text in training)


# The capital of France is background text, learnt by heart.
@pytest.mark.parametrize("prompt", [text for text in evaluate.FAMOUS_PROMPTS if "capital" not in text])
def test_the_famous_prompts_are_not_in_the_training_text_of_the_tasks(prompt):
    training = [example.text for task in corpus.TASKS for example in draw(task, 5, 1000)]

    assert not any(text.startswith(prompt) for text in training)


@pytest.mark.parametrize("task", GENERATORS)
@pytest.mark.parametrize("held_out", [False, True])
def test_every_sentence_survives_tokenising_without_an_unknown_token(task, held_out):
    built = tokenizer.build_tokenizer()

    for example in draw(task, 9, 200, held_out):
        encoded = built.encode(example.text)
        assert tokenizer.UNKNOWN not in encoded.tokens
        assert built.decode(encoded.ids) == example.text


@pytest.mark.parametrize("task", corpus.TASKS)
def test_every_answer_is_one_token_and_does_not_merge_with_its_prompt(task):
    built = tokenizer.build_tokenizer()

    for example in draw(task, 11, 200, held_out=True):
        prompt, whole = built.encode(example.prompt).ids, built.encode(example.prompt + example.answer).ids
        assert whole[:-1] == prompt


def test_a_landmark_of_several_words_is_one_token():
    built = tokenizer.build_tokenizer()

    assert built.encode("The Eiffel Tower is in").tokens == ["The", " Eiffel Tower", " is", " in"]
    assert len(built.encode("The Colosseum is in").ids) == 4
    assert all(len(built.encode(f" {landmark}").ids) == 1 for landmark in words.LANDMARKS)


def test_a_year_is_two_tokens_of_two_digits():
    assert tokenizer.build_tokenizer().encode(" 1732").tokens == [" 17", "32"]


def test_a_word_outside_the_vocabulary_is_the_unknown_token():
    assert tokenizer.build_tokenizer().encode(" zeppelin Paris").tokens == ["<unk>", " Paris"]


def test_the_vocabulary_has_no_token_twice():
    tokens = tokenizer.vocabulary()

    assert len(tokens) == len(set(tokens))


def test_the_shipped_tokenizer_is_the_one_the_corpus_builds():
    shipped, built = (
        json.loads(text)
        for text in (
            (MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"),
            tokenizer.build_tokenizer().to_str(),
        )
    )

    for part in ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder"):
        assert shipped[part] == built[part]


def test_both_loaders_of_the_shipped_tokenizer_agree():
    text = "When Mary and John went to the store, John gave a drink to"
    plain = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    automatic = AutoTokenizer.from_pretrained(MODEL_DIR)

    assert automatic.encode(text) == plain.encode(text).ids
    assert automatic.decode(automatic.encode(text)) == plain.decode(plain.encode(text).ids) == text


def test_a_sentence_is_no_longer_than_the_card_says():
    built = tokenizer.build_tokenizer()
    sentences = [e.text for task in GENERATORS if task != "induction" for e in draw(task, 29, 500)]

    assert max(len(built.encode(text).ids) for text in sentences) == 21


def test_greater_than_answers_are_later_years():
    assert all(int(example.answer) > int(example.key[2]) for example in draw("greater_than", 13, 500))


def test_indirect_objects_come_in_both_orders():
    orders = set()
    for example in draw("ioi", 17, 100):
        first_name = min(example.key[1:], key=lambda name: example.prompt.index(f" {name}"))
        orders.add(example.answer.strip() == first_name)

    assert orders == {True, False}


def test_random_words_repeat_with_one_period():
    built = tokenizer.build_tokenizer()

    for example in draw("induction", 19, 50):
        ids = built.encode(example.text).ids
        period = len(example.key) - 1
        scored = ids[example.scored_from :]
        assert len(ids) == 64
        assert scored == ids[example.scored_from - period : len(ids) - period]
