"""Sweeps on every family: short cuts agree with full forwards, images, masks and decoders are read where they answer.

float64 to 1e-9; families whose attention is computed in float32 whatever the weights are, and patterns, to 1e-5. That
patches are right, for every family and site, is compared with plain hooks in tests/parity/test_rows_equal_hooks.py.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.decoders import pair
from tracing.errors import PromptError, SiteError
from tracing.models import LanguageModel, VisionModel
from tracing.patching import ImagePair, prepare, sweep
from tracing.prompts import TokenizedPair

SINGLE = ("bloom", "gptj", "gemma2", "gemma3", "gemma3_text", "olmo2")


@cache
def model_of(name: str) -> Any:
    module = zoo.double(zoo.model(name))
    return VisionModel(module) if name == "vit" else LanguageModel(module)


def pixels() -> Tensor:
    return zoo.example_inputs("vit", rows=4)["pixel_values"].double()


def pairs_of(name: str) -> list[Any]:
    if name == "vit":
        return [ImagePair(pixels()[0], pixels()[1], 1, 2), ImagePair(pixels()[2], pixels()[3], 0, (3, 4))]
    found = []
    for number, length in enumerate((6, 7, 7), start=1):
        clean = [(13 * number + 5 * t) % 90 + 4 for t in range(length)]
        corrupted = [*clean[:2], clean[2] + 1, *clean[3:-1], clean[-1] + (number > 1)]
        one = pair(clean, corrupted, (5,), (6,), number)
        one = replace(one, answer_position=3) if name == "bert" else one
        found.append(replace(one, decoder_ids=(2, 5, 6)) if name.startswith("t5") else one)
    return found


@pytest.mark.parametrize("name", zoo.ZOO)
def test_short_cuts_agree_with_full_forwards_at_every_site(name: str) -> None:
    model, several = model_of(name), pairs_of(name)
    sites = model.adapter.patchable
    fast, slow = (sweep(model, several, sites=sites, layers=[1, -1], optimise=one) for one in (True, False))
    for site in sites:
        tolerance = 1e-5 if site == "pattern" or name in SINGLE else 1e-9
        np.testing.assert_allclose(fast[site].examples, slow[site].examples, atol=tolerance, rtol=0, err_msg=site)
        assert np.nanmax(np.abs(fast[site].raw - fast[site].corrupted.mean())) > 1e-4, site


@pytest.mark.parametrize("name", ["bert", "vit", "mamba", "t5"])
def test_other_sources_agree_with_full_forwards_where_rows_run_whole(name: str) -> None:
    model, several = model_of(name), pairs_of(name)
    for source in ("zero", "mean", "noise"):
        options: dict[str, Any] = {"sites": "resid_pre", "source": source, "positions": "start"}
        fast, slow = (sweep(model, several, optimise=one, **options) for one in (True, False))
        np.testing.assert_allclose(fast.examples, slow.examples, atol=1e-9, rtol=0)


@torch.no_grad()
def by_hand(model: Any, block: Any, given: dict[str, Tensor], other: dict[str, Tensor], t: int) -> Tensor:
    """Logits of `given` with the residual before a block replaced at position t by that of `other`."""
    seen: list[Tensor] = []
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(_first(args, kwargs)), with_kwargs=True
    )
    model.module(**other)
    handle.remove()

    def patch(_: Any, args: Any, kwargs: Any) -> Any:
        live = _first(args, kwargs).clone()
        live[:, t] = seen[0][:, t]
        return ((live, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": live})

    handle = block.register_forward_pre_hook(patch, with_kwargs=True)
    logits: Tensor = model.module(**given).logits[0]
    handle.remove()
    return logits


def _first(args: Any, kwargs: Any) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found


def test_an_image_is_patched_patch_by_patch_and_read_by_its_classifier() -> None:
    model, [one, _] = model_of("vit"), pairs_of("vit")
    grid = sweep(model, one)
    assert [tick.label for tick in grid.columns.ticks][:3] == ["class token", "patch 0", "patch 1"]
    assert grid.raw.shape == (3, 10)
    for layer, t in ((0, 4), (1, 0), (2, 9)):
        logits = by_hand(
            model, model.module.vit.layers[layer],
            {"pixel_values": one.corrupted[None]}, {"pixel_values": one.clean[None]}, t,
        )  # fmt: skip
        assert grid.raw[layer, t] == pytest.approx(float(logits[1] - logits[2]), abs=1e-9)


def test_a_masked_model_answers_at_the_mask_and_sees_both_ways() -> None:
    model, several = model_of("bert"), pairs_of("bert")
    grid = sweep(model, several, positions="start")
    for n, one in enumerate(several):
        given, other = ({"input_ids": torch.tensor([ids])} for ids in (one.corrupted_ids, one.clean_ids))
        for layer, t in ((0, 2), (1, 5), (2, 0)):
            logits = by_hand(model, model.module.bert.encoder.layer[layer], given, other, t)[3]
            assert grid.examples[n, layer, t] == pytest.approx(float(logits[5] - logits[6]), abs=1e-9)
    assert "earlier positions change too" in prepare(model, several).plan.explain()


def test_a_decoder_of_an_encoder_is_patched_at_its_own_positions() -> None:
    model, several = model_of("t5"), pairs_of("t5")
    grid = sweep(model, several)
    assert grid.raw.shape == (3, 3)
    decoder = torch.tensor([[2, 5, 6]])
    for n, one in enumerate(several):
        given, other = (
            {"input_ids": torch.tensor([ids]), "decoder_input_ids": decoder, "use_cache": False}
            for ids in (one.corrupted_ids, one.clean_ids)
        )
        for layer, t in ((1, 0), (2, 2)):
            logits = by_hand(model, model.module.decoder.block[layer], given, other, t)[-1]
            assert grid.examples[n, layer, t] == pytest.approx(float(logits[5] - logits[6]), abs=1e-9)
    start = sweep(model, [replace(one, decoder_ids=()) for one in several])
    assert start.raw.shape == (3, 1)


def test_pairs_of_another_kind_are_refused() -> None:
    [one, _] = pairs_of("vit")
    text = pair([5, 6, 7], [5, 8, 7], (5,), (6,))
    with pytest.raises(PromptError, match="reads token ids"):
        sweep(model_of("gpt2"), one)
    with pytest.raises(PromptError, match="reads images"):
        sweep(model_of("vit"), text)
    with pytest.raises(PromptError, match="have no mask token"):
        sweep(model_of("bert"), text)
    with pytest.raises(PromptError, match="same"):
        sweep(model_of("vit"), ImagePair(one.clean, one.clean, 1, 2))
    with pytest.raises(PromptError, match="99 is no class"):
        sweep(model_of("vit"), ImagePair(one.clean, one.corrupted, 1, 99))
    with pytest.raises(PromptError, match="of one size"):
        sweep(model_of("vit"), ImagePair(one.clean, one.corrupted[:, :8], 1, 2))


@pytest.mark.parametrize(
    ("name", "site"), [("gpt_neox", "resid_mid"), ("mixtral", "neurons"), ("mamba", "z"), ("t5", "pattern")]
)
def test_a_site_that_a_family_lacks_is_refused_by_name(name: str, site: str) -> None:
    with pytest.raises(SiteError, match=f"{site!r} cannot be patched on the family"):
        sweep(model_of(name), pairs_of(name), sites=site)


def test_a_tokenized_pair_may_be_read_elsewhere() -> None:
    model = model_of("gpt2")
    one: TokenizedPair = pairs_of("gpt2")[0]
    early = sweep(model, replace(one, answer_position=3), positions="start")
    alone = sweep(model, pair(list(one.clean_ids[:4]), list(one.corrupted_ids[:4]), (5,), (6,)), positions="start")
    np.testing.assert_allclose(early.raw[:, :4], alone.raw, atol=1e-9)
    np.testing.assert_allclose(early.raw[:, 4:], early.corrupted[0], atol=1e-9)
