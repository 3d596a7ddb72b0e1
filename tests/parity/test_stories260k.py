"""A real LLaMA with grouped-query attention: its tokenizer, its greedy text, and its She/He head."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.parity import plain
from tracing import families
from tracing.models import LanguageModel
from tracing.patching import sweep
from tracing.patching.axes import aggregate
from tracing.prompts import PromptPair, TokenizedPair, tokenize_all
from tracing.results import Grid


@pytest.fixture(scope="module")
def model(stories: Path) -> LanguageModel:
    return LanguageModel(stories)


@pytest.fixture(scope="module")
def recorded(stories: Path) -> list[dict]:
    return json.loads((stories / "pronoun_pairs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pronouns(model: LanguageModel, recorded: list[dict]) -> list[TokenizedPair]:
    """The twelve pairs from their texts."""
    texts = [
        PromptPair(clean=one["clean_text"], corrupted=one["corrupt_text"], answer="She", foil="He") for one in recorded
    ]
    return tokenize_all(texts, model.tokens, model.facts.max_positions)


def test_texts_tokenise_to_the_recorded_ids(pronouns: list[TokenizedPair], recorded: list[dict]) -> None:
    for found, one in zip(pronouns, recorded, strict=True):
        assert list(found.clean_ids) == one["clean"]
        assert list(found.corrupted_ids) == one["corrupt"]
        assert (found.answer_ids, found.foil_ids) == ((one["a"],), (one["b"],))


def test_token_texts_keep_leading_spaces(model: LanguageModel, recorded: list[dict]) -> None:
    assert model.tokens.texts([recorded[0]["a"], recorded[0]["b"]]) == [" She", " He"]
    assert "".join(model.tokens.texts(recorded[0]["clean"][1:])).strip() == recorded[0]["clean_text"]


def test_greedy_text_is_the_recorded_one(model: LanguageModel, stories: Path) -> None:
    recorded = json.loads((stories / "greedy_reference.json").read_text(encoding="utf-8"))
    ids = recorded["greedy_from_bos_200"]
    logits = model.logits([ids[:-1]])[0]
    assert logits.argmax(-1).tolist() == ids[1:]
    assert "".join(model.tokens.texts(ids[1:])).strip() == recorded["text"]


def test_the_adapter_describes_the_model(model: LanguageModel) -> None:
    report = families.check(model)
    assert report.exact, report


def test_baselines_are_the_recorded_ones(
    model: LanguageModel, pronouns: list[TokenizedPair], recorded: list[dict]
) -> None:
    grid = sweep(model, pronouns, sites="z", over=("layer", "head"))
    np.testing.assert_allclose(grid.clean, [one["metric_clean"] for one in recorded], atol=1e-4)
    np.testing.assert_allclose(grid.corrupted, [one["metric_corrupt"] for one in recorded], atol=1e-4)


def test_head_4_2_alone_recovers_four_fifths(model: LanguageModel, pronouns: list[TokenizedPair]) -> None:
    grid = sweep(model, pronouns, sites="z", over=("layer", "head"))
    assert grid.recovery[4, 2] == pytest.approx(0.81, abs=0.01)
    assert grid.best() == {"layer": 4, "head": 2, "label": "2", "value": pytest.approx(0.816, abs=1e-3)}


def assert_equal(grid: Grid, reference: np.ndarray) -> None:
    """Cells to 1e-5 (float32) or 1e-10 (float64); single pairs to that share of the largest logit difference (6), since
    the hooked float32 forward is itself up to 1.7e-5 away from float64 here, and the sweep 1.1e-5."""
    tolerance = 1e-10 if grid.examples.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(grid.examples, reference, atol=tolerance * np.nanmax(np.abs(reference)), rtol=0)
    recovery, raw = aggregate(reference, grid.clean, grid.corrupted)
    np.testing.assert_allclose(grid.recovery, recovery, atol=tolerance, rtol=0)
    np.testing.assert_allclose(grid.raw, raw, atol=tolerance, rtol=0)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_head_equals_a_hooked_forward(
    model: LanguageModel, pronouns: list[TokenizedPair], direction: str
) -> None:
    grid = sweep(model, pronouns, sites="z", over=("layer", "head"), direction=direction)
    reference = [plain.cells(model.module, one, "z", heads=8, direction=direction).numpy() for one in pronouns]
    assert_equal(grid, np.stack(reference))


@pytest.mark.parametrize("site", plain.POSITION_SITES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_position_equals_a_hooked_forward(
    stories: Path, pronouns: list[TokenizedPair], site: str, dtype: str
) -> None:
    model, some = LanguageModel(stories, dtype=dtype), pronouns[::4]
    grid = sweep(model, some, sites=site)
    reference = np.full(grid.examples.shape, np.nan)
    for n, one in enumerate(some):
        reference[n, :, len(grid.columns) - one.length :] = plain.cells(model.module, one, site).numpy()
    assert_equal(grid, reference)
