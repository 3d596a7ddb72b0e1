"""What cannot be meant is refused before anything runs, with an error of the library, never answered with a number."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests import zoo
from tests.decoders import language_model, pair
from tracing.circuits.attribution import edge_attribution
from tracing.circuits.exact import edge_effects
from tracing.errors import MetricError, PromptError, SiteError, SpecError
from tracing.lenses.direct import direct_logit_attribution
from tracing.models import LanguageModel
from tracing.patching import Mean, Noise, attribution_patching, sweep
from tracing.patching.paths import path_patching
from tracing.prompts import TokenizedPair

GOOD = pair([3, 5, 7], [3, 6, 7], (5,), (6,))
BAD_PAIRS: dict[str, tuple[TokenizedPair, str]] = {
    "an answer beyond the vocabulary": (replace(GOOD, answer_ids=(500,)), "500 is no token id"),
    "a negative answer": (replace(GOOD, answer_ids=(-5,)), "-5 is no token id"),
    "a foil beyond the vocabulary": (replace(GOOD, foil_ids=(6, 97)), "97 is no token id"),
    "a token beyond the vocabulary": (replace(GOOD, clean_ids=(3, 5, 97), corrupted_ids=(3, 6, 97)), "97 is no"),
    "a negative token": (replace(GOOD, clean_ids=(3, 5, -1), corrupted_ids=(3, 6, -1)), "-1 is no token id"),
    "a prompt too long": (replace(GOOD, clean_ids=(3,) * 33, corrupted_ids=(4,) * 33), "has 33 tokens"),
    "an answer read behind the prompt": (replace(GOOD, answer_position=4), "cannot be read at position 4"),
    "an answer read before the prompt": (replace(GOOD, answer_position=-4), "cannot be read at position -4"),
    "a span behind the prompt": (replace(GOOD, spans=(("S", 1, 9),)), "no place in 3 tokens"),
    "a span before the prompt": (replace(GOOD, spans=(("S", -1, 0),)), "no place in 3 tokens"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
@pytest.mark.parametrize("method", [sweep, attribution_patching, edge_effects, direct_logit_attribution])
def test_a_tokenized_pair_that_the_model_cannot_read_is_refused(name: str, method: Any) -> None:
    bad, message = BAD_PAIRS[name]
    with pytest.raises(PromptError, match=message):
        method(language_model("gpt2"), [bad])


def test_a_reference_prompt_that_the_model_cannot_read_is_refused() -> None:
    for row, message in (([1, 2, 500], "500 is no token id"), ([], "no tokens")):
        with pytest.raises(PromptError, match=message):
            sweep(language_model("gpt2"), GOOD, source=Mean(reference=[row]))


@pytest.mark.parametrize("number", [True, 1.0, "1", 9], ids=repr)
def test_only_whole_numbers_of_the_model_are_layers_and_heads(number: Any) -> None:
    model = language_model("gpt2")
    for layers in (number, [number]):
        with pytest.raises(SiteError, match="There is no layer"):
            sweep(model, GOOD, layers=layers)
        with pytest.raises(SiteError, match="There is no layer"):
            attribution_patching(model, GOOD, layers=layers)
    with pytest.raises(SiteError, match="There is no head"):
        sweep(model, GOOD, sites="z", heads=number)


def test_numpy_layers_are_layers() -> None:
    found = sweep(language_model("gpt2"), GOOD, layers=list(np.arange(1, 2)))
    assert [tick.label for tick in found.rows.ticks] == ["1"]


def test_options_that_mean_nothing_are_refused() -> None:
    model = language_model("gpt2")
    methods: tuple[Any, ...] = (sweep, attribution_patching)
    for method in methods:
        with pytest.raises(MetricError, match="cannot be 3"):
            method(model, GOOD, 3)
        with pytest.raises(SpecError, match="no batch size"):
            method(model, GOOD, batch=True)
        with pytest.raises(SpecError, match=r"[Ss]ite"):
            method(model, GOOD, sites=[])
    with pytest.raises(SpecError, match="no axis is of spans"):
        attribution_patching(model, replace(GOOD, spans=(("S", 1, 2),)), spans=["S"])
    with pytest.raises(SpecError, match="There is no source"):
        sweep(model, GOOD, source=["zero"])  # type: ignore[call-overload]
    for scale in (True, "3", float("nan"), 0, -1.0):
        with pytest.raises(SpecError, match="is no noise"):
            Noise(scale)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no prompts"):
        Mean(reference=5)  # type: ignore[arg-type]


def test_a_decoder_is_read_where_the_pair_says() -> None:
    """T5 with four decoder tokens, read at its second: the sweep's baseline is the model's own logit difference."""
    module = zoo.double(zoo.model("t5"))
    one = replace(pair([5, 9, 12, 7], [5, 10, 12, 7], (5,), (6,)), decoder_ids=(2, 5, 6, 9), answer_position=1)
    with torch.no_grad():
        logits: Any = module(
            input_ids=torch.tensor([one.clean_ids]), decoder_input_ids=torch.tensor([one.decoder_ids])
        ).logits[0, 1]
    expected = float(logits[5] - logits[6])
    found = sweep(LanguageModel(module), one)
    assert found.clean is not None
    assert found.clean[0] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("answer", [7, -8, True, "x", 1.5], ids=repr)
def test_an_answer_that_is_no_position_of_every_prompt_is_refused_by_edges_and_paths(answer: Any) -> None:
    model, several = language_model("gpt2"), [pair([4] * 6 + [5], [4] * 6 + [6], (5,), (6,)), GOOD]
    for method in (edge_effects, edge_attribution, path_patching):
        with pytest.raises(SpecError, match="cannot be read at"):
            method(model, several, answer=answer)


@pytest.mark.parametrize("positions", [["a"], [1.5], [True], [], [3], [-4]], ids=repr)
def test_positions_of_paths_are_positions_of_every_prompt(positions: Any) -> None:
    with pytest.raises(SpecError, match="not all in every prompt"):
        path_patching(language_model("gpt2"), GOOD, positions=positions)
