"""Plans: every cell exactly once, in a fixed order, whatever the batch size; costs that add up. No model runs."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracing.errors import SiteError, SpecError
from tracing.families import model_facts
from tracing.patching import Optimise, make_plan, packing
from tracing.patching.cells import SITES
from tracing.patching.plan import Lengths, Plan, PlannedTile, cannot_matter

GPT2_SMALL = model_facts(
    {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
)


ALL = tuple(site for site in SITES if site not in ("mixer_out", "cross_out"))


def cells(plan: Plan, tile: PlannedTile) -> list[tuple[int, int, int]]:
    """(layer, pair, position) of every cell that the tile's batches compute, of a layer × position map."""
    return [
        (tile.layer, pair, plan.position(plan.groups[chunk.group], slot))
        for chunk in tile.chunks
        for slot in chunk.slots
        for pair in plan.groups[chunk.group].pairs[chunk.lo : chunk.hi]
    ]


def differing(length: int, first: int = 0) -> Lengths:
    """A pair that differs from `first` on."""
    return Lengths(length, tuple(t >= first for t in range(length)))


@st.composite
def pair_lengths(draw: st.DrawFn) -> Lengths:
    differs = draw(st.lists(st.booleans(), min_size=1, max_size=9).filter(any))
    return Lengths(len(differs), tuple(differs))


@settings(deadline=None)
@given(
    pairs=st.lists(pair_lengths(), min_size=1, max_size=6),
    site=st.sampled_from(ALL),
    source=st.sampled_from(["interchange", "zero"]),
    from_end=st.booleans(),
    batch=st.none() | st.integers(1, 40),
    budget=st.sampled_from([1e8, 4e10]),
)
def test_every_cell_that_can_matter_runs_once_and_no_other(
    pairs: list[Lengths], site: str, source: str, from_end: bool, batch: int | None, budget: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "TILE_FLOPS", budget)
        plan = make_plan(GPT2_SMALL, pairs, sites=[site], source=source, from_end=from_end, batch_rows=batch)
    run = Counter(cell for tile in plan.tiles for cell in cells(plan, tile))
    assert set(run.values()) <= {1}
    for number, pair in enumerate(pairs):
        for layer in range(12):
            for position in range(pair.length):
                if not cannot_matter(
                    12, pair.differs, pair.length - 1, site, (layer,), (position,), interchange=source == "interchange"
                ):
                    assert run[layer, number, position] == 1
    assert all(0 <= position < pairs[pair].length for _, pair, position in run)


def test_only_an_interchange_has_cells_before_the_first_difference_that_are_known() -> None:
    def computed(source: str) -> int:
        plan = make_plan(GPT2_SMALL, [differing(8, 5)], sites=["resid_pre"], source=source)
        return sum(len(cells(plan, tile)) for tile in plan.tiles)

    assert computed("interchange") == 12 * 3
    assert computed("zero") == computed("noise") == 12 * 8


@settings(deadline=None)
@given(pairs=st.lists(pair_lengths(), min_size=1, max_size=6), batch=st.integers(1, 40))
def test_tiles_and_their_order_do_not_depend_on_the_batch_size(pairs: list[Lengths], batch: int) -> None:
    def places(batch_rows: int | None) -> list[tuple[int, int, int, int]]:
        plan = make_plan(GPT2_SMALL, pairs, sites=["resid_pre", "z"], batch_rows=batch_rows)
        return [(tile.panel, tile.layer, tile.c0, tile.columns) for tile in plan.tiles]

    assert places(batch) == places(None)


def test_tiles_of_a_panel_cover_it_without_overlap() -> None:
    plan = make_plan(GPT2_SMALL, [differing(64)] * 40, sites=["resid_pre"])
    covered = Counter((tile.layer, column) for tile in plan.tiles for column in range(tile.c0, tile.c0 + tile.columns))
    assert len(plan.tiles) > 12
    assert covered == Counter((layer, column) for layer in range(12) for column in range(64))


def test_every_fourth_layer_of_every_site_comes_first() -> None:
    plan = make_plan(GPT2_SMALL, [differing(6)], sites=["resid_pre", "z"])
    order = [(tile.layer, tile.panel) for tile in plan.tiles]
    assert order[:6] == [(0, 0), (4, 0), (8, 0), (0, 1), (4, 1), (8, 1)]
    assert [layer for layer, panel in order if panel == 0] == [0, 4, 8, 2, 6, 10, 1, 3, 5, 7, 9, 11]


@settings(deadline=None)
@given(pairs=st.lists(pair_lengths(), min_size=1, max_size=6), batch=st.none() | st.integers(1, 40))
def test_every_number_is_computed_in_one_bundle(pairs: list[Lengths], batch: int | None) -> None:
    sites = ["resid_pre", "resid_mid", "attn_out", "z"]
    plan = make_plan(GPT2_SMALL, pairs, sites=sites, batch_rows=batch)
    keys = Counter(tile.key for bundle in plan.bundles for tile in bundle)
    assert set(keys.values()) == {1}
    assert keys.keys() == {tile.key for tile in plan.tiles}
    for bundle in plan.bundles:
        assert len({tile.chunks for tile in bundle}) == 1
        rows = len(bundle) * sum((c.hi - c.lo) * len(c.slots) for c in bundle[0].chunks)
        assert len(bundle) == 1 or batch is None or rows <= batch


def test_small_batches_of_several_layers_run_as_one() -> None:
    one = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], targets_only=True)
    assert [[tile.layer for tile in bundle] for bundle in one.bundles] == [[0, 4, 8, 2, 6, 10], [1, 3, 5, 7, 9, 11]]
    many = make_plan(GPT2_SMALL, [differing(16)] * 40, sites=["resid_pre"], targets_only=True)
    assert {len(bundle) for bundle in many.bundles} == {1}


def test_a_batch_stays_within_the_rows_asked_for() -> None:
    plan = make_plan(GPT2_SMALL, [differing(8)] * 5, sites=["mlp_out"], batch_rows=3)
    assert max((c.hi - c.lo) * len(c.slots) for tile in plan.tiles for c in tile.chunks) == 3


def test_causal_reuse_and_suffixes_make_a_quarter_of_the_work_of_full_forwards() -> None:
    plan = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], targets_only=True)
    assert plan.cells == 192
    assert 5 < plan.naive_flops / plan.flops < 6
    slower = make_plan(
        GPT2_SMALL, [differing(16)], sites=["resid_pre"], targets_only=True,
        optimise=Optimise(causal=False),
    )  # fmt: skip
    assert slower.flops > 1.7 * plan.flops


def test_sites_that_share_their_boundary_are_paid_once() -> None:
    one = make_plan(GPT2_SMALL, [differing(8)], sites=["resid_post"])
    both = make_plan(GPT2_SMALL, [differing(8)], sites=["resid_post", "resid_mid"])
    assert both.flops == one.flops
    zeros = make_plan(GPT2_SMALL, [differing(8)], sites=["resid_post", "resid_mid"], source="zero")
    assert zeros.flops > 1.5 * one.flops
    assert both.cells == 2 * one.cells


def test_the_plan_explains_itself() -> None:
    text = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], targets_only=True).explain()
    assert "192 cells (resid_pre: 12 layers × 16 positions, 1 pair) in 12 tiles and 2 batches" in text
    assert "packed rows, only at positions they can change" in text
    assert "GFLOP at least" in text
    assert "GFLOP planned" in text
    assert "suffix, causal, known, last_token, columns, batching" in text


def test_a_site_that_cannot_be_patched_lists_those_that_can() -> None:
    with pytest.raises(SiteError, match=r"'resid' cannot be patched.*resid_pre, resid_mid"):
        make_plan(GPT2_SMALL, [differing(4)], sites=["resid"])
    with pytest.raises(SiteError, match="mlp_out has no head axis"):
        make_plan(GPT2_SMALL, [differing(4)], sites=["mlp_out"], over=("layer", "head"))


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(SpecError, match="no prompt pairs"):
        make_plan(GPT2_SMALL, [], sites=["z"])


def test_a_marked_region_comes_first_and_changes_neither_tiles_nor_batches() -> None:
    plain = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"])
    marked = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], first=(range(5, 8), None))
    assert {tile.layer for tile in marked.tiles[:3]} == {5, 6, 7}
    assert set(marked.tiles) == set(plain.tiles)
    assert marked.bundles == plain.bundles


@pytest.mark.parametrize(
    ("site", "over", "options", "shape"),
    [
        ("resid_pre", ("layer", "position"), {}, (12, 9)),
        ("z", ("layer", "head"), {}, (12, 12)),
        ("z", ("layer", "head", "position"), {}, (144, 9)),
        ("neurons", ("layer", "neuron"), {}, (12, 3072)),
        ("resid_pre", ("layer",), {}, (12, 1)),
        ("resid_pre", ("position",), {"layers": [3, 4]}, (1, 9)),
        ("z", ("head", "position"), {"layers": -1, "heads": [2, 5]}, (2, 9)),
        ("resid_pre", ("example", "layer"), {}, (3, 12)),
        ("resid_pre", ("example", "position"), {"layers": 4}, (3, 9)),
        ("z", ("example", "layer", "head"), {"layers": [0, 1]}, (6, 12)),
        ("attn_out", ("layer", "span"), {}, (12, 2)),
    ],
)
def test_the_tiles_of_every_map_cover_it_once(
    site: str, over: tuple[str, ...], options: dict[str, Any], shape: tuple[int, int]
) -> None:
    spans = (("A", 1, 2), ("B", 3, 5))
    pairs = [replace(differing(length), spans=spans) for length in (7, 9, 9)]
    plan = make_plan(GPT2_SMALL, pairs, sites=[site], over=over, **options)
    assert plan.shape(site) == shape
    assert plan.cells == shape[0] * shape[1]
    filled = np.zeros(shape, int)
    for tile in plan.tiles:
        filled[tile.r0 : tile.r0 + tile.rows, tile.c0 : tile.c0 + tile.columns] += 1
    assert (filled == 1).all()


def test_a_neuron_sweep_has_large_batches_and_no_more_tiles_than_a_map_can_show() -> None:
    plan = make_plan(GPT2_SMALL, [differing(16)], sites=["neurons"], over=("layer", "neuron"), targets_only=True)
    assert plan.cells == 36_864
    assert len(plan.tiles) <= packing.MOST_TILES + 3 * 12
    rows = [len(chunk.slots) for bundle in plan.bundles for chunk in bundle[0].chunks]
    assert sum(rows) / len(rows) > 60
    larger = make_plan(
        GPT2_SMALL, [differing(16)], sites=["neurons"], over=("layer", "neuron"), targets_only=True,
        tokens_a_batch=2**16,
    )  # fmt: skip
    assert sum(len(bundle[0].chunks) for bundle in larger.bundles) < len(rows) / 4


def test_spans_at_other_places_are_other_groups() -> None:
    pairs = [Lengths(6, (True,) * 6, spans=(("A", start, start + 1),)) for start in (1, 2, 1)]
    assert [group.pairs for group in make_plan(GPT2_SMALL, pairs, sites=["z"], over=("layer", "span")).groups] == [
        (0, 2), (1,),
    ]  # fmt: skip
    assert len(make_plan(GPT2_SMALL, pairs, sites=["z"]).groups) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"over": ("position",)}, SpecError, "does not say which layers"),
        ({"over": ("layer", "depth")}, SpecError, '"depth"'),
        ({"over": ("position", "layer"), "layers": 1}, SpecError, r'Write over=\("layer", "position"\)'),
        ({"over": ("layer", "layer")}, SpecError, "each once"),
        ({"over": ("layer", "position", "span")}, SpecError, "positions and spans at once"),
        ({"over": ("layer", "span")}, SpecError, "no named spans"),
        ({"over": ("layer",), "spans": "IO"}, SpecError, "No prompt pair has a span 'IO'"),
        ({"spans": "IO"}, SpecError, "has all of them"),
        ({"layers": [12]}, SiteError, "no layer 12"),
        ({"layers": [1, -11]}, SpecError, "named twice"),
        ({"sites": ["z"], "heads": [12]}, SiteError, "no head 12"),
        ({"heads": [1]}, SiteError, "resid_pre has no head axis"),
        ({"over": ("layer", "neuron")}, SiteError, "resid_pre has no neuron axis"),
        ({"sites": ["mixer_out"]}, SiteError, "'mixer_out' cannot be patched on the family gpt2"),
    ],
)
def test_axes_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_plan(GPT2_SMALL, [differing(4)], **{"sites": ["resid_pre"], **options})
