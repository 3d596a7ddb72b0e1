"""Plans: every cell exactly once, in a fixed order, whatever the batch size; costs that add up. No model runs."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.errors import SiteError, SpecError
from tracing.families import model_facts
from tracing.patching import Optimise, make_plan
from tracing.patching import plan as planning
from tracing.patching.plan import POSITION_SITES, Lengths, cannot_matter

GPT2_SMALL = model_facts(
    {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
)


def differing(length: int, first: int = 0) -> Lengths:
    """A pair that differs from `first` on."""
    return Lengths(length, tuple(t >= first for t in range(length)))


@st.composite
def pair_lengths(draw: st.DrawFn) -> Lengths:
    differs = draw(st.lists(st.booleans(), min_size=1, max_size=9).filter(any))
    return Lengths(len(differs), tuple(differs))


@given(
    pairs=st.lists(pair_lengths(), min_size=1, max_size=6),
    site=st.sampled_from(sorted(POSITION_SITES)),
    from_end=st.booleans(),
    batch=st.none() | st.integers(1, 40),
    budget=st.sampled_from([1e8, 4e10]),
)
def test_every_cell_that_can_matter_runs_once_and_no_other(
    pairs: list[Lengths], site: str, from_end: bool, batch: int | None, budget: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "TILE_FLOPS", budget)
        plan = make_plan(GPT2_SMALL, pairs, sites=[site], per_head=False, from_end=from_end, batch_rows=batch)
    run: Counter[tuple[int, int, int]] = Counter()
    for tile in plan.tiles:
        for chunk in tile.chunks:
            group = plan.groups[chunk.group]
            for column in chunk.columns:
                assert tile.c0 <= column < tile.c1
                run.update(
                    (tile.layer, pair, plan.position(group, column)) for pair in group.pairs[chunk.lo : chunk.hi]
                )
    assert set(run.values()) <= {1}
    kind, offset = POSITION_SITES[site]
    for number, pair in enumerate(pairs):
        for layer in range(12):
            for position in range(pair.length):
                if not cannot_matter(12, pair.differs, kind, layer + offset, position):
                    assert run[layer, number, position] == 1
    assert all(0 <= position < pairs[pair].length for _, pair, position in run)


@given(pairs=st.lists(pair_lengths(), min_size=1, max_size=6), batch=st.integers(1, 40))
def test_tiles_and_their_order_do_not_depend_on_the_batch_size(pairs: list[Lengths], batch: int) -> None:
    def places(batch_rows: int | None) -> list[tuple[int, int, int, int]]:
        plan = make_plan(GPT2_SMALL, pairs, sites=["resid_pre", "z"], per_head=False, batch_rows=batch_rows)
        return [(tile.panel, tile.layer, tile.c0, tile.c1) for tile in plan.tiles]

    assert places(batch) == places(None)


def test_tiles_of_a_panel_cover_it_without_overlap() -> None:
    plan = make_plan(GPT2_SMALL, [differing(64)] * 40, sites=["resid_pre"], per_head=False)
    covered = Counter((tile.layer, column) for tile in plan.tiles for column in range(tile.c0, tile.c1))
    assert len(plan.tiles) > 12
    assert covered == Counter((layer, column) for layer in range(12) for column in range(64))


def test_every_fourth_layer_of_every_site_comes_first() -> None:
    plan = make_plan(GPT2_SMALL, [differing(6)], sites=["resid_pre", "z"], per_head=False)
    order = [(tile.layer, tile.panel) for tile in plan.tiles]
    assert order[:6] == [(0, 0), (4, 0), (8, 0), (0, 1), (4, 1), (8, 1)]
    assert [layer for layer, panel in order if panel == 0] == [0, 4, 8, 2, 6, 10, 1, 3, 5, 7, 9, 11]


@given(pairs=st.lists(pair_lengths(), min_size=1, max_size=6), batch=st.none() | st.integers(1, 40))
def test_every_number_is_computed_in_one_bundle(pairs: list[Lengths], batch: int | None) -> None:
    sites = ["resid_pre", "resid_mid", "attn_out", "z"]
    plan = make_plan(GPT2_SMALL, pairs, sites=sites, per_head=False, batch_rows=batch)
    keys = Counter(tile.key for bundle in plan.bundles for tile in bundle)
    assert set(keys.values()) == {1}
    assert keys.keys() == {tile.key for tile in plan.tiles}
    for bundle in plan.bundles:
        assert len({tile.chunks for tile in bundle}) == 1
        rows = len(bundle) * sum((c.hi - c.lo) * len(c.columns) for c in bundle[0].chunks)
        assert len(bundle) == 1 or batch is None or rows <= batch


def test_small_batches_of_several_layers_run_as_one() -> None:
    one = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], per_head=False, targets_only=True)
    assert [[tile.layer for tile in bundle] for bundle in one.bundles] == [[0, 4, 8], [2, 6, 10], [1, 3, 5, 7, 9, 11]]
    many = make_plan(GPT2_SMALL, [differing(16)] * 40, sites=["resid_pre"], per_head=False, targets_only=True)
    assert {len(bundle) for bundle in many.bundles} == {1}


def test_a_batch_stays_within_the_rows_asked_for() -> None:
    plan = make_plan(GPT2_SMALL, [differing(8)] * 5, sites=["mlp_out"], per_head=False, batch_rows=3)
    assert max((c.hi - c.lo) * len(c.columns) for tile in plan.tiles for c in tile.chunks) == 3


def test_causal_reuse_and_suffixes_make_a_quarter_of_the_work_of_full_forwards() -> None:
    plan = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], per_head=False, targets_only=True)
    assert plan.cells == 192
    assert 5 < plan.naive_flops / plan.flops < 6
    slower = make_plan(
        GPT2_SMALL, [differing(16)], sites=["resid_pre"], per_head=False, targets_only=True,
        optimise=Optimise(causal=False),
    )  # fmt: skip
    assert slower.flops > 1.7 * plan.flops


def test_sites_that_share_their_boundary_are_paid_once() -> None:
    one = make_plan(GPT2_SMALL, [differing(8)], sites=["resid_post"], per_head=False)
    both = make_plan(GPT2_SMALL, [differing(8)], sites=["resid_post", "resid_mid"], per_head=False)
    assert both.flops == one.flops
    assert both.cells == 2 * one.cells


def test_the_plan_explains_itself() -> None:
    text = make_plan(GPT2_SMALL, [differing(16)], sites=["resid_pre"], per_head=False, targets_only=True).explain()
    assert "192 cells (resid_pre: 12 layers × 16 positions, 1 pairs) in 12 tiles" in text
    assert "GFLOP planned" in text
    assert "suffix, causal, known, last_token, columns, batching" in text


def test_a_site_that_cannot_be_patched_lists_those_that_can() -> None:
    with pytest.raises(SiteError, match=r"'resid'.*resid_pre, resid_mid"):
        make_plan(GPT2_SMALL, [differing(4)], sites=["resid"], per_head=False)
    with pytest.raises(SiteError, match="mlp_out has no head axis"):
        make_plan(GPT2_SMALL, [differing(4)], sites=["mlp_out"], per_head=True)


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(SpecError, match="no prompt pairs"):
        make_plan(GPT2_SMALL, [], sites=["z"], per_head=False)
