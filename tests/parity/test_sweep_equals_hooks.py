"""Every cell of a sweep equals one hooked forward of the transformers model: 1e-10 in float64, 1e-5 in float32."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tests.decoders import FAMILIES, language_model, pairs
from tests.parity import plain
from tracing.models import LanguageModel
from tracing.patching import Optimise, sweep
from tracing.prompts import TokenizedPair

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def expected(
    model: LanguageModel, several: list[TokenizedPair], site: str, columns: int, **options: object
) -> np.ndarray:
    """The plain cells of each pair, lined up at their last token, `[pair, layer, column]`."""
    found = np.full((len(several), model.facts.n_layers, columns), np.nan)
    for n, one in enumerate(several):
        cells = plain.cells(model.module, one, site, **options).numpy()
        found[n, :, columns - cells.shape[1] :] = cells
    return found


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_position_of_every_site_equals_a_hooked_forward(family: str, direction: str, dtype: torch.dtype) -> None:
    model, several = language_model(family, dtype), pairs()
    found = sweep(model, several, sites=plain.POSITION_SITES, direction=direction)
    for site, grid in found.items():
        reference = expected(model, several, site, 8, direction=direction)
        np.testing.assert_allclose(grid.examples, reference, atol=TOLERANCE[dtype], rtol=0, err_msg=site)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_equals_a_hooked_forward(family: str, direction: str, dtype: torch.dtype) -> None:
    model, several = language_model(family, dtype), pairs()
    found = sweep(model, several, sites="z", over=("layer", "head"), direction=direction)
    reference = expected(model, several, "z", 4, direction=direction, heads=4)
    np.testing.assert_allclose(found.examples, reference, atol=TOLERANCE[dtype], rtol=0)


METRICS = {
    "logit": lambda logits, pair: logits[list(pair.answer_ids)].mean(),
    "prob": lambda logits, pair: logits.softmax(0)[list(pair.answer_ids)].sum(),
    "prob_diff": lambda logits, pair: (
        logits.softmax(0)[list(pair.answer_ids)].sum() - logits.softmax(0)[list(pair.foil_ids)].sum()
    ),
    "log_prob": lambda logits, pair: logits.softmax(0)[list(pair.answer_ids)].sum().log(),
    "rank": lambda logits, pair: (logits > max(logits[i] for i in pair.answer_ids)).sum(),
    "accuracy": lambda logits, pair: torch.tensor(float(int(logits.argmax()) in pair.answer_ids)),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_metric_equals_its_plain_formula(family: str, metric: str) -> None:
    model, several = language_model(family, torch.float64), pairs()
    found = sweep(model, several, metric)
    reference = expected(model, several, "resid_pre", 8, read=METRICS[metric])
    np.testing.assert_allclose(found.examples, reference, atol=1e-10, rtol=0)


def test_kl_divergence_compares_with_the_clean_run_over_the_whole_vocabulary() -> None:
    model, several = language_model("gpt2", torch.float64), pairs()

    distributions = {one.number: model.logits([one.clean_ids])[0, -1].softmax(0) for one in several}

    def divergence(logits: torch.Tensor, pair: TokenizedPair) -> torch.Tensor:
        clean = distributions[pair.number]
        return (clean * (clean / logits.softmax(0)).log()).sum()

    found = sweep(model, several, "kl_divergence", direction="noising")
    reference = expected(model, several, "resid_pre", 8, direction="noising", read=divergence)
    np.testing.assert_allclose(found.examples, reference, atol=1e-10, rtol=0)
    np.testing.assert_allclose(found.clean, 0.0, atol=1e-12)


@pytest.mark.parametrize("name", [field.name for field in fields(Optimise)])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_short_cut_can_be_switched_off_and_changes_nothing(family: str, name: str) -> None:
    model, several = language_model(family, torch.float64), pairs()
    sites = ("resid_pre", "attn_out", "mlp_out")
    without = replace(Optimise(), **{name: False})
    for optimise in (without, replace(Optimise.of(False), **{name: True})):
        all_on, other = sweep(model, several, sites=sites), sweep(model, several, sites=sites, optimise=optimise)
        for site in sites:
            np.testing.assert_allclose(other[site].examples, all_on[site].examples, atol=1e-10, rtol=0)
        heads = {"sites": "z", "over": ("layer", "head")}
        np.testing.assert_allclose(
            sweep(model, several, **heads, optimise=optimise).examples,
            sweep(model, several, **heads).examples,
            atol=1e-10,
            rtol=0,
        )


@pytest.mark.parametrize("batch", [1, 2, 7, 1000])
def test_the_batch_size_changes_nothing(batch: int) -> None:
    model, several = language_model("llama", torch.float64), pairs(9)
    automatic, chosen = sweep(model, several, sites="mlp_out"), sweep(model, several, sites="mlp_out", batch=batch)
    np.testing.assert_allclose(chosen.examples, automatic.examples, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_of_other_lengths_in_the_set_change_nothing(family: str) -> None:
    model, several = language_model(family, torch.float64), pairs()
    together = sweep(model, several)
    for n, one in enumerate(several):
        alone = sweep(model, [one])
        np.testing.assert_allclose(together.examples[n, :, 8 - one.length :], alone.examples[0], atol=1e-12, rtol=0)
        assert np.isnan(together.examples[n, :, : 8 - one.length]).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_gives_the_same_cells(family: str) -> None:
    model, several = language_model(family, torch.float64), pairs()
    by_sdpa = sweep(model, several)
    model.module.set_attn_implementation("eager")
    # Llama's eager attention takes its softmax in float32 whatever the weights are.
    np.testing.assert_allclose(sweep(model, several).examples, by_sdpa.examples, atol=1e-5, rtol=0)
