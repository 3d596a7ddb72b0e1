"""Benchmarks G4 and G5 of the methods page: planted circuits in four layouts, and a linear network."""

import functools

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from tests import decoders
from tests.planted import KINDS, Planted, planted
from tracing.circuits.attribution import edge_attribution
from tracing.circuits.exact import circuit_metric, edge_effects
from tracing.circuits.roc import auroc, pessimistic_auroc
from tracing.models import LanguageModel

SEEDS = (0, 1, 2)
plant = functools.cache(planted)


def case(name: str, seed: int, norms: bool) -> Planted:
    return plant(name, seed, norms=norms)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KINDS)
def test_exact_effects_are_zero_off_the_planted_circuit_and_find_all_of_it(name: str, seed: int) -> None:
    found = case(name, seed, False)
    scores = edge_effects(found.model, found.pairs)
    # Zero but for the order in which equal numbers are added: a patched batch is multiplied in another shape.
    assert np.abs(scores.scores[found.layout.real & ~found.truth]).max() < 1e-13
    assert np.abs(scores.scores[found.truth]).min() > 1e-6
    assert auroc(scores, found.truth) == pessimistic_auroc(scores, found.truth) == 1.0
    estimated = edge_attribution(found.model, found.pairs)
    assert auroc(estimated, found.truth) >= 0.90


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KINDS)
def test_exact_effects_find_a_planted_circuit_behind_norms(name: str, seed: int) -> None:
    found = case(name, seed, True)
    assert auroc(edge_effects(found.model, found.pairs), found.truth) >= 0.95
    assert auroc(edge_attribution(found.model, found.pairs), found.truth) >= 0.90


@pytest.mark.parametrize("name", KINDS)
def test_the_planted_circuit_alone_is_the_whole_model(name: str) -> None:
    found = case(name, 0, False)
    keep = np.stack([found.layout.real, found.truth, found.layout.real & ~found.truth])
    full, circuit, rest = circuit_metric(found.model, found.pairs, "logit_diff", keep)
    empty = circuit_metric(found.model, found.pairs, "logit_diff", np.zeros_like(found.truth))
    np.testing.assert_allclose(circuit, full, atol=1e-12, rtol=0)
    np.testing.assert_allclose(rest, empty, atol=1e-12, rtol=0)
    assert np.abs(full - empty).min() > 1e-3


# -- a linear network --------------------------------------------------------------------------------------------------
def linear() -> LanguageModel:
    """GPT-2 with constant attention (no query, no key), identity activations and no norms."""
    config = hf.GPT2Config(
        vocab_size=decoders.VOCABULARY, n_layer=3, n_head=4, n_embd=32, n_positions=16, activation_function="linear",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = hf.GPT2LMHeadModel(config).double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            for block in module.transformer.h:
                block.attn.c_attn.weight[:, :64], block.attn.c_attn.bias[:64] = 0.0, 0.0
                block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        module.transformer.ln_f = nn.Identity()
    return LanguageModel(module)


def test_on_a_linear_network_attribution_is_the_exact_effect_and_all_sums_close() -> None:
    model, pairs = linear(), decoders.pairs(5)
    exact, estimated = edge_effects(model, pairs), edge_attribution(model, pairs)
    np.testing.assert_allclose(estimated.scores, exact.scores, atol=1e-10, rtol=0)
    values = circuit_metric(model, pairs, "logit_diff", np.stack([exact.real, np.zeros_like(exact.real)])).mean(1)
    total = values[1] - values[0]
    assert abs(total) > 0.1
    # The logits read every source once, and the embedding is where all differences come from.
    np.testing.assert_allclose(exact.scores[:, -1].sum(), total, atol=1e-10, rtol=0)
    np.testing.assert_allclose(exact.scores[0].sum(), total, atol=1e-10, rtol=0)


def test_on_a_linear_network_the_edges_of_a_source_add_up_to_patching_it() -> None:
    model, pairs = linear(), decoders.pairs(5)
    exact = edge_effects(model, pairs)
    for row in range(len(exact.sources)):
        keep = exact.real.copy()
        keep[row] = False  # the source as a whole: every edge that leaves it
        patched = circuit_metric(model, pairs, "logit_diff", np.stack([exact.real, keep]))
        np.testing.assert_allclose(exact.scores[row].sum(), (patched[1] - patched[0]).mean(), atol=1e-10, rtol=0)
