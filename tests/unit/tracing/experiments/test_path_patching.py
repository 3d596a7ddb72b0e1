"""Path patching as an experiment: events in order, numbers as of the library, refusals, resuming, costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests import tiny
from tracing.errors import PromptError, SiteError, SpecError
from tracing.events import Event, PanelOpened, Progress, Result, Tile
from tracing.experiments import get
from tracing.experiments.registry import PromptFacts
from tracing.families import model_facts
from tracing.models import LanguageModel
from tracing.patching.paths import path_patching
from tracing.results import Grid

METHOD = get("path_patching")
FACTS = model_facts(tiny.CONFIG)


class Context:
    """Remembers stored tiles, stops after some questions."""

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


def run(model: LanguageModel, context: Context | None = None, **params: Any) -> list[Event]:
    return list(METHOD.run(METHOD.spec(**params), model, tiny.pairs(3), context or Context()))


def grid_of(events: Sequence[Event]) -> Grid:
    [result] = [event for event in events if isinstance(event, Result)]
    return Grid.from_parts(result.data, result.arrays)


def test_rows_come_coarse_first_then_the_grid_of_the_library(model: LanguageModel) -> None:
    events = run(model, receivers=["a2.h1<k>"], mlps="live", senders="heads and mlps")
    kinds = [event.kind for event in events]
    assert kinds[0] == "progress"
    assert kinds.index("panel") < kinds.index("tile")
    assert kinds[-1] == "result"
    assert [tile.r0 for tile in events if isinstance(tile, Tile)] == [0, 2, 1]
    last = [event for event in events if isinstance(event, Progress)][-1]
    columns = FACTS.n_heads + 1
    assert (last.done, last.total) == (3 * columns, 3 * columns)
    found = grid_of(events)
    names = [f"a{layer}.h{head}" for layer in range(3) for head in range(FACTS.n_heads)] + ["m0", "m1", "m2"]
    expected = path_patching(model, tiny.pairs(3), "logit_diff", names, ["a2.h1<k>"], mlps="live")
    np.testing.assert_array_equal(found.planes["effect"], expected.planes["effect"])
    np.testing.assert_array_equal(found.examples, expected.examples)
    assert found.columns.ticks[-1].label == "MLP"


def test_the_panel_knows_receivers_baselines_and_domains_before_the_first_row(model: LanguageModel) -> None:
    events = run(model)
    [opened] = [event.panel for event in events if isinstance(event, PanelOpened)]
    assert opened.facts["receivers"] == ["logits"]
    assert opened.title == "What each sender changes directly in logits"
    effect, raw = opened.quantities
    assert (effect.key, effect.domain) == ("effect", (-1.0, 1.0))
    assert effect.anchors == {"0": "unpatched run", "1": "corrupted run"}
    assert raw.domain[1] >= max(abs(opened.facts["clean"]), abs(opened.facts["corrupted"]))


def test_a_resumed_run_computes_only_the_missing_rows_and_gives_the_same_numbers(model: LanguageModel) -> None:
    whole = run(model)
    stored = [event for event in whole if isinstance(event, Tile)][:2]
    resumed = run(model, Context(stored))
    assert len([event for event in resumed if isinstance(event, Tile)]) == 1
    np.testing.assert_array_equal(grid_of(resumed).planes["effect"], grid_of(whole).planes["effect"])


def test_a_stopped_run_has_no_result(model: LanguageModel) -> None:
    for after in (0, 1, 2):
        events = run(model, Context(stop_after=after))
        assert not [event for event in events if isinstance(event, Result)]


def test_receivers_may_be_one_text() -> None:
    assert METHOD.spec(receivers="a1.h2<q>, m2").receivers == ("a1.h2<q>", "m2")
    with pytest.raises(ValidationError):
        METHOD.spec(receivers="")


def test_what_cannot_run_is_refused_before_it_is_queued() -> None:
    with pytest.raises(SiteError, match=r"There is no reader 'a9\.h1<q>'"):
        METHOD.spec(receivers=["a9.h1<q>"]).check_model(FACTS)
    with pytest.raises(SpecError, match="The logits read what every other receiver writes"):
        METHOD.spec(receivers=["m1", "logits"]).check_model(FACTS)
    bert = model_facts(
        {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9,
         "max_position_embeddings": 9}
    )  # fmt: skip
    with pytest.raises(SiteError, match="norms the residual stream after every sum"):
        METHOD.spec().check_model(bert)
    with pytest.raises(PromptError, match="Resampling takes values from another pair"):
        METHOD.spec(ablation="resample").check_pairs(tiny.pairs(1))


def test_costs_grow_with_senders_and_their_way_and_stay_below_whole_forwards() -> None:
    prompts = PromptFacts((12,) * 8)
    near, far = (METHOD.cost(METHOD.spec(receivers=[name]), FACTS, prompts) for name in ("logits", "a1.h0<q>"))
    assert near.flops < far.flops < far.naive_flops, "a receiver early in the model leaves more to run again"
    assert near.cells == far.cells == 3 * FACTS.n_heads
    live = METHOD.cost(METHOD.spec(mlps="live"), FACTS, prompts)
    assert live.flops > near.flops
    assert live.launches > near.launches
    assert METHOD.cost(METHOD.spec(dtype="float64"), FACTS, prompts).bytes == 2 * near.bytes > 0
