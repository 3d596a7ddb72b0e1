"""The experiment: what it says in which order, what it costs, what it refuses, and that resuming loses nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from pydantic import ValidationError

from tests import tiny
from tracing.errors import MetricError, PromptError, SiteError, SpecError
from tracing.experiments import get
from tracing.experiments.activation_patching import ActivationPatchingSpec
from tracing.experiments.events import Event, Log, PanelOpened, Progress, Result, Tile
from tracing.experiments.registry import PromptFacts
from tracing.families import model_facts
from tracing.models import LanguageModel
from tracing.prompts import PromptPair
from tracing.results import Grid

T = TypeVar("T")
METHOD = get("activation_patching")
FACTS = model_facts(tiny.CONFIG)


class Context:
    """A worker's context: remembers stored tiles, stops after some questions."""

    def __init__(self, stored: Sequence[Tile] = (), stop_after: int = 10**9) -> None:
        self.stored, self.left = stored, stop_after

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0

    def stored_tiles(self, panel: int) -> list[Tile]:
        return [tile for tile in self.stored if tile.panel == panel]

    def save_array(self, name: str, array: np.ndarray) -> None:
        raise AssertionError("this method keeps no extra arrays")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return LanguageModel(tiny_folder)


def run(model: LanguageModel, context: Context | None = None, pairs: Any = None, **params: Any) -> list[Event]:
    spec = ActivationPatchingSpec(**params)
    return list(METHOD.run(spec, model, pairs or tiny.pairs(3), context or Context()))


def of(events: Sequence[Event], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


def test_panels_come_before_tiles_and_results_last(model: LanguageModel) -> None:
    events = run(model, sites=("resid_pre", "z"))
    kinds = [event.kind for event in events]
    assert kinds[0] == "progress"
    assert kinds.index("tile") > max(n for n, kind in enumerate(kinds) if kind == "panel")
    assert kinds[-2:] == ["result", "result"]
    assert [opened.panel.name for opened in of(events, PanelOpened)] == ["resid_pre", "z"]
    assert of(events, Progress)[0].stage == "baselines"


def test_tiles_fill_every_cell_of_every_panel_once(model: LanguageModel) -> None:
    events = run(model, sites=("resid_pre", "mlp_out"))
    filled = np.zeros((2, 3, 13), int)
    for tile in of(events, Tile):
        planes, height, width = tile.values.shape
        assert planes == 2
        filled[tile.panel, tile.r0 : tile.r0 + height, tile.c0 : tile.c0 + width] += 1
    assert (filled == 1).all()
    last = of(events, Progress)[-1]
    assert (last.done, last.total) == (78, 78)


def test_a_panel_knows_its_baselines_and_domains_before_the_first_cell(model: LanguageModel) -> None:
    opened = of(run(model), PanelOpened)[0].panel
    clean, corrupted = opened.facts["clean"], opened.facts["corrupted"]
    recovery, raw = opened.quantities
    assert (recovery.key, recovery.domain, recovery.anchors) == (
        "recovery", (-1.0, 1.0), {"0": "corrupted run", "1": "clean run"},
    )  # fmt: skip
    assert raw.domain[1] == -raw.domain[0] == pytest.approx(1.25 * max(abs(clean), abs(corrupted)))
    assert opened.columns.ticks[1].label.strip() in tiny.NAMES
    assert opened.facts["direction"] == "denoising"


def test_the_plan_is_in_the_log(model: LanguageModel) -> None:
    assert any("39 cells" in log.message for log in of(run(model), Log))


def test_results_are_grids_with_a_summary(model: LanguageModel) -> None:
    result = of(run(model), Result)[0]
    grid = Grid.from_parts(result.data, result.arrays)
    assert grid.raw.shape == (3, 13)
    assert grid.examples.shape == (3, 3, 13)
    assert result.summary["clean"] == pytest.approx(float(grid.clean.mean()))
    best = result.summary["best"]
    assert best["value"] == pytest.approx(float(grid.recovery[best["layer"], best["position"]]))


def test_a_resumed_run_gives_the_bits_of_an_undisturbed_one(model: LanguageModel) -> None:
    undisturbed = run(model, sites=("resid_pre", "attn_out"))
    stopped = run(model, Context(stop_after=2 + 2), sites=("resid_pre", "attn_out"))
    assert of(stopped, Result) == []
    stored = of(stopped, Tile)
    assert 0 < len(stored) < len(of(undisturbed, Tile))
    resumed = run(model, Context(stored), sites=("resid_pre", "attn_out"))
    assert len(of(resumed, Tile)) == len(of(undisturbed, Tile)) - len(stored)
    for one, other in zip(of(resumed, Result), of(undisturbed, Result), strict=True):
        assert one.summary == other.summary
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(array, other.arrays[name])


def test_a_cancelled_run_ends_before_its_panels_where_the_baselines_are_not_done(model: LanguageModel) -> None:
    events = run(model, Context(stop_after=1))
    assert [event.kind for event in events] == ["progress"]


def test_stored_tiles_of_another_cut_are_computed_again(model: LanguageModel) -> None:
    undisturbed = run(model)
    first, *rest = of(undisturbed, Tile)
    assert first.examples is not None
    narrow = Tile(first.panel, first.r0, first.c0, first.values[:, :, :5], first.examples[:, :, :5])
    shifted = Tile(first.panel, first.r0, 2, first.values[:, :, 2:7] * 0, first.examples[:, :, 2:7] * 0)
    resumed = run(model, Context([narrow, shifted, *rest]))
    [again] = of(resumed, Tile)
    np.testing.assert_array_equal(again.values, first.values)
    for name, array in of(resumed, Result)[0].arrays.items():
        np.testing.assert_array_equal(array, of(undisturbed, Result)[0].arrays[name])


def test_cost_knows_the_bytes_that_a_run_keeps_and_a_server_may_refuse_them() -> None:
    small, many = PromptFacts((16,) * 10), PromptFacts((16,) * 10_000)
    one, other = (METHOD.cost(ActivationPatchingSpec(), FACTS, prompts).bytes for prompts in (small, many))
    assert other == 1000 * one > 0
    assert METHOD.cost(ActivationPatchingSpec(dtype="float64"), FACTS, small).bytes == 2 * one
    cost = METHOD.cost(ActivationPatchingSpec(), FACTS, many)
    cost.require_below(other, many)
    with pytest.raises(SpecError, match=r"10000 prompt pairs of up to 16 tokens.*allows 0.00 GiB\. Use fewer"):
        cost.require_below(2**20, many)


def test_gpt2_small_with_ten_thousand_pairs_exceeds_eight_gib() -> None:
    sizes = {"n_layers": 12, "n_heads": 12, "n_kv_heads": 12, "d_model": 768, "d_head": 64, "d_mlp": 3072}
    facts = replace(FACTS, **sizes, vocab_size=50257, max_positions=1024)
    size = METHOD.cost(ActivationPatchingSpec(), facts, PromptFacts((16,) * 10_000)).bytes
    assert 20 * 2**30 < size < 25 * 2**30


def test_equal_baselines_warn_and_leave_recovery_unknown(model: LanguageModel) -> None:
    events = run(model, metric="accuracy")
    assert any(log.level == "warning" and "too close" in log.message for log in of(events, Log))
    assert of(events, Result)[0].summary["best"] is None


def test_cost_counts_cells_and_is_below_one_forward_a_cell() -> None:
    spec = ActivationPatchingSpec(sites=("resid_pre", "resid_mid"))
    cost = METHOD.cost(spec, FACTS, PromptFacts((10, 10, 8)))
    assert cost.cells == 2 * 3 * 10
    assert 0 < cost.flops < cost.naive_flops / 3


def test_cost_is_the_plan_of_the_run_where_differences_are_known(model: LanguageModel) -> None:
    events = run(model)
    cost = METHOD.cost(ActivationPatchingSpec(), model.facts, PromptFacts((13, 13, 13), (8, 8, 8)))
    unknown = METHOD.cost(ActivationPatchingSpec(), model.facts, PromptFacts((13, 13, 13)))
    assert cost.cells == sum(tile.values[0].size for tile in of(events, Tile))
    assert cost.flops < unknown.flops


def test_a_head_map_is_of_z_only() -> None:
    with pytest.raises(ValidationError, match="resid_pre has no head axis"):
        ActivationPatchingSpec(sites=("z", "resid_pre"), over="layer_head")


def test_a_site_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        ActivationPatchingSpec(sites=("z", "z"))


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(ValidationError, match="sites"):
        ActivationPatchingSpec(sites=("hidden",))


def test_a_site_the_family_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracing.experiments.activation_patching.sites_of_family", lambda _: ("resid_pre",))
    with pytest.raises(SiteError, match="family gpt2 has no site resid_mid"):
        ActivationPatchingSpec(sites=("resid_mid",)).check_model(FACTS)
    ActivationPatchingSpec().check_model(FACTS)


def test_a_missing_foil_is_found_before_queueing_and_when_running(model: LanguageModel) -> None:
    bare = [pair.model_copy(update={"foil": ()}) for pair in tiny.pairs(2)]
    with pytest.raises(PromptError, match=r"Pair 1: the metric logit_diff compares.*\(1 more problem\.\)"):
        ActivationPatchingSpec().check_pairs(bare)
    with pytest.raises(PromptError, match="Pair 1: the metric logit_diff"):
        run(model, pairs=bare)
    ActivationPatchingSpec(metric="prob").check_pairs(bare)


def test_a_misaligned_pair_ends_the_run_with_its_number(model: LanguageModel) -> None:
    pairs = [*tiny.pairs(1), PromptPair(clean="Mary saw", corrupted="Mary saw John", answer="a", foil="the")]
    with pytest.raises(PromptError, match="Pair 2: clean has 2 tokens, corrupted has 3"):
        run(model, pairs=pairs)


def test_weights_that_give_no_number_end_the_run_with_the_pair(tiny_folder: Path) -> None:
    model = LanguageModel(tiny_folder)
    model.module.lm_head.weight[:] = float("nan")
    with pytest.raises(
        MetricError, match=r"'logit_diff' is not a number for pair 1 \(the clean prompt\), and for 2 more"
    ):
        run(model)


# -- axes, sources, regions -------------------------------------------------------------------------------------------
def test_a_spec_of_an_earlier_version_means_what_it_meant() -> None:
    old = {
        "seed": 0, "sites": ["z"], "over": "layer_head", "direction": "noising", "metric": "prob", "positions": "start",
        "dtype": "float32", "batch_rows": 8,
    }  # fmt: skip
    now = ActivationPatchingSpec.model_validate(old).model_dump(mode="json")
    assert {name: now[name] for name in old} == old
    assert {name: now[name] for name in now.keys() - old.keys()} == {
        "source": "interchange", "layers": [], "heads": [], "region": None, "mean_over": "position", "noise_scale": 3.0,
    }  # fmt: skip


SPECS: list[dict[str, Any]] = [
    {},
    {"sites": ("z", "k"), "over": "layer_head_position", "layers": (1, 2)},
    {"sites": ("neurons",), "over": "layer_neuron", "layers": (0,)},
    {"over": "layer", "source": "zero", "direction": "noising"},
    {"over": "example_layer", "source": "mean", "mean_over": "all"},
    {"sites": ("pattern",), "over": "head_position", "layers": (0, 1), "heads": (1,)},
    {"source": "resample", "seed": 4, "positions": "start", "batch_rows": 5},
    {"source": "noise", "noise_scale": 2.0, "region": (1, 1, 3, 5)},
]


@pytest.mark.parametrize("params", SPECS, ids=str)
def test_the_call_gives_the_numbers_of_the_run(model: LanguageModel, params: dict[str, Any]) -> None:
    pairs = tiny.pairs(3)
    names: dict[str, Any] = {"model": model, "pairs": pairs}
    exec(METHOD.call(ActivationPatchingSpec(**params)), names)
    found = {result.name: Grid.from_parts(result.data, result.arrays) for result in of(run(model, **params), Result)}
    assert found.keys() == names["results"].keys()
    for name, grid in names["results"].items():
        assert grid.facts == found[name].facts
        for key, plane in grid.planes.items():
            np.testing.assert_array_equal(plane, found[name].planes[key], err_msg=key)


@pytest.mark.parametrize("params", SPECS, ids=str)
def test_cost_counts_the_cells_of_every_map(model: LanguageModel, params: dict[str, Any]) -> None:
    cost = METHOD.cost(ActivationPatchingSpec(**params), model.facts, PromptFacts((13, 13, 13), (8, 8, 8)))
    assert cost.cells == sum(tile.values[0].size for tile in of(run(model, **params), Tile))
    assert cost.launches > 0


def test_spans_become_columns(model: LanguageModel) -> None:
    pairs = [pair.model_copy(update={"spans": (("second", (1, 3)), ("END", -1))}) for pair in tiny.pairs(2)]
    [result] = of(run(model, pairs=pairs, over="layer_span"), Result)
    assert [tick["label"] for tick in result.data["columns"]["ticks"]] == ["second", "END"]
    with pytest.raises(PromptError, match="Pair 1: it has no named spans"):
        ActivationPatchingSpec(over="layer_span").check_pairs(tiny.pairs(2))
    assert METHOD.cost(ActivationPatchingSpec(over="layer_span"), FACTS, PromptFacts((9, 9))).cells > 0


def test_a_region_is_filled_first(model: LanguageModel) -> None:
    first = of(run(model, region=(1, 1, 0, 12)), Tile)[0]
    assert first.r0 == 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"over": "head_position", "sites": ("z",)}, "needs `layers`"),
        ({"over": "layer_neuron"}, "resid_pre has no neuron axis"),
        ({"heads": (1,)}, "resid_pre has no head axis"),
        ({"layers": (1, 1)}, "named twice in `layers`"),
        ({"sites": ("pattern",), "source": "noise"}, "A pattern can be replaced"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ActivationPatchingSpec(**params)


def test_a_layer_or_head_that_the_model_lacks_is_refused_before_queueing() -> None:
    with pytest.raises(SiteError, match="no layer 40"):
        ActivationPatchingSpec(layers=(40,)).check_model(FACTS)
    with pytest.raises(SiteError, match="no head 40"):
        ActivationPatchingSpec(sites=("z",), heads=(40,)).check_model(FACTS)
