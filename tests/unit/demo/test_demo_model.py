"""The shipped demo model: its skills on fresh held-out text, its heads, its files, and its training script."""

import json
from random import Random

import pytest
import torch

from tracing.demo import MODEL_DIR, corpus, evaluate, heads, prompt_sets, train
from tracing.demo.card import card, parameter_count
from tracing.demo.tokenizer import END_OF_TEXT, build_tokenizer

FRESH_SEED = 20_260
REQUIRED_ACCURACY = 0.95
REQUIRED_HEAD_SCORE = 0.5


@pytest.fixture(scope="module")
def loaded():
    return evaluate.load(MODEL_DIR)


@pytest.fixture(scope="module")
def fresh_accuracy(loaded):
    return evaluate.accuracies(*loaded, seed=FRESH_SEED, count=300)


@pytest.fixture(scope="module")
def scores(loaded):
    return heads.head_scores(*loaded, seed=FRESH_SEED)


@pytest.mark.parametrize("task", corpus.TASKS)
def test_the_model_answers_fresh_held_out_prompts_of_every_task_at_95_percent(task, fresh_accuracy):
    accuracy, _ = fresh_accuracy

    assert accuracy[task] >= REQUIRED_ACCURACY


def test_later_years_hold_most_of_the_probability(fresh_accuracy):
    _, later_mass = fresh_accuracy

    assert later_mass >= 0.75


def test_the_model_knows_its_landmarks_in_phrasings_it_never_saw(loaded):
    accuracy = evaluate.answer_accuracy(*loaded, evaluate.unseen_phrasing_examples())

    assert accuracy >= REQUIRED_ACCURACY


@pytest.mark.parametrize(("prompt", "answer"), evaluate.FAMOUS_PROMPTS.items())
@pytest.mark.parametrize("opening", ["", END_OF_TEXT], ids=["bare", "opened"])
def test_the_famous_prompts_are_answered_with_or_without_an_opening_token(loaded, opening, prompt, answer):
    model, tokenizer = loaded
    logits = evaluate.last_logits(model, tokenizer, [opening + prompt])

    assert tokenizer.decode([int(logits.argmax())]) == answer


def test_a_generated_sentence_is_text_and_ends(loaded):
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer.encode("The Colosseum is in the city of")])
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)

    assert tokenizer.decode(generated[0]) == "The Colosseum is in the city of Rome.<|endoftext|>"


def test_a_head_attends_to_the_token_after_the_first_occurrence(scores):
    assert heads.best(scores.induction)[2] >= REQUIRED_HEAD_SCORE


def test_a_head_attends_to_the_previous_token_in_an_earlier_layer(scores):
    induction_layer, _, _ = heads.best(scores.induction)
    previous_layer, _, score = heads.best(scores.previous_token)

    assert score >= REQUIRED_HEAD_SCORE
    assert previous_layer < induction_layer


def test_head_scores_read_the_diagonals_they_say():
    segment, rows, pattern_heads = 5, 2, 2
    pattern = torch.zeros(rows, pattern_heads, 2 * segment, 2 * segment)
    for position in range(segment, 2 * segment):
        pattern[:, 0, position, position - segment + 1] = 1.0
    for position in range(1, 2 * segment):
        pattern[:, 1, position, position - 1] = 1.0

    class Fixed(torch.nn.Module):
        def forward(self, ids, output_attentions):
            return type("Output", (), {"attentions": (pattern,)})()

    found = heads.head_scores(Fixed(), build_wrapped(), seed=0, rows=rows, segment=segment)

    assert found.induction == [[1.0, 0.0]]
    assert found.previous_token == [[0.0, 1.0]]


def build_wrapped():
    """The tokenizer behind the one method that head scores use."""
    built = build_tokenizer()
    return type("Wrapped", (), {"encode": staticmethod(lambda text: built.encode(text).ids)})()


@pytest.mark.parametrize("entry", prompt_sets(), ids=lambda entry: entry.slug)
def test_a_prompt_set_favours_the_answer_when_clean_and_the_foil_when_corrupted(loaded, entry):
    found = evaluate.prompt_set_score(*loaded, entry.path)

    assert found.clean_positive >= REQUIRED_ACCURACY
    assert found.corrupted_negative >= REQUIRED_ACCURACY
    assert found.clean_mean > 1.0 > -1.0 > found.corrupted_mean


def test_the_shipped_measurements_are_those_of_the_shipped_weights(loaded):
    recorded = json.loads((MODEL_DIR / "eval.json").read_text(encoding="utf-8"))
    measured, _ = evaluate.accuracies(*loaded, seed=recorded["seed"], count=recorded["prompts_per_task"])
    measured_heads = heads.head_scores(*loaded, seed=recorded["seed"])

    assert measured == pytest.approx(recorded["accuracy"], abs=0.005)
    for table in ("induction", "previous_token"):
        for row, expected in zip(getattr(measured_heads, table), recorded["heads"][table], strict=True):
            assert row == pytest.approx(expected, abs=0.005)


def test_the_card_is_written_from_the_records():
    training, measured = (
        json.loads((MODEL_DIR / name).read_text(encoding="utf-8")) for name in ("training.json", "eval.json")
    )
    text = (MODEL_DIR / "README.md").read_text(encoding="utf-8")

    assert text == card(training, measured, parameter_count(MODEL_DIR))


def test_the_model_directory_is_small_and_has_no_pickle():
    files = [path for path in MODEL_DIR.iterdir() if path.is_file()]

    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}


def test_the_configuration_is_gpt2_without_dropout(loaded):
    config = loaded[0].config

    assert (config.model_type, config.n_layer, config.n_head, config.n_embd) == ("gpt2", 4, 4, 128)
    assert {config.attn_pdrop, config.embd_pdrop, config.resid_pdrop, config.summary_first_dropout} == {0.0}
    assert {config.bos_token_id, config.eos_token_id, config.pad_token_id} == {0}


def test_the_same_seed_trains_the_same_weights(tmp_path):
    options = train.TrainingOptions(steps=2, induction_tokens=256, sentences=8)
    first, second = (train.train(tmp_path / name, options).state_dict() for name in ("first", "second"))

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_exports_a_directory_that_loads(tmp_path):
    options = train.TrainingOptions(steps=1, induction_tokens=128, sentences=4)
    trained = train.train(tmp_path, options)
    model, tokenizer = evaluate.load(tmp_path)

    assert torch.equal(model.transformer.wte.weight, trained.transformer.wte.weight)
    assert tokenizer.decode(tokenizer.encode("The Eiffel Tower is in")) == "The Eiffel Tower is in"
    assert json.loads((tmp_path / "training.json").read_text())["steps_done"] == 1


def test_only_what_can_be_foreseen_carries_loss():
    built = build_tokenizer()
    example = corpus.induction(Random(1), held_out=False)
    batch = train.collate(built, [example, example], [False, True])
    ids = built.encode(example.text).ids
    foreseen = ids[example.scored_from :]

    for row in batch.labels.tolist():
        assert [label for label in row if label != train.IGNORED] == foreseen


def test_the_learning_rate_warms_up_and_decays():
    options = train.TrainingOptions(steps=1000, warmup_steps=100)
    shares = [train.rate_share(step, options) for step in range(options.steps)]

    assert shares[:99] == sorted(shares[:99])
    assert shares[100] == pytest.approx(1.0)
    assert shares[100:] == sorted(shares[100:], reverse=True)
    assert shares[-1] == pytest.approx(options.final_rate_share, abs=1e-3)
