"""Attribution plans its batches in bytes, and the query and key fix takes long prompts a part at a time."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import zoo
from tests.decoders import language_model, pair, pairs
from tests.unit.tracing.patching.test_atp_star import ON_THE_INTERFACE
from tracing.models import LanguageModel
from tracing.patching import qk_fix
from tracing.patching.attribution import attribution_patching
from tracing.patching.attribution_memory import batches, pair_numbers
from tracing.prompts import TokenizedPair

HEADS = ("layer", "head", "position")


def long_pairs(count: int, length: int) -> list[TokenizedPair]:
    drawn = torch.randint(1, 90, (2, count, length), generator=torch.Generator().manual_seed(5)).tolist()
    return [pair(clean, corrupted, (3,), (50,)) for clean, corrupted in zip(*drawn, strict=True)]


@pytest.mark.parametrize("name", ON_THE_INTERFACE)
def test_queries_taken_a_few_at_a_time_give_the_same_estimates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, windows and softcaps are those of the queries' own places (float64)."""
    model, some = LanguageModel(zoo.model(name, torch.float64)), pairs(3, lengths=(7,))
    whole, parts = [], []
    for found in (whole, parts):
        for drop in (False, True):
            grids = attribution_patching(model, some, sites=["q", "k"], over=HEADS, qk_fix=True, grad_drop=drop)
            found += [grids["q"].examples, grids["k"].examples]
        monkeypatch.setattr(qk_fix, "AT_ONCE", 3 * 4 * 7 * 2)  # two queries of seven
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12 if name == "gpt2" else 1e-7)
        assert np.abs(one).max() > 1e-5


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numbers = max(self.numbers, *made, 0)
        return out


@pytest.mark.parametrize("drop", [False, True])
def test_no_matrix_of_all_queries_keys_and_heads_is_made_of_a_long_prompt(
    drop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, some = language_model("gpt2", n_positions=256), long_pairs(1, 256)
    monkeypatch.setattr(qk_fix, "AT_ONCE", 2**14)
    monkeypatch.setattr(qk_fix, "KEPT_NUMBERS", 2**14)
    with Largest() as seen:
        attribution_patching(model, some, sites=["q", "k"], over=HEADS, qk_fix=True, grad_drop=drop)
    assert seen.numbers <= 256 * 256 < 4 * 256 * 256  # the mask, which heads share


def test_changes_of_long_prompts_are_not_kept_between_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    model, some, calls = language_model("gpt2", torch.float64), pairs(2, lengths=(7,)), []
    original = qk_fix.changes
    monkeypatch.setattr(qk_fix, "changes", lambda *given: calls.append(1) or original(*given))
    grids = []
    for limit in (2**25, 0):
        monkeypatch.setattr(qk_fix, "KEPT_NUMBERS", limit)
        grids.append(attribution_patching(model, some, sites="q", over=HEADS, qk_fix=True, grad_drop=True).examples)
    assert len(calls) == 3 + 3 * 3  # once a layer; once a layer and backward
    np.testing.assert_allclose(grids[0], grids[1], atol=1e-14)


def held(model: LanguageModel, some: list[TokenizedPair], **options: Any) -> int:
    """Bytes of what autograd keeps for the backward, weights left out: each storage once."""
    weights = {one.untyped_storage().data_ptr() for one in model.module.parameters()}
    found: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        attribution_patching(model, some, **options)
    return sum(found.values())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("length", [8, 64])
def test_a_pair_is_taken_for_as_much_as_autograd_keeps_of_it(name: str, length: int) -> None:
    """Not less than it is, nor more than five times: differences and logits are in the estimate, not in the graph."""
    size = "n_positions" if name == "gpt2" else "max_position_embeddings"
    model = LanguageModel(zoo.model(name, **{size: 128}))
    one, two = (held(model, long_pairs(count, length), sites=["resid_pre", "z"], batch=8) for count in (1, 2))
    eager = model.attention == "eager"
    planned = 4 * pair_numbers(model.facts, length, ("resid_pre", "z"), eager=eager)
    assert 0.8 * (two - one) <= planned <= 5 * (two - one)


def test_long_prompts_run_in_smaller_batches_and_numbers_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2", torch.float64, n_positions=256)
    monkeypatch.setattr("tracing.patching.attribution_runs.CPU_BYTES", 24 * 2**20)
    sizes: dict[int, list[int]] = {}
    for length, count in ((16, 12), (256, 6)):
        some, done = long_pairs(count, length), [0]
        planned = attribution_patching(model, some, progress=lambda at, _, done=done: done.append(at))
        sizes[length] = np.diff(done).tolist()
        together = attribution_patching(model, some, batch=count)
        np.testing.assert_allclose(planned.examples, together.examples, atol=1e-12)
        monkeypatch.setattr("tracing.patching.attribution_memory.CPU_BYTES", 24 * 2**20)
        count, largest = batches(model.facts, [length] * count, ("resid_pre",), 8)  # what a preview reads
        assert count == len(sizes[length])
        assert largest <= 24 * 2**20
    assert sizes[16] == [12]
    assert max(sizes[256]) == math.floor(24 * 2**20 / (8 * pair_numbers(model.facts, 256, ("resid_pre",)))) <= 3


def test_a_map_of_patterns_plans_for_its_matrices() -> None:
    facts = language_model("gpt2").facts
    long, short = (pair_numbers(facts, length, ("pattern",)) / length for length in (512, 8))
    assert long - short > 4 * 3 * 4 * 500  # four numbers a layer, head and key, for each token
    plain = [pair_numbers(facts, length, ("z",)) for length in (512, 8)]
    assert plain[0] < 70 * plain[1]
