"""What sweeps promise beside their values: exact known cells, resuming, stopping, threads, memory, plain errors."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoders import FAMILIES, gpt2, language_model, pair, pairs
from tracing.errors import ModelError, OutOfMemoryError, PromptError, SiteError, SpecError
from tracing.models import LanguageModel
from tracing.patching import Optimise, batches, capture, prepare, sweep, tiles
from tracing.patching import plan as planning
from tracing.prompts import PromptPair

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_position_behind_the_last_block_restores_the_clean_metric(family: str) -> None:
    grid = sweep(language_model(family, torch.float64), pairs(), sites="resid_post")
    np.testing.assert_allclose(grid.examples[:, -1, -1], grid.clean, atol=1e-12)
    assert grid.recovery[-1, -1] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", SITES)
def test_positions_before_the_first_difference_are_exactly_the_unpatched_metric(site: str, direction: str) -> None:
    several = pairs()
    grid = sweep(language_model("llama"), several, sites=site, direction=direction, positions="start")
    unpatched = grid.corrupted if direction == "denoising" else grid.clean
    for n, one in enumerate(several):
        first = one.differs.index(True)
        assert (grid.examples[n, :, :first] == unpatched[n]).all()


def test_noising_the_clean_run_is_denoising_with_the_prompts_swapped() -> None:
    model = language_model("gpt2", torch.float64)
    one = pair([1, 2, 3, 4], [1, 7, 3, 8], (5,), (6,))
    swapped = pair([1, 7, 3, 8], [1, 2, 3, 4], (5,), (6,))
    noising, denoising = sweep(model, [one], direction="noising"), sweep(model, [swapped])
    np.testing.assert_array_equal(noising.examples, denoising.examples)
    np.testing.assert_allclose(noising.recovery, 1 - denoising.recovery, atol=1e-12)


def test_pairs_line_up_at_the_start_or_at_the_end() -> None:
    model, several = language_model("gpt2"), pairs(3)
    at_end, at_start = sweep(model, several), sweep(model, several, positions="start")
    for n, one in enumerate(several):
        np.testing.assert_array_equal(at_end.examples[n, :, -one.length :], at_start.examples[n, :, : one.length])


def test_several_sites_give_a_grid_each_and_one_gives_it_bare() -> None:
    model, several = language_model("gpt2"), pairs(2)
    found = sweep(model, several, sites=("resid_pre", "z"))
    assert list(found) == ["resid_pre", "z"]
    np.testing.assert_array_equal(found["z"].examples, sweep(model, several, sites="z").examples)


def collect(model: LanguageModel, several: Any, **options: Any) -> dict[tuple[int, int, int], np.ndarray]:
    prepared = prepare(model, several, sites=("resid_pre", "mlp_out"), **options)
    return {(tile.panel, tile.r0, tile.c0): tile.examples for tile in tiles(prepared)}


def test_a_resumed_sweep_computes_only_the_missing_tiles_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "TILE_FLOPS", 0.0)
    monkeypatch.setattr(planning.BlockFlops, "forward", lambda *_: 1e4)
    model, several = language_model("llama"), pairs(7)
    undisturbed = collect(model, several)
    done = set(list(undisturbed)[::2])
    rest = {
        (tile.panel, tile.r0, tile.c0): tile
        for tile in tiles(prepare(model, several, sites=("resid_pre", "mlp_out")), done=done)
    }
    assert len(undisturbed) > 12
    assert rest.keys() == undisturbed.keys() - done
    for place, tile in rest.items():
        np.testing.assert_array_equal(tile.examples, undisturbed[place])


def test_a_resumed_sweep_gives_the_same_bits_where_layers_run_together() -> None:
    model, one = language_model("llama"), [pair([1, 2, 3, 4], [5, 6, 7, 8], (9,), (10,))]
    sites = ("resid_pre", "resid_post", "attn_out")
    whole = prepare(model, one, sites=sites)
    assert max(map(len, whole.plan.bundles)) > 1
    undisturbed = {(tile.panel, tile.r0, tile.c0): tile.examples for tile in tiles(whole)}
    for missing in undisturbed:
        [tile] = tiles(prepare(model, one, sites=sites), done=undisturbed.keys() - {missing})
        np.testing.assert_array_equal(tile.examples, undisturbed[missing])


def test_a_stopped_sweep_ends_between_two_batches() -> None:
    prepared = prepare(language_model("gpt2"), pairs(), batch=1)
    asked = iter([False] * 5 + [True] * 1000)
    before = list(tiles(prepared, should_stop=lambda: next(asked)))
    assert len(before) < len(prepared.plan.tiles)
    assert next(asked) is True


def test_a_stopped_sweep_leaves_the_other_cells_unknown() -> None:
    grid = sweep(language_model("gpt2"), pairs(), should_stop=lambda: True)
    assert np.isnan(grid.raw).all()


def test_sweeps_in_several_threads_on_one_model_give_the_same_values() -> None:
    model, several = language_model("llama"), pairs()
    jobs: dict[str, Callable[[], np.ndarray]] = {
        f"{site}-{optimise}": lambda site=site, optimise=optimise: (
            sweep(model, several, sites=site, optimise=optimise).examples
        )
        for site in ("resid_pre", "attn_out", "resid_mid")
        for optimise in (True, False)
    }
    alone = {name: job() for name, job in jobs.items()}
    together: dict[str, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda name=name, job=job: together.update({name: job()})) for name, job in jobs.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for name, examples in alone.items():
        np.testing.assert_array_equal(together[name], examples, err_msg=name)


def test_no_hook_is_left_when_a_forward_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2")
    monkeypatch.setattr(model.blocks[1].mlp, "forward", lambda _: 1 / 0)
    for optimise in (True, False):
        with pytest.raises(ZeroDivisionError):
            sweep(model, pairs(), optimise=optimise)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def test_weights_and_outputs_are_untouched_by_a_sweep() -> None:
    model = language_model("llama")
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    logits = model.logits([[1, 2, 3]])
    sweep(model, pairs(), sites=SITES)
    sweep(model, pairs(), sites=SITES, optimise=False)
    torch.testing.assert_close(model.logits([[1, 2, 3]]), logits, rtol=0, atol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())


@pytest.mark.parametrize("optimise", [True, False])
def test_a_finished_sweep_keeps_no_activations(optimise: bool) -> None:
    model = language_model("llama")
    prepared = prepare(model, pairs(), sites=SITES, optimise=optimise)
    kept = [weakref.ref(run.source.boundary(1)) for run in prepared.baselines.groups]
    list(tiles(prepared))
    del prepared
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def limited(most_tokens: int, run: Callable[..., Any]) -> Callable[..., Any]:
    """A suffix engine whose memory ends at a number of packed tokens."""

    def run_limited(model: Any, entries: Any, *rest: Any, **options: Any) -> Any:
        if sum(hidden.shape[0] * hidden.shape[1] for _, hidden in entries) > most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(model, entries, *rest, **options)

    return run_limited


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = language_model("gpt2", torch.float64), pairs(7)
    whole = sweep(model, several)
    monkeypatch.setattr(batches, "run_suffix", limited(8, batches.run_suffix))
    np.testing.assert_allclose(sweep(model, several).examples, whole.examples, atol=1e-12)


def test_one_patch_that_does_not_fit_says_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "run_suffix", limited(3, batches.run_suffix))
    with pytest.raises(OutOfMemoryError, match=r"One patched prompt of \d tokens does not fit.*cpu") as caught:
        sweep(language_model("gpt2"), pairs())
    assert caught.value.where["weight_bytes"]


def test_baselines_that_do_not_fit_say_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(capture, "_capture", full)
    with pytest.raises(OutOfMemoryError, match=r"activations of 1 prompts of 5 tokens"):
        sweep(language_model("gpt2"), pairs())


def test_baselines_in_slices_are_those_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = language_model("llama", torch.float64), pairs(9)
    whole = sweep(model, several, sites=("mlp_out", "z"))
    monkeypatch.setattr(capture, "TOKENS_A_FORWARD", 10)
    for site, grid in sweep(model, several, sites=("mlp_out", "z")).items():
        np.testing.assert_allclose(grid.examples, whole[site].examples, atol=1e-12)


def test_prompts_of_other_tokenisation_are_refused_with_the_first_difference() -> None:
    with pytest.raises(
        PromptError, match=r"Pair 1: clean has 3 tokens, corrupted has 2; .* position 1 \('2' against '9'\)"
    ):
        sweep(language_model("gpt2"), [pair([1, 2, 3], [1, 9], (5,), (6,))])


def test_equal_prompts_are_refused() -> None:
    with pytest.raises(PromptError, match=r"Pair 1: .* the same tokens"):
        sweep(language_model("gpt2"), [pair([1, 2], [1, 2], (5,), (6,))])


def test_a_metric_that_needs_a_foil_names_the_pair_without_one() -> None:
    several = [pair([1, 2], [1, 3], (5,), (6,)), pair([1, 2], [1, 3], (5,), (), 2)]
    with pytest.raises(PromptError, match="Pair 2: the metric logit_diff compares"):
        sweep(language_model("gpt2"), several)
    assert np.isfinite(sweep(language_model("gpt2"), several, "prob").raw).all()


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        sweep(language_model("gpt2"), [PromptPair(clean="a", corrupted="b", answer="c", foil="d")])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": "hidden"}, SiteError, "'hidden' cannot be patched"),
        ({"sites": "resid_pre", "over": ("layer", "head")}, SiteError, "no head axis"),
        ({"over": ("head", "layer")}, SpecError, "over"),
        ({"direction": "sideways"}, SpecError, "'sideways'"),
        ({"positions": "middle"}, SpecError, "'middle'"),
        ({"batch": 0}, SpecError, "batch size"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sweep(language_model("gpt2"), pairs(), **options)


def test_attention_that_ignores_masks_is_refused_but_can_be_hooked() -> None:
    model = LanguageModel(gpt2())
    model.module.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="'flash_attention_2', which ignores the masks"):
        sweep(model, pairs())


def test_equal_baselines_are_warned_about() -> None:
    model = language_model("gpt2")
    prepared = prepare(model, [pair([1, 2], [1, 3], (5,))], "accuracy")
    assert "too close to divide" in prepared.warnings[0]
    assert np.isnan(sweep(model, prepared.pairs, "accuracy").recovery).all()


def test_bfloat16_models_sweep_with_metrics_in_float32() -> None:
    grid = sweep(language_model("llama", torch.bfloat16), pairs())
    assert grid.examples.dtype == np.float32
    assert np.isfinite(grid.examples[0][:, -5:]).all()


def test_switching_everything_off_is_one_forward_a_cell_and_pair() -> None:
    prepared = prepare(language_model("gpt2"), pairs(2), optimise=Optimise.of(False))
    rows = [(c.hi - c.lo) * len(c.columns) for tile in prepared.plan.tiles for c in tile.chunks]
    assert set(rows) == {1}
    assert len(rows) == 3 * (5 + 6)
