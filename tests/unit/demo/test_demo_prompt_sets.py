"""The built-in prompt sets: aligned, one token an answer, held out, and the files that the code writes."""

import json
import subprocess
import sys
from random import Random

import pytest

from tracing.demo import PROMPTS_DIR, PromptSet, corpus, pairs, prompt_sets
from tracing.demo.tokenizer import UNKNOWN, build_tokenizer

SETS = prompt_sets()


def rows(entry: PromptSet) -> list[dict[str, str]]:
    return [json.loads(line) for line in entry.path.read_text(encoding="utf-8").splitlines()]


def test_every_task_has_a_prompt_set():
    assert {entry.task for entry in SETS} == set(corpus.TASKS)


def test_every_jsonl_file_is_in_the_index():
    assert {path.name for path in PROMPTS_DIR.glob("*.jsonl")} == {entry.file for entry in SETS}


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.slug)
class TestEverySet:
    def test_has_at_least_fifty_different_pairs(self, entry):
        assert len({(row["clean"], row["corrupted"]) for row in rows(entry)}) >= 50

    def test_has_exactly_the_four_fields(self, entry):
        assert all(list(row) == ["clean", "corrupted", "answer", "foil"] for row in rows(entry))

    def test_is_aligned_and_of_one_length(self, entry):
        built = build_tokenizer()
        lengths = {len(built.encode(row[side]).ids) for row in rows(entry) for side in ("clean", "corrupted")}

        assert len(lengths) == 1

    def test_differs_in_exactly_one_token_a_pair(self, entry):
        built = build_tokenizer()
        for row in rows(entry):
            clean, corrupted = built.encode(row["clean"]).ids, built.encode(row["corrupted"]).ids
            assert sum(a != b for a, b in zip(clean, corrupted, strict=True)) == 1

    def test_has_known_words_and_answers_of_one_token(self, entry):
        built = build_tokenizer()
        for row in rows(entry):
            assert not any(UNKNOWN in built.encode(text).tokens for text in row.values())
            assert len(built.encode(row["answer"]).ids) == len(built.encode(row["foil"]).ids) == 1
            assert row["answer"] != row["foil"]

    def test_has_no_prompt_that_opens_a_training_sentence(self, entry):
        rng = Random(23)
        training = [corpus.TASKS[entry.task](rng, False).text for _ in range(1000)]
        prompts = [row[side] for row in rows(entry) for side in ("clean", "corrupted")]

        assert not any(text.startswith(prompt) for prompt in prompts for text in training)

    def test_is_the_file_that_the_code_writes(self, entry, tmp_path):
        pairs.write_sets(tmp_path)

        assert (tmp_path / entry.file).read_bytes() == entry.path.read_bytes()
        assert (tmp_path / "index.json").read_bytes() == (PROMPTS_DIR / "index.json").read_bytes()


def test_the_well_known_pairs_come_first():
    first = {entry.slug: rows(entry)[0] for entry in SETS}

    assert first["ioi"]["clean"] == "When Mary and John went to the store, John gave a drink to"
    assert first["facts-short"] == {
        "clean": "The Eiffel Tower is in",
        "corrupted": "The Colosseum is in",
        "answer": " Paris",
        "foil": " Rome",
    }
    assert first["agreement"]["clean"] == "The keys to the cabinet"
    assert first["greater-than"]["clean"] == "The war lasted from the year 1732 to the year 17"


def test_an_unknown_set_is_refused():
    with pytest.raises(KeyError, match="no-such-set"):
        pairs.pairs_of("no-such-set")


def test_listing_the_prompt_sets_loads_no_torch():
    program = "import sys, tracing.demo as demo; demo.prompt_sets(); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
