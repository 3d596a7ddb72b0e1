"""What sweeps promise beside their values: exact known cells, resuming, stopping, threads, memory, plain errors."""

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoders import FAMILIES, language_model, pair, pairs
from tracing.errors import ModelError, OutOfMemoryError, PromptError, SiteError, SpecError, Stopped
from tracing.models import LanguageModel
from tracing.patching import batches, capture, packing, prepare, readout, sweep, sweeps, tiles
from tracing.patching.capture import Activations
from tracing.patching.footprint import kept_bytes
from tracing.patching.sweeps import place
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


def test_one_pair_needs_no_list() -> None:
    model, one = language_model("gpt2"), pair([1, 2, 3, 4], [1, 7, 3, 8], (5,), (6,))
    np.testing.assert_array_equal(sweep(model, one).examples, sweep(model, [one]).examples)


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


def collect(model: LanguageModel, several: Any, **options: Any) -> dict[Any, np.ndarray]:
    prepared = prepare(model, several, sites=("resid_pre", "mlp_out"), **options)
    return {place(tile): tile.examples for tile in tiles(prepared)}


def test_a_resumed_sweep_computes_only_the_missing_tiles_and_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "TILE_FLOPS", 0.0)
    monkeypatch.setattr(packing.BlockFlops, "forward", lambda *_: 1e4)
    model, several = language_model("llama"), pairs(7)
    undisturbed = collect(model, several)
    done = set(list(undisturbed)[::2])
    rest = {place(tile): tile for tile in tiles(prepare(model, several, sites=("resid_pre", "mlp_out")), done=done)}
    assert len(undisturbed) > 12
    assert rest.keys() == undisturbed.keys() - done
    for where, tile in rest.items():
        np.testing.assert_array_equal(tile.examples, undisturbed[where])


def test_a_resumed_sweep_gives_the_same_bits_where_layers_run_together() -> None:
    model, one = language_model("llama"), [pair([1, 2, 3, 4], [5, 6, 7, 8], (9,), (10,))]
    sites = ("resid_pre", "resid_post", "attn_out")
    whole = prepare(model, one, sites=sites)
    assert max(map(len, whole.plan.bundles)) > 1
    undisturbed = {place(tile): tile.examples for tile in tiles(whole)}
    for missing in undisturbed:
        [tile] = tiles(prepare(model, one, sites=sites), done=undisturbed.keys() - {missing})
        np.testing.assert_array_equal(tile.examples, undisturbed[missing])


def test_a_tile_of_another_cut_is_not_taken_for_the_planned_one() -> None:
    model, several = language_model("llama"), pairs(7)
    prepared = prepare(model, several)
    panel, row, c0, rows, columns = place(next(tiles(prepared)))
    narrower = (panel, row, c0, rows, columns - 1)
    assert (panel, row, c0) in {place(tile)[:3] for tile in tiles(prepared, done={narrower})}
    assert (panel, row, c0) not in {place(tile)[:3] for tile in tiles(prepared, done={(*narrower[:4], columns)})}


def test_a_stopped_sweep_ends_between_two_batches() -> None:
    prepared = prepare(language_model("gpt2"), pairs(), batch=1)
    asked = iter([False] * 5 + [True] * 1000)
    before = list(tiles(prepared, should_stop=lambda: next(asked)))
    assert len(before) < len(prepared.plan.tiles)
    assert next(asked) is True


def test_a_stopped_sweep_leaves_the_other_cells_unknown() -> None:
    model, several = language_model("gpt2"), pairs()
    asked = iter([False] * 2 * len(prepare(model, several).plan.groups) + [True] * 1000)
    grid = sweep(model, several, should_stop=lambda: next(asked))
    assert np.isnan(grid.raw).all()


def test_baselines_stop_between_two_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "TOKENS_A_FORWARD", 10)
    forwards: list[None] = []
    one_forward = capture._capture
    monkeypatch.setattr(capture, "_capture", lambda *a: (forwards.append(None), one_forward(*a))[1])
    several = [pair([1, 2, 3, n], [1, 5, 3, n], (9,), (10,), n) for n in range(1, 9)]
    with pytest.raises(Stopped):
        sweep(language_model("gpt2"), several, should_stop=lambda: len(forwards) >= 3)
    assert len(forwards) == 3


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
    monkeypatch.setattr(model.block_modules[1].mlp, "forward", lambda _: 1 / 0)
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
    kept = [weakref.ref(run.source["resid_pre"][1]) for run in prepared.baselines.groups]
    list(tiles(prepared))
    del prepared
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def patches(entries: Any, pairs: slice) -> int:
    """How many tokens a batch has to run: those from each row's first patched position on."""
    tokens = sum(int((rows.positions.shape[1] - rows.positions.int().argmax(1)).sum()) for rows in entries)
    return tokens * (pairs.stop - pairs.start)


def limited(most: int, run: Callable[..., Any]) -> Callable[..., Any]:
    """An engine whose memory ends at a number of tokens."""

    def run_limited(model: Any, base: Any, source: Any, entries: Any, pairs: slice, options: Any) -> Any:
        if patches(entries, pairs) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(model, base, source, entries, pairs, options)

    return run_limited


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = language_model("gpt2", torch.float64), pairs(7)
    whole = sweep(model, several)
    monkeypatch.setattr(batches, "run_rows", limited(8, batches.run_rows))
    np.testing.assert_allclose(sweep(model, several).examples, whole.examples, atol=1e-12)


def test_a_size_that_did_not_fit_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2", torch.float64)
    several = [pair([1, 2, 3, n], [4, 5, 6, n + 20], (9,), (10,), n) for n in range(1, 17)]
    prepared = prepare(model, several, batch=16)
    sizes: list[int] = []
    run = limited(40, batches.run_rows)

    def counted(given: Any, base: Any, source: Any, entries: Any, pairs: slice, options: Any) -> Any:
        sizes.append(patches(entries, pairs))
        return run(given, base, source, entries, pairs, options)

    whole = {place(tile): tile.examples for tile in tiles(prepared)}
    monkeypatch.setattr(batches, "run_rows", counted)
    for tile in tiles(prepared):
        np.testing.assert_allclose(tile.examples, whole[place(tile)], atol=1e-12)
    refused = [size for size in sizes if size > 40]
    assert len(prepared.plan.bundles) > 2
    assert len(refused) == len(set(refused)), "a batch of a size that had failed was tried again"


def test_one_patch_that_does_not_fit_says_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "run_rows", limited(0, batches.run_rows))
    with pytest.raises(OutOfMemoryError, match=r"One patched prompt of \d tokens does not fit.*cpu") as caught:
        sweep(language_model("gpt2"), pairs())
    assert caught.value.where["weight_bytes"]


NO_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to"),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "cpu"])
def test_baselines_that_do_not_fit_say_the_sizes(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(capture, "_capture", full)
    with pytest.raises(OutOfMemoryError, match=r"activations of 1 prompts of 5 tokens"):
        sweep(language_model("gpt2"), pairs())


def test_a_sweep_that_would_keep_too_much_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = language_model("gpt2"), pairs()
    size = kept_bytes(prepare(model, several).plan, 4)
    prepare(model, several, max_bytes=size)
    with pytest.raises(OutOfMemoryError, match=r"GiB of activations of 5 prompt pairs of up to 8 tokens.*fewer") as got:
        prepare(model, several, max_bytes=size - 1)
    assert got.value.where["bytes"] == size
    monkeypatch.setattr(sweeps, "device_bytes", lambda _: size - 1)
    monkeypatch.setattr(capture, "_capture", lambda *_: 1 / 0)
    with pytest.raises(OutOfMemoryError, match="the memory of cpu has"):
        sweep(model, several)


def stored(found: Activations | dict[str, list[torch.Tensor]]) -> dict[int, int]:
    """Bytes of every block of memory that activations hold on to, by address."""
    sites = found if isinstance(found, dict) else found.sites
    every = [tensor for kept in sites.values() for tensor in kept]
    every += [] if isinstance(found, dict) else [*found.keys, *found.values]
    return {kept.data_ptr(): kept.nbytes() for kept in (tensor.untyped_storage() for tensor in every)}


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("sites", [*((site,) for site in SITES), SITES, "heads"], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_what_the_plan_says(family: str, sites: Any, optimise: bool) -> None:
    model = language_model(family)
    several = [pair([1, 2, 3, 4, n], [1, 5, 3, 6, n], (9,), (10,), n) for n in range(1, 9)]
    over = ("layer", "head") if sites == "heads" else ("layer", "position")
    prepared = prepare(model, several, sites="z" if sites == "heads" else sites, over=over, optimise=optimise)
    [runs] = prepared.baselines.groups
    beside = 8 * 32 * 4 + 8 * prepared.plan.cells * 4
    held = sum((stored(runs.source) | stored(runs.destination)).values())
    assert held + beside == kept_bytes(prepared.plan, 4)


def test_only_a_metric_that_compares_with_the_clean_run_gets_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = language_model("gpt2"), pairs(2)
    seen: dict[str, set[bool]] = {}

    def watched(metric: str) -> None:
        seen[metric] = set()
        prepared = prepare(model, several, metric)
        function = prepared.metric.function

        def spy(logits: Any, targets: Any) -> Any:
            seen[metric].add(targets.reference is not None)
            return function(logits, targets)

        list(tiles(replace(prepared, metric=replace(prepared.metric, function=spy))))

    for metric in ("prob", "log_prob", "rank", "accuracy", "logit_diff", "kl_divergence"):
        watched(metric)
    assert {metric for metric, references in seen.items() if references == {True}} == {"kl_divergence"}
    assert {metric for metric, references in seen.items() if references == {False}} == seen.keys() - {"kl_divergence"}


def test_logits_of_all_pairs_are_never_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("gpt2", torch.float64)
    several = [pair([1, 2, 3, n], [1, 5, 3, n], (9,), (10,), n) for n in range(1, 9)]
    whole = sweep(model, several, "kl_divergence")
    rows: list[int] = []
    read = readout.read_logits

    def counted(given: Any, final: Any, columns: Any = None) -> Any:
        rows.append(final.shape[0])
        return read(given, final, columns)

    monkeypatch.setattr(readout, "read_logits", counted)
    monkeypatch.setattr("tracing.patching.baselines.LOGITS_A_BATCH", 3 * 97)
    monkeypatch.setattr(packing, "LOGITS_A_BATCH", 3 * 97)
    sliced = sweep(model, several, "kl_divergence")
    assert max(rows) == 3
    np.testing.assert_allclose(sliced.examples, whole.examples, atol=1e-12)


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
        ({"over": ("head", "layer")}, SpecError, "in this order"),
        ({"source": "median"}, SpecError, "'median'"),
        ({"direction": "sideways"}, SpecError, "'sideways'"),
        ({"positions": "middle"}, SpecError, "'middle'"),
        ({"batch": 0}, SpecError, "batch size"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sweep(language_model("gpt2"), pairs(), **options)


def test_equal_baselines_are_warned_about() -> None:
    model = language_model("gpt2")
    prepared = prepare(model, [pair([1, 2], [1, 3], (5,))], "accuracy")
    assert "too close to divide" in prepared.warnings[0]
    assert np.isnan(sweep(model, prepared.pairs, "accuracy").recovery).all()


def test_columns_that_divide_by_almost_nothing_are_named() -> None:
    model = language_model("gpt2", torch.float64)
    short = [pair([1, 2, 3], [1, 5, 3], (9,), (10,), 1), pair([1, 5, 3], [1, 2, 3], (9,), (10,), 2)]
    long = [pair([4, 1, 2, 3], [4, 1, 5, 3], (9,), (10,), 3)]
    assert prepare(model, long).warnings == ()
    assert prepare(model, [*short, *long]).warnings == ()
    cancelling = [pair([4, *one.clean_ids], [4, *one.corrupted_ids], (9,), (10,), n) for n, one in enumerate(short, 4)]
    prepared = prepare(model, [pair([1, 2, 3], [1, 5, 3], (9,), (10,), 1), *cancelling])
    assert len(prepared.warnings) == 1
    assert "In column 0 ('4') the clean and corrupted logit_diff" in prepared.warnings[0]
    assert "recovery is not a number" in prepared.warnings[0]
    [grid] = sweeps.grids(prepared, list(tiles(prepared)))
    assert np.isnan(grid.recovery[:, 0]).all()
    assert np.isfinite(grid.recovery[:, 1:]).all()


def test_bfloat16_models_sweep_with_metrics_in_float32() -> None:
    grid = sweep(language_model("llama", torch.bfloat16), pairs())
    assert grid.examples.dtype == np.float32
    assert np.isfinite(grid.examples[0][:, -5:]).all()
