"""Every axis of a sweep against one hooked forward a cell, written by hand: float64, 1e-10. And what maps say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.decoders import gpt2, language_model, pairs
from tests.unit.tracing.patching import brute
from tracing.errors import SiteError, SpecError
from tracing.models import LanguageModel
from tracing.patching import Optimise, prepare, sweep, tiles
from tracing.patching.packing import make_plan
from tracing.patching.plan import Lengths
from tracing.patching.rows import walk_of
from tracing.prompts import TokenizedPair

EVERY = slice(None)
NAMED = (("A", 1, 2), ("B", 3, 5))


def model() -> LanguageModel:
    return language_model("gpt2", torch.float64)


def several(count: int = 3) -> list[TokenizedPair]:
    return [replace(one, spans=NAMED) for one in pairs(count, lengths=(5, 6))]


def cell(module: Any, pair: TokenizedPair, site: str, layers: list[int], chosen: tuple[Any, ...] = (EVERY,)) -> float:
    """One cell of one pair by hand."""
    clean = {(site, layer): brute.read(module, pair.clean_ids, site, layer) for layer in layers}
    return brute.patch(module, pair, clean, chosen)


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_a_map_of_layer_and_head_by_position_patches_one_head_at_one_token(site: str) -> None:
    own = model()
    grid = sweep(own, several(), sites=site, over=("layer", "head", "position"), layers=[0, 2])
    assert [tick.label for tick in grid.rows.ticks] == [f"L{layer}.H{head}" for layer in (0, 2) for head in range(4)]
    for n, pair in enumerate(several()):
        shift = 6 - pair.length
        for row, (layer, head) in enumerate((layer, head) for layer in (0, 2) for head in range(4)):
            for t in range(pair.length):
                expected = cell(own.module, pair, site, [layer], (EVERY, t, head))
                assert grid.examples[n, row, t + shift] == pytest.approx(expected, abs=1e-10)
        assert np.isnan(grid.examples[n, :, :shift]).all()


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_a_map_of_heads_patches_a_head_at_every_token(site: str) -> None:
    own = model()
    grid = sweep(own, several(), sites=site, over=("layer", "head"))
    expected = [
        [[cell(own.module, pair, site, [layer], (EVERY, EVERY, head)) for head in range(4)] for layer in range(3)]
        for pair in several()
    ]
    np.testing.assert_allclose(grid.examples, expected, atol=1e-10, rtol=0)


def test_neurons_are_the_inputs_of_the_mlps_last_map() -> None:
    own = model()
    grid = sweep(own, several(2), sites="neurons", over=("layer", "neuron"), layers=[1])
    assert grid.raw.shape == (1, 128)
    for n, pair in enumerate(several(2)):
        for neuron in (0, 17, 127):
            expected = cell(own.module, pair, "neurons", [1], (EVERY, EVERY, neuron))
            assert grid.examples[n, 0, neuron] == pytest.approx(expected, abs=1e-10)
    at_once = sweep(own, several(2), sites="neurons", over=("position", "neuron"), layers=1, positions="start")
    expected = cell(own.module, several(2)[1], "neurons", [1], (EVERY, 4, 17))
    assert at_once.examples[1, 4, 17] == pytest.approx(expected, abs=1e-10)


def test_a_layer_alone_is_patched_whole_and_gets_one_column() -> None:
    own = model()
    grid = sweep(own, several(), sites="attn_out", over=("layer",))
    assert (grid.rows.name, grid.columns.name, grid.raw.shape) == ("layer", "all", (3, 1))
    expected = [[[cell(own.module, pair, "attn_out", [layer])] for layer in range(3)] for pair in several()]
    np.testing.assert_allclose(grid.examples, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("site", ["resid_pre", "z"])
def test_without_a_layer_axis_the_named_layers_are_patched_at_once(site: str) -> None:
    own = model()
    grid = sweep(own, several(), sites=site, over=("position",), layers=[1, -1], positions="start")
    assert [tick.label for tick in grid.rows.ticks] == ["1, 2"]
    for n, pair in enumerate(several()):
        for t in range(pair.length):
            expected = cell(own.module, pair, site, [1, 2], (EVERY, t))
            assert grid.examples[n, 0, t] == pytest.approx(expected, abs=1e-10)
    assert (
        "several layers are patched at once"
        in prepare(own, several(), sites=site, over="position", layers=[1, 2]).plan.explain()
    )


def test_heads_without_their_axis_are_patched_together() -> None:
    own = model()
    grid = sweep(own, several(), sites="v", over=("layer", "position"), heads=[0, 3], positions="start")
    for n, pair in enumerate(several()):
        for layer, t in ((0, 1), (1, pair.length - 1), (2, 3)):
            expected = cell(own.module, pair, "v", [layer], (EVERY, t, [0, 3]))
            assert grid.examples[n, layer, t] == pytest.approx(expected, abs=1e-10)
    columns = sweep(own, several(), sites="v", over=("layer", "head"), heads=[3, 0])
    whole = sweep(own, several(), sites="v", over=("layer", "head"))
    np.testing.assert_allclose(columns.examples, whole.examples[:, :, [3, 0]], atol=1e-10)


def test_a_span_is_patched_as_a_whole() -> None:
    own = model()
    grid = sweep(own, several(), sites="resid_pre", over=("layer", "span"))
    assert [tick.label for tick in grid.columns.ticks] == ["A", "B"]
    expected = [
        [
            [cell(own.module, pair, "resid_pre", [layer], (EVERY, slice(a, b))) for _, a, b in NAMED]
            for layer in range(3)
        ]
        for pair in several()
    ]
    np.testing.assert_allclose(grid.examples, expected, atol=1e-10, rtol=0)
    joint = sweep(own, several(), sites="resid_pre", over=("layer",), spans="B")
    np.testing.assert_allclose(joint.examples[:, :, 0], grid.examples[:, :, 1], atol=1e-10)


def test_a_pair_without_a_span_has_no_such_cell() -> None:
    own, some = model(), several(2)
    some[0] = replace(some[0], spans=NAMED[:1])
    grid = sweep(own, some, over=("layer", "span"))
    assert np.isnan(grid.examples[0, :, 1]).all()
    np.testing.assert_allclose(grid.raw[:, 1], grid.examples[1, :, 1])


@pytest.mark.parametrize("over", [("layer", "position"), ("layer",), ("position",), ("layer", "head")], ids=str)
def test_a_map_by_pair_shows_the_same_numbers_unaveraged(over: tuple[str, ...]) -> None:
    own, some = model(), several()
    options: dict[str, Any] = {"sites": "z", "layers": None if "layer" in over else 1}
    averaged = sweep(own, some, over=over, **options)
    by_pair = sweep(own, some, over=("example", *over), **options)
    rows = len(averaged.rows)
    apart = by_pair.raw.T if over == ("layer",) else by_pair.raw.reshape(rows, len(some), -1).transpose(0, 2, 1)
    np.testing.assert_array_equal(apart.reshape(rows, -1, len(some)), averaged.examples.transpose(1, 2, 0))
    recovery = (averaged.examples - averaged.corrupted[:, None, None]) / (averaged.clean - averaged.corrupted)[
        :, None, None
    ]
    found = by_pair.recovery.T if over == ("layer",) else by_pair.recovery.reshape(rows, len(some), -1)
    found = found.reshape(rows, -1, len(some)) if over == ("layer",) else found.transpose(0, 2, 1)
    np.testing.assert_allclose(found, recovery.transpose(1, 2, 0), atol=1e-12)


def test_a_region_comes_first_and_changes_no_bit() -> None:
    own, some = model(), several()
    plain = sweep(own, some, sites="z", over=("layer", "head", "position"))
    options: dict[str, Any] = {"sites": "z", "over": ("layer", "head", "position"), "first": ([2], None)}
    prepared = prepare(own, some, **options)
    assert next(tiles(prepared)).r0 >= 2 * 4
    np.testing.assert_array_equal(sweep(own, some, **options).examples, plain.examples)


def test_a_joint_patch_of_all_heads_is_the_patch_of_the_site() -> None:
    own, some = model(), several()
    every = sweep(own, some, sites="z", heads=[0, 1, 2, 3])
    np.testing.assert_allclose(every.examples, sweep(own, some, sites="z").examples, atol=1e-10)


def test_grouped_heads_have_a_column_for_each_key_value_head() -> None:
    grids = sweep(language_model("llama", torch.float64), several(), sites=("q", "k"), over=("layer", "head"))
    assert (grids["q"].raw.shape, grids["k"].raw.shape) == ((3, 4), (3, 2))
    assert grids["k"].columns.title == "key-value head"


def test_patching_a_head_out_is_patching_its_z() -> None:
    grids = sweep(model(), several(), sites=("z", "head_out"), over=("layer", "head", "position"))
    np.testing.assert_allclose(grids["head_out"].examples, grids["z"].examples, atol=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_pattern_weights_the_values_of_the_run_that_it_is_put_into(family: str) -> None:
    own, some, over = language_model(family, torch.float64), several(), ("layer", "head", "position")
    grids, slow = (sweep(own, some, sites=("pattern", "z"), over=over, optimise=one) for one in (True, False))
    # Patterns come from the family's eager softmax, which may be taken in float32.
    np.testing.assert_allclose(grids["pattern"].examples, slow["pattern"].examples, atol=1e-6)
    assert np.nanmax(np.abs(grids["pattern"].examples - grids["z"].examples)) > 1e-3


def test_the_batch_size_changes_nothing_on_any_axis() -> None:
    own, some = model(), several()
    for site, over in (
        ("z", ("layer", "head", "position")),
        ("neurons", ("layer", "neuron")),
        ("k", ("layer", "span")),
    ):
        whole = sweep(own, some, sites=site, over=over)
        for batch in (1, 7):
            np.testing.assert_allclose(
                sweep(own, some, sites=site, over=over, batch=batch).examples, whole.examples, atol=1e-10
            )


def test_progress_counts_cells_up_to_all_of_them() -> None:
    seen: list[tuple[int, int]] = []
    sweep(model(), several(), over=("example", "layer"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"over": ("position",)}, SpecError, "which layers"),
        ({"sites": "mlp_out", "over": ("layer", "head")}, SiteError, "mlp_out has no head axis"),
        ({"sites": "z", "over": ("layer", "neuron")}, SiteError, "z has no neuron axis"),
        ({"layers": [3]}, SiteError, "no layer 3"),
        ({"over": ("layer", "span"), "spans": ["C"]}, SpecError, "'C'"),
        ({"sites": ("z", "z")}, SpecError, "named twice"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    options: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LanguageModel(gpt2())

    def ran(*_: Any) -> Tensor:
        raise AssertionError("the model ran")

    monkeypatch.setattr(own.module.transformer, "forward", ran)
    with pytest.raises(error, match=message):
        sweep(own, several(), **options)


def test_full_forwards_agree_on_every_axis() -> None:
    own, some = model(), several()
    for site, over in (("z", ("layer", "head", "position")), ("neurons", ("neuron",)), ("q", ("layer", "span"))):
        options: dict[str, Any] = {"sites": site, "over": over, "layers": None if "layer" in over else [1]}
        fast, slow = (sweep(own, some, optimise=one, **options) for one in (True, Optimise(suffix=False)))
        np.testing.assert_allclose(fast.examples, slow.examples, atol=1e-10)


def test_attention_that_ignores_masks_runs_whole_rows() -> None:
    model = LanguageModel(gpt2())
    model.module.config._attn_implementation = "flash_attention_2"
    plan = make_plan(model.facts, [Lengths.of(one) for one in pairs()], sites=["resid_pre"], walk=walk_of(model))
    assert plan.walk == "rows"
    assert "as whole prompts" in plan.explain()


def test_switching_everything_off_is_one_forward_a_cell_and_pair() -> None:
    prepared = prepare(language_model("gpt2"), pairs(2), optimise=Optimise.of(False))
    rows = [(c.hi - c.lo) * len(c.slots) for tile in prepared.plan.tiles for c in tile.chunks]
    assert set(rows) == {1}
    assert len(rows) == 3 * (5 + 6)
