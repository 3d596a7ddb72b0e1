"""Attribution patching is the derivative of exact patching: finite differences of patches in traces, float64.

A cell's patch is scaled: its activation goes by ε from the destination's to the source's value. The slope of the metric
at ε = 0 is what attribution claims to be. Norms and rotary tables run in float32 inside some families, so the central
formula's step is large and the tolerance is that of their rounding.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.decoders import language_model, pairs
from tests.unit.tracing.patching.slopes import STEP, cell, logit_diff, patched, slope
from tracing.models import LanguageModel, VisionModel
from tracing.patching.attribution import attribution_patching
from tracing.patching.inputs import ImagePair

EXACT = frozenset({"gpt2", "opt", "gpt_bigcode", "gpt_bigcode_heads"})
"""Families whose forward is in float64 throughout."""


def sites_of(model: LanguageModel) -> list[str]:
    return [site for site in model.adapter.sites if site not in ("embed", "logits", "head_out", "scores")]


# -- finite differences -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", zoo.decoders())
def test_every_site_is_the_slope_of_exact_patching(name: str) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    (one,) = pairs(1, lengths=(6,))
    sites = sites_of(model)
    found = attribution_patching(model, [one], sites=sites)
    first = one.differs.index(True)
    for number, site in enumerate(sites):
        layer, position = number % 3, 5 if number % 2 else first
        place = (site, layer, cell(site, position, None))
        expected = slope(lambda share, at=place: patched(model, one, *at, share, noising=False))
        score = found[site].planes["score"][layer, position]
        assert score == pytest.approx(expected, abs=1e-8 if name in EXACT else 2e-4, rel=1e-3), (site, layer, position)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon_new", "olmo2", "bloom"])
@pytest.mark.parametrize("site", ["q", "k", "v", "z", "pattern"])
def test_every_head_is_the_slope_of_patching_it_at_all_positions(name: str, site: str) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    (one,) = pairs(1, lengths=(6,))
    found = attribution_patching(model, [one], sites=site, over=("layer", "head"), direction="noising")
    heads = model.facts.n_kv_heads if site in ("k", "v") else model.facts.n_heads
    assert found.planes["score"].shape == (3, heads)
    for layer, head in ((0, heads - 1), (2, 0)):
        index = cell(site, None, head)
        expected = slope(lambda share, at=(layer, index): patched(model, one, site, *at, share, noising=True))
        assert found.planes["score"][layer, head] == pytest.approx(expected, abs=2e-4, rel=1e-3)


@pytest.mark.parametrize("name", ["mamba", "t5", "t5_gated", "bert"])
def test_models_that_are_no_decoders_have_slopes_too(name: str) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    (one,) = pairs(1, lengths=(6,))
    sites = [site for site in model.adapter.all_sites if site.split("_")[-1] not in ("embed", "logits", "scores")]
    sites.remove("head_out") if "head_out" in sites else None
    one = replace(one, answer_position=5 if name == "bert" else -1)
    found = attribution_patching(model, [one], sites=sites)
    start = {"decoder_input_ids": torch.tensor([[2]])} if name.startswith("t5") else {}
    for site in sites:
        grid = found[site]
        position = 0 if start and not site.startswith("encoder_") else one.differs.index(True)
        index = cell(site, position, None)

        def effect(share: float, site: str = site, index: tuple[Any, ...] = index) -> float:
            with model.trace(input_ids=torch.tensor([one.clean_ids]), **start):
                source = model.sites[site][1].save()
            with model.trace(input_ids=torch.tensor([one.corrupted_ids]), **start):
                own = model.sites[site][1][index]
                model.sites[site][1][index] = own + share * (source.value[index] - own)
                logits = model.output.save()
            return logit_diff(model, logits.value, one)

        kinks = name == "t5"  # its relu has some, near enough for the differences to reach beyond
        near = pytest.approx(slope(effect, 2e-4 if kinks else STEP), abs=1e-4, rel=1e-2 if kinks else 1e-3)
        assert grid.planes["score"][1, position] == near, site


@pytest.mark.parametrize("name", [name for name in zoo.decoders() if name != "mixtral"])
def test_neurons_are_the_slopes_of_patching_one_at_one_or_all_positions(name: str) -> None:
    """By plain hooks on the module that the adapter names: what it multiplies is what neurons are."""
    model = LanguageModel(zoo.model(name, torch.float64))
    (one,) = pairs(1, lengths=(6,))
    found = attribution_patching(model, [one], sites="neurons", over=("layer", "position", "neuron"))
    summed = attribution_patching(model, [one], sites="neurons", over=("layer", "neuron"))
    assert found.planes["score"].shape == (18, model.facts.d_mlp)
    assert found.rows.ticks[6].label.startswith("L1.t0")
    split = found.planes["score"].reshape(3, 6, -1)
    np.testing.assert_allclose(split.sum(1), summed.planes["score"], atol=1e-12)
    layer, neuron = 1, 7
    part = model.block_modules[layer].get_submodule(model.adapter.neurons)
    with model.trace(list(one.clean_ids)):
        source = model.get(f"{model.adapter.blocks}.{layer}.{model.adapter.neurons}").input.save()

    def effect(share: float) -> float:
        def hook(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            new = args[0].clone()
            new[..., neuron] += share * (source.value[..., neuron] - new[..., neuron])
            return (new,)

        handle = part.register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = model.module(torch.tensor([one.corrupted_ids])).logits
        handle.remove()
        return logit_diff(model, logits, one)

    assert summed.planes["score"][layer, neuron] == pytest.approx(slope(effect), abs=1e-4, rel=1e-3)


def test_three_axes_are_the_slopes_of_one_head_at_one_position() -> None:
    model = language_model("llama", torch.float64)
    (one,) = pairs(1, lengths=(6,))
    found = attribution_patching(model, [one], sites="k", over=("layer", "head", "position"), direction="noising")
    assert [tick.label for tick in found.rows.ticks] == ["L0.H0", "L0.H1", "L1.H0", "L1.H1", "L2.H0", "L2.H1"]
    for layer, head, position in ((0, 1, 3), (1, 0, 5)):
        index = cell("k", position, head)
        expected = slope(lambda share, at=(layer, index): patched(model, one, "k", *at, share, noising=True))
        assert found.planes["score"][2 * layer + head, position] == pytest.approx(expected, abs=1e-4, rel=1e-3)


def test_images_are_pairs_too() -> None:
    """The class logits of a vision transformer, by finite differences of one patch of the image, by a plain hook."""
    module = zoo.model("vit", torch.float64)
    model = VisionModel(module)
    make = torch.Generator().manual_seed(1)
    clean, corrupted = (torch.randn(3, 12, 12, generator=make, dtype=torch.float64) for _ in range(2))
    found = attribution_patching(model, ImagePair(clean, corrupted, 2, 5))
    kept: list[Tensor] = []
    block = model.block_modules[1]
    handle = block.register_forward_pre_hook(lambda _m, args: kept.append(args[0].detach()))
    module(pixel_values=clean[None])
    handle.remove()

    def effect(share: float) -> float:
        def hook(_m: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            new = args[0].clone()
            new[:, 4] += share * (kept[0][:, 4] - new[:, 4])
            return (new, *args[1:])

        handle = block.register_forward_pre_hook(hook)
        logits = module(pixel_values=corrupted[None]).logits[0].detach()
        handle.remove()
        return float(logits[2] - logits[5])

    assert found.planes["score"][1, 4] == pytest.approx(slope(effect), abs=1e-7)
