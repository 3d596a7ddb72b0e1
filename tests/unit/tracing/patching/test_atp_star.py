"""AtP*: queries and keys through the softmax, and GradDrop, against brute force and plain hooks in float64."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tests.decoders import language_model, pair, pairs
from tracing.demo import MODEL_DIR, prompt_sets
from tracing.errors import SiteError
from tracing.models import LanguageModel
from tracing.patching import qk_fix
from tracing.patching.attribution import atp_star, attribution_patching
from tracing.patching.sweeps import sweep
from tracing.prompts import PromptPair, TokenizedPair

ON_THE_INTERFACE = [
    name for name in zoo.decoders() if not name.startswith(("bloom", "falcon", "gptj"))
]  # the others compute attention in their own forward


# -- the formula ------------------------------------------------------------------------------------------------------
def random_heads(*, kv: int, causal: bool, scale: float = 1.0, cap: float | None = None) -> qk_fix.Heads:
    """Two rows, four query heads, seven positions; queries and keys of both runs."""
    make = torch.Generator().manual_seed(3)
    shape = {"query": 4, "key": kv, "value": kv, "other_query": 4, "other_key": kv}
    drawn = {name: torch.randn(2, n, 7, 5, generator=make, dtype=torch.float64) * scale for name, n in shape.items()}

    def scorer(query: Tensor, key: Tensor) -> Tensor:
        scores = query @ key.repeat_interleave(4 // kv, 1).transpose(-1, -2) / math.sqrt(5)
        scores = cap * torch.tanh(scores / cap) if cap else scores
        return scores + torch.full((7, 7), -math.inf).triu(1) if causal else scores

    return qk_fix.Heads(**drawn, scorer=scorer)


@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (4.0, None), (1.0, 2.0), (1e-4, None)])
def test_the_fix_is_the_softmax_with_one_query_or_key_replaced(
    kv: int, causal: bool, scale: float, cap: float | None
) -> None:
    heads = random_heads(kv=kv, causal=causal, scale=scale, cap=cap)
    gradient = torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    of_queries, of_keys = qk_fix.effects(heads, qk_fix.changes(heads), gradient)
    before = heads.scorer(heads.query, heads.key).softmax(-1)
    values = heads.value.repeat_interleave(4 // kv, 1)
    for position in range(7):
        for head in range(4):
            query = heads.query.clone()
            query[:, head, position] = heads.other_query[:, head, position]
            change = heads.scorer(query, heads.key).softmax(-1) - before
            expected = torch.einsum("bhqk,bhkd,bqhd->b", change, values, gradient)
            torch.testing.assert_close(of_queries[:, position, head], expected, atol=1e-12, rtol=1e-9)
        for head in range(kv):  # the naive formula: a softmax over T² scores for each key
            key = heads.key.clone()
            key[:, head, position] = heads.other_key[:, head, position]
            change = heads.scorer(heads.query, key).softmax(-1) - before
            expected = torch.einsum("bhqk,bhkd,bqhd->b", change, values, gradient)
            torch.testing.assert_close(of_keys[:, position, head], expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_key_that_had_all_attention_and_loses_it_leaves_it_to_the_others(dtype: torch.dtype) -> None:
    """Scores change by hundreds: 1 − a is nothing in any precision, yet the others' proportions are known."""
    before = torch.tensor([[0.0, 500.0, -300.0, 1.0], [300.0, 0.0, 0.0, 0.0]], dtype=dtype)
    after = torch.tensor([[900.0, -900.0, 900.0, 1.0], [-300.0, 900.0, -900.0, 0.0]], dtype=dtype)
    slopes = torch.tensor([[1.0, -2.0, 5.0, 7.0], [3.0, 4.0, 5.0, -6.0]], dtype=dtype)
    heads = qk_fix.Heads(
        *(torch.zeros(1, 1, 2, 4, dtype=dtype),) * 2, torch.eye(4, dtype=dtype)[None, None],
        *(torch.ones(1, 1, 2, 4, dtype=dtype),) * 2,
        scorer=lambda _query, key: (before if not bool(key.any()) else after)[None, None],
    )  # fmt: skip
    _, found = qk_fix.effects(heads, qk_fix.changes(heads), slopes[None, :, None])
    for t in range(4):
        replaced = before.double().clone()
        replaced[:, t] = after[:, t].double()
        expected = ((replaced.softmax(-1) - before.double().softmax(-1)) * slopes.double()).sum()
        assert float(found[0, t, 0]) == pytest.approx(float(expected), rel=1e-6)


# -- on models --------------------------------------------------------------------------------------------------------
def pattern_scores(model: LanguageModel, one: TokenizedPair, layer: int) -> tuple[Tensor, Tensor]:
    """The clean run's pattern and the metric's gradient at it, by a trace: `[head, query, key]`."""
    with model.trace(list(one.clean_ids)):
        pattern = model.sites.pattern[layer].save()
        gradient = model.sites.pattern[layer].grad.save()
        last = model.output[0, -1]
        (last[list(one.answer_ids)].mean() - last[list(one.foil_ids)].mean()).backward()
    return pattern.value[0], gradient.value[0]


def pattern_with(model: LanguageModel, one: TokenizedPair, layer: int, site: str, head: int, position: int) -> Tensor:
    """The clean run's pattern after one query or key (as attention gets it) is the corrupted run's."""
    with model.trace(list(one.corrupted_ids)):
        other = model.sites[site][layer].save()
    with model.trace(list(one.clean_ids)):
        model.sites[site][layer][:, position, head] = other.value[:, position, head]
        pattern = model.sites.pattern[layer].save()
    return pattern.value[0]


@pytest.mark.parametrize("name", ON_THE_INTERFACE)
def test_queries_and_keys_of_a_model_are_those_of_its_own_attention(name: str) -> None:
    """Softcaps, sliding windows, grouped keys, norms of queries: whatever the family does is in the scores."""
    model = LanguageModel(zoo.model(name, torch.float64))
    clean, corrupted = [5, 17, 40, 8, 61, 22, 9], [5, 18, 40, 30, 61, 22, 9]
    one = pair(clean, corrupted, (3,), (50,))
    found = attribution_patching(
        model, [one], sites=["q", "k", "q_rot"], over=("layer", "head", "position"), direction="noising", qk_fix=True
    )
    layer = 1
    before, gradient = pattern_scores(model, one, layer)
    tolerance = 1e-12 if name == "gpt2" else 1e-5  # eager softmaxes of the other families are in float32
    for site, turned, heads in (("q", "q_rot", model.facts.n_heads), ("k", "k_rot", model.facts.n_kv_heads)):
        for head, position in ((0, 3), (heads - 1, 5), (heads - 1, 1)):
            change = pattern_with(model, one, layer, turned, head, position) - before
            expected = float((change * gradient).sum())
            score = found[site].planes["score"][layer * heads + head, position]
            assert score == pytest.approx(expected, abs=tolerance), (site, head, position)
    np.testing.assert_array_equal(found["q"].planes["score"], found["q_rot"].planes["score"])


def test_the_fix_of_masked_language_models_sees_both_sides() -> None:
    model = LanguageModel(zoo.model("bert", torch.float64))
    one = replace(pair([5, 17, 40, 8, 61], [5, 18, 40, 30, 61], (3,), (50,)), answer_position=4)
    found = attribution_patching(
        model, [one], sites=["k"], over=("layer", "head", "position"), direction="noising", qk_fix=True
    )["k"]
    before, gradient = pattern_scores(model, one, 1)
    expected = float(((pattern_with(model, one, 1, "k_rot", 2, 3) - before) * gradient).sum())
    assert found.planes["score"][4 + 2, 3] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["bloom", "falcon", "gptj"])
def test_attention_of_ones_own_is_refused(name: str) -> None:
    model = LanguageModel(zoo.model(name))
    with pytest.raises(SiteError, match="does not go through the attention interface"):
        attribution_patching(model, pairs(1), sites="q", qk_fix=True)


@contextmanager
def sharpened(model: LanguageModel, by: float) -> Iterator[None]:
    """Attention saturates: queries are larger."""
    weights = [block.attn.c_attn for block in model.block_modules]
    width = model.facts.d_model
    with torch.no_grad():
        for part in weights:
            part.weight[:, :width] *= by
            part.bias[:width] *= by
    try:
        yield
    finally:
        with torch.no_grad():
            for part in weights:
                part.weight[:, :width] /= by
                part.bias[:width] /= by


def exact_effects(model: LanguageModel, some: list[TokenizedPair], site: str) -> np.ndarray[Any, Any]:
    """Noising every (layer, head, position) alone, by plain hooks on GPT-2's fused projection."""
    start = {"q": 0, "k": model.facts.d_model}[site]
    width, found = model.facts.d_head, np.zeros((len(some), 3, 4, len(some[0].clean_ids)))

    def metric(ids: Any, of: TokenizedPair) -> float:
        with torch.no_grad():
            last = model.module(torch.tensor([ids])).logits[0, -1]
        return float(last[list(of.answer_ids)].mean() - last[list(of.foil_ids)].mean())

    for n, one in enumerate(some):
        base = metric(one.clean_ids, one)
        for layer, block in enumerate(model.block_modules):
            kept: list[Tensor] = []
            handle = block.attn.c_attn.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out.clone()))
            metric(one.corrupted_ids, one)
            handle.remove()
            for head in range(4):
                for t in range(len(one.clean_ids)):
                    at = slice(start + head * width, start + (head + 1) * width)

                    def hook(_m: Any, _a: Any, out: Tensor, at: slice = at, t: int = t, kept: Any = kept) -> Tensor:
                        out = out.clone()
                        out[:, t, at] = kept[0][:, t, at]
                        return out

                    handle = block.attn.c_attn.register_forward_hook(hook)
                    found[n, layer, head, t] = metric(one.clean_ids, one) - base
                    handle.remove()
    return found


@pytest.mark.parametrize("site", ["q", "k"])
def test_on_saturated_attention_the_fix_is_nearer_to_exact_patching_than_the_gradient(site: str) -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(3, lengths=(7,))
    with sharpened(model, 6.0):
        exact = exact_effects(model, some, site).reshape(3, 12, -1)
        plain, fixed = (
            attribution_patching(
                model, some, sites=site, over=("layer", "head", "position"), direction="noising", qk_fix=fix
            ).examples
            for fix in (False, True)
        )
    gradient, softmax = (np.corrcoef(one.ravel(), exact.ravel())[0, 1] for one in (plain, fixed))
    assert softmax > 0.8
    assert softmax > gradient + 0.2
    assert np.abs(fixed - exact).mean() < 0.85 * np.abs(plain - exact).mean()


# -- GradDrop ---------------------------------------------------------------------------------------------------------
class _Cut(torch.autograd.Function):
    """Passes a value on, and its gradient not."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(gradient)


def writes(model: LanguageModel, layer: int) -> list[nn.Module]:
    """The modules whose outputs the block adds to the residual stream."""
    block = model.block_modules[layer]
    names = {
        "gpt2": ("attn", "mlp"),
        "gpt_neox": ("attention", "mlp"),
        "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
        "falcon": ("self_attention", "mlp"),
        "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    }[model.family]
    return [block.get_submodule(name) for name in names]


def dropped_scores(model: LanguageModel, one: TokenizedPair, layer: int) -> np.ndarray[Any, Any]:
    """Scores of resid_pre `[layer, position]` in the clean run while a layer's writes pass no gradient, by hooks."""
    residuals: dict[str, list[Tensor]] = {"clean": [], "corrupted": []}
    for name, ids in (("corrupted", one.corrupted_ids), ("clean", one.clean_ids)):
        handles = [
            part.register_forward_hook(
                lambda _m, _a, out: (_Cut.apply(out[0]), *out[1:]) if isinstance(out, tuple) else _Cut.apply(out)
            )
            for part in writes(model, layer)
        ]
        for block in model.block_modules:

            def keep(_m: Any, args: Any, kwargs: Any, name: str = name) -> Any:
                value = args[0] if args else kwargs["hidden_states"]
                value = value if value.requires_grad else value.clone().requires_grad_()
                value.retain_grad()
                residuals[name].append(value)
                return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})

            handles.append(block.register_forward_pre_hook(keep, with_kwargs=True))
        last = model.module(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
        (last[list(one.answer_ids)].mean() - last[list(one.foil_ids)].mean()).backward()
        for handle in handles:
            handle.remove()
    found = [
        ((b.detach() - a.detach()) * a.grad).sum(-1)[0]
        for a, b in zip(residuals["clean"], residuals["corrupted"], strict=True)
    ]
    return torch.stack(found).numpy()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "falcon", "bloom"])
def test_grad_drop_is_a_backward_a_layer_without_what_it_writes(name: str) -> None:
    """Sequential, parallel, sandwich, and blocks that add in place."""
    model = LanguageModel(zoo.model(name, torch.float64))
    some = pairs(2, lengths=(6,))
    found = attribution_patching(model, some, direction="noising", grad_drop=True)
    each = np.stack([sum(np.abs(dropped_scores(model, one, layer)) for layer in range(3)) / 2 for one in some])
    np.testing.assert_allclose(found.examples, each, atol=1e-6 if name == "gemma2" else 1e-9)
    np.testing.assert_allclose(found.planes["score"], each.mean(0), atol=1e-6 if name == "gemma2" else 1e-9)
    assert set(found.planes) == {"score"}


def test_a_layers_own_writes_have_no_score_while_it_is_dropped() -> None:
    """So a node of one layer has at most L − 1 terms: what 1/(L − 1) counts."""
    model = language_model("gpt2", torch.float64, n_layer=2)
    (one,) = pairs(1, lengths=(6,))
    dropped = attribution_patching(model, [one], sites="mlp_out", direction="noising", grad_drop=True)
    plain = attribution_patching(model, [one], sites="mlp_out", direction="noising")
    # The last layer's MLP reaches the logits directly alone, so dropping the first layer changes nothing for it.
    np.testing.assert_allclose(dropped.planes["score"][1], np.abs(plain.planes["score"][1]), atol=1e-13)


def test_grad_drop_shows_paths_that_cancel() -> None:
    """A first MLP whose write the second layer takes back exactly has no plain score; with GradDrop it has."""
    module = zoo.model("gpt2", torch.float64)
    for block in module.transformer.h:
        block.attn.c_proj.weight.data.zero_()
        block.ln_2 = nn.Identity()
    module.transformer.ln_f = nn.Identity()
    second = module.transformer.h[1].mlp
    second.forward = lambda hidden: -hidden  # type: ignore[method-assign]
    module.transformer.h[2].mlp.forward = lambda hidden: hidden * 0
    model = LanguageModel(module, verify=False)
    (one,) = pairs(1, lengths=(6,))
    one = pair(list(one.clean_ids), [*one.corrupted_ids[:-1], 77], one.answer_ids, one.foil_ids)
    plain = attribution_patching(model, [one], sites="mlp_out", direction="noising").planes["score"]
    dropped = attribution_patching(model, [one], sites="mlp_out", direction="noising", grad_drop=True).planes["score"]
    assert abs(plain[0, -1]) < 1e-12
    assert dropped[0, -1] > 0.01


def test_one_layer_has_no_other_to_drop() -> None:
    with pytest.raises(SiteError, match="two layers"):
        attribution_patching(language_model("gpt2", n_layer=1), pairs(1), grad_drop=True)


def test_atp_star_is_both_together_whatever_the_batch() -> None:
    model = language_model("llama", torch.float64)
    some = pairs(5)
    found = atp_star(model, some, over=("layer", "head", "position"), sites=["q", "k", "z"], batch=1)
    together = atp_star(model, some, over=("layer", "head", "position"), sites=["q", "k", "z"])
    for site in ("q", "k", "z"):
        assert found[site].facts["method"] == "atp_star"
        np.testing.assert_allclose(found[site].examples, together[site].examples, atol=1e-12)
        assert np.nanmin(found[site].planes["score"]) >= 0


def test_heads_of_the_demo_model_are_ranked_as_exact_patching_does() -> None:
    """z of every head, indirect-object prompts: the estimate against a noising sweep, with Pearson's r."""
    prompts = next(one for one in prompt_sets() if one.slug == "ioi")
    some = [PromptPair(**json.loads(line)) for line in prompts.path.read_text().splitlines()[:6]]
    model = LanguageModel(MODEL_DIR)
    exact = sweep(model, some, sites="z", over=("layer", "head"), direction="noising")
    estimated = attribution_patching(model, some, sites="z", over=("layer", "head"), direction="noising")
    effect = exact.planes["raw"] - exact.clean.mean()
    assert np.corrcoef(effect.ravel(), estimated.planes["score"].ravel())[0, 1] > 0.5
