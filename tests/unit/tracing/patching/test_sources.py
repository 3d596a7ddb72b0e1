"""What is put in, against activations computed by hand: plain hooks on a GPT-2, float64, 1e-10."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.decoders import language_model, pair, pairs
from tests.unit.tracing.patching import brute
from tracing.errors import PromptError, SiteError, SpecError
from tracing.models import LanguageModel
from tracing.patching import Mean, Noise, Optimise, Resample, Zero, prepare, sweep
from tracing.patching.sources import as_source
from tracing.prompts import TokenizedPair

NAMED = (("A", 1, 2), ("B", 3, 5))
EVERY = slice(None)
Put = Callable[[TokenizedPair, str, int], Tensor]


def model() -> LanguageModel:
    return language_model("gpt2", torch.float64)


def several(count: int = 4) -> list[TokenizedPair]:
    return [replace(one, spans=NAMED) for one in pairs(count, lengths=(5, 6))]


def expected(module: Any, some: Sequence[TokenizedPair], site: str, put: Put, heads: bool = False) -> np.ndarray:
    """Every cell by hand, `[pair, layer, position from the start, or head]`."""
    found = np.full((len(some), 3, 4 if heads else 6), np.nan)
    for n, one in enumerate(some):
        for layer in range(3):
            value = {(site, layer): put(one, site, layer)}
            for c in range(4 if heads else one.length):
                chosen = (EVERY, EVERY, c) if heads else (EVERY, c)
                found[n, layer, c] = brute.patch(module, one, value, chosen)
    return found


def mean_of(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "z", "k", "neurons"])
def test_zeros_are_put_in(site: str) -> None:
    own, some = model(), several()
    grid = sweep(own, some, sites=site, source="zero", positions="start")
    reference = expected(
        own.module, some, site, lambda one, s, n: torch.zeros_like(brute.read(own.module, one.clean_ids, s, n))
    )
    np.testing.assert_allclose(grid.examples, reference, atol=1e-10, rtol=0)


def test_a_zeroed_head_is_a_head_taken_out() -> None:
    own, some = model(), several()
    grid = sweep(own, some, sites="z", over=("layer", "head"), source=Zero())
    reference = expected(
        own.module, some, "z", lambda one, s, n: torch.zeros_like(brute.read(own.module, one.clean_ids, s, n)), True
    )
    np.testing.assert_allclose(grid.examples, reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize("counted", ["start", "end"])
@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_a_mean_over_positions_is_that_of_the_clean_prompts_at_the_same_place(site: str, counted: str) -> None:
    own, some = model(), several()

    def put(one: TokenizedPair, s: str, n: int) -> Tensor:
        rows = []
        for t in range(one.length):
            back = t - one.length
            at = [(other, t if counted == "start" else other.length + back) for other in some]
            rows.append(mean_of([brute.read(own.module, o.clean_ids, s, n)[0, u] for o, u in at if 0 <= u < o.length]))
        return torch.stack(rows)[None]

    grid = sweep(own, some, sites=site, source="mean", positions=counted)
    reference = expected(own.module, some, site, put)
    for n, one in enumerate(some):
        mine = grid.examples[n][:, : one.length] if counted == "start" else grid.examples[n][:, 6 - one.length :]
        np.testing.assert_allclose(mine, reference[n][:, : one.length], atol=1e-10, rtol=0)


def test_a_mean_over_all_tokens_of_a_reference() -> None:
    own, some = model(), several(2)
    reference = [[9, 8, 7, 6], [5, 4, 3], [20, 21, 22, 23]]

    def put(one: TokenizedPair, s: str, n: int) -> Tensor:
        tokens = [row for ids in reference for row in brute.read(own.module, ids, s, n)[0]]
        return mean_of(tokens).expand(1, one.length, *tokens[0].shape)

    grid = sweep(own, some, sites="v", source=Mean("all", reference=reference), positions="start")
    np.testing.assert_allclose(grid.examples, expected(own.module, some, "v", put), atol=1e-10, rtol=0)


def test_a_mean_over_spans_takes_each_span_alone_and_the_other_tokens_together() -> None:
    own, some = model(), several()

    def put(one: TokenizedPair, s: str, n: int) -> Tensor:
        pools: dict[str, list[Tensor]] = {"A": [], "B": [], "": []}
        for other in some:
            value = brute.read(own.module, other.clean_ids, s, n)[0]
            for t in range(other.length):
                pools[_span(t)].append(value[t])
        return torch.stack([mean_of(pools[_span(t)]) for t in range(one.length)])[None]

    grid = sweep(own, some, sites="attn_out", source=Mean("span"), positions="start")
    np.testing.assert_allclose(grid.examples, expected(own.module, some, "attn_out", put), atol=1e-10, rtol=0)


def _span(t: int) -> str:
    return next((name for name, start, end in NAMED if start <= t < end), "")


def test_a_resample_is_an_interchange_with_another_prompt_of_that_length() -> None:
    own, some = model(), several(6)
    grid = sweep(own, some, source=Resample(seed=3), positions="start")
    for n, one in enumerate(some):
        others = [o for m, o in enumerate(some) if m != n and o.length == one.length]
        candidates = [
            expected(
                own.module, [one], "resid_pre", lambda _, s, layer, o=o: brute.read(own.module, o.clean_ids, s, layer)
            )
            for o in others
        ]
        mine = grid.examples[n][:, : one.length]
        off = [np.abs(mine - candidate[0][:, : one.length]).max() for candidate in candidates]
        assert min(off) < 1e-10, "no one prompt gives all cells of the pair"


def test_noise_is_so_many_deviations_wide_and_gaussian() -> None:
    own = model()
    some = [pair([n, n + 1, n + 2, n + 3], [n, n + 40, n + 2, n + 3], (9,), (10,), n) for n in range(1, 41)]
    prepared = prepare(own, some, sites="neurons", over=("layer", "neuron"), source=Noise(scale=2.0, seed=1))
    live = torch.cat([brute.read(own.module, one.corrupted_ids, "neurons", 1) for one in some])
    [runs] = prepared.baselines.groups
    rows = [some.index(some[n]) for n in prepared.plan.groups[0].pairs]
    draws = (runs.source["neurons"][1] - live[rows]) / live.std(correction=0)
    assert draws.mean().abs() < 0.05
    assert draws.std() == pytest.approx(2.0, rel=0.03)
    assert (draws.abs() < 2.0).double().mean() == pytest.approx(0.683, abs=0.02)


@pytest.mark.parametrize("source", [Noise(1.0, seed=5), Resample(seed=5)], ids=str)
def test_draws_depend_on_the_seed_alone(source: Any) -> None:
    own, some = model(), several(6)
    whole = sweep(own, some, source=source)
    for options in ({"batch": 1}, {"batch": 7}, {"optimise": Optimise(batching=False)}, {"optimise": False}):
        np.testing.assert_allclose(sweep(own, some, source=source, **options).examples, whole.examples, atol=1e-10)
    other = sweep(own, some, source=replace(source, seed=6))
    assert np.nanmax(np.abs(other.examples - whole.examples)) > 1e-3
    several_sites = sweep(own, some, sites=("z", "resid_pre"), source=source)
    np.testing.assert_allclose(several_sites["resid_pre"].examples, whole.examples, atol=1e-10)


@pytest.mark.parametrize("source", ["zero", "mean", "noise"])
def test_cells_before_the_first_difference_are_run_for_all_but_an_interchange(source: str) -> None:
    own = model()
    one = pair([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], (9,), (10,))
    other = pair([7, 8, 13, 14, 15], [7, 8, 13, 14, 16], (9,), (10,), 2)
    grid = sweep(own, [one, other], source=source)
    assert (np.abs(grid.examples - grid.corrupted[:, None, None])[:, :, :4] > 1e-6).all()
    interchange = sweep(own, [one, other])
    assert (interchange.examples[:, :, :4] == interchange.corrupted[:, None, None]).all()


@pytest.mark.parametrize("source", ["zero", "mean", "resample", "noise", Mean("all")], ids=str)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_short_cuts_and_full_forwards_agree(source: Any, direction: Any) -> None:
    own, some = language_model("llama", torch.float64), several()
    for site, over in (("resid_mid", ("layer", "position")), ("q", ("layer", "head")), ("mlp_out", ("layer",))):
        options: dict[str, Any] = {"sites": site, "over": over, "direction": direction, "source": source}
        fast, slow = (sweep(own, some, optimise=one, **options) for one in (True, False))
        np.testing.assert_allclose(fast.examples, slow.examples, atol=1e-10)


def test_the_map_says_what_was_put_in() -> None:
    grid = sweep(model(), several(), source=Noise(2.0), direction="noising")
    assert grid.facts["source"] == "noise of 2 standard deviations (seed 0)"
    assert "noise of 2 standard deviations (seed 0) (into the clean run)" in grid.title


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "median"}, SpecError, "no source 'median'"),
        ({"source": Mean("span")}, PromptError, "name none"),
        ({"source": Mean(reference=[[1, 2, 3]]), "positions": "start"}, PromptError, "position 3"),
        ({"source": Resample(reference=[[1, 2, 3]])}, PromptError, "Pair 1: no other prompt of 5 tokens"),
        ({"sites": "pattern", "source": "noise"}, SiteError, "patterns have no noise"),
        ({"sites": "pattern", "source": Mean("all")}, SiteError, "patterns have no mean over all"),
    ],
)
def test_a_source_that_cannot_be_made_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sweep(model(), pairs(2, lengths=(5,)), **options)


def test_options_of_sources_are_checked() -> None:
    for wrong in (lambda: Mean("token"), lambda: Noise(0.0), lambda: Resample(reference=[]), lambda: as_source(3)):  # type: ignore[arg-type]
        with pytest.raises(SpecError):
            wrong()
