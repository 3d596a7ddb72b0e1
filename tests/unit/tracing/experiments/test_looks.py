"""The looks as experiments: typed results at their end, calls that give the same numbers, and stops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from docs.tools.running import Session
from tests import tiny
from tracing.errors import PromptError, SiteError, SpecError
from tracing.events import Event, PanelOpened, Progress, Result, Tile
from tracing.experiments import get
from tracing.experiments.registry import PromptFacts
from tracing.families import model_facts
from tracing.models import LanguageModel
from tracing.results import Grid, from_parts

FACTS = model_facts(tiny.CONFIG)
CASES: dict[str, dict[str, Any]] = {
    "logit_lens": {"top": 2, "tables": 2},
    "direct_logit_attribution": {"by": "head"},
    "attention_patterns": {"prompts": 2},
    "head_detectors": {"length": 8, "count": 3},
    "steering": {"texts": 2, "max_new_tokens": 3, "scales": 3},
}
MORE: list[tuple[str, dict[str, Any]]] = [
    *CASES.items(),
    ("logit_lens", {"site": "mlp_out", "tables": 0, "at": "answer", "prompt": "corrupted", "metric": "kl_divergence"}),
    ("direct_logit_attribution", {"by": "neuron", "top": 3, "metric": "logit"}),
    ("direct_logit_attribution", {"by": "component"}),
    ("attention_patterns", {"prompt": "corrupted", "value_weighted": False}),
    ("head_detectors", {"tokens": "prompts", "kinds": ("copying", "induction"), "measure": "mul"}),
    ("steering", {"hold_out": True, "unit": True, "texts": 0, "positions": "generated", "layer": 2}),
]


class Context:
    """A worker's context that stops after some questions."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.left, self.saved = stop_after, []

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0

    def stored_tiles(self, panel: int) -> list[Tile]:
        return []

    def save_array(self, name: str, array: Any) -> None:
        self.saved.append(name)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return LanguageModel(tiny_folder)


def run(name: str, model: LanguageModel, params: dict[str, Any], context: Context | None = None) -> list[Event]:
    method = get(name)
    return list(method.run(method.spec(**params), model, tiny.pairs(4), context or Context()))


@pytest.mark.parametrize(("name", "params"), MORE, ids=[f"{name}-{n}" for n, (name, _) in enumerate(MORE)])
def test_the_call_of_a_spec_gives_the_numbers_of_its_run(
    name: str, params: dict[str, Any], model: LanguageModel
) -> None:
    method = get(name)
    events = [event for event in run(name, model, params) if isinstance(event, Result)]
    with Session("call.py") as session:
        session.module.__dict__.update(model=model, pairs=tiny.pairs(4))
        session.run(method.call(method.spec(**params)))
        results = session.module.__dict__["results"]
    assert list(results) == [event.name for event in events]
    for event in events:
        again = from_parts(event.data, event.arrays)
        assert again.data() == results[event.name].data()
        for key, array in results[event.name].arrays().items():
            np.testing.assert_array_equal(array, event.arrays[key])


@pytest.mark.parametrize("name", ["logit_lens", "direct_logit_attribution", "head_detectors"])
def test_maps_are_open_while_they_run_and_end_as_the_result(name: str, model: LanguageModel) -> None:
    events = run(name, model, CASES[name])
    panels = [event.panel for event in events if isinstance(event, PanelOpened)]
    last = {event.panel: event for event in events if isinstance(event, Tile)}
    grids = {event.name: event for event in events if isinstance(event, Result) and event.type == "grid/1"}
    assert [panel.name for panel in panels] == list(grids)
    for index, panel in enumerate(panels):
        grid = Grid.from_parts(grids[panel.name].data, grids[panel.name].arrays)
        for plane, quantity in zip(last[index].values, panel.quantities, strict=True):
            np.testing.assert_array_equal(plane, grid.planes[quantity.key].astype(np.float32))
    cost = get(name).cost(get(name).spec(**CASES[name]), FACTS, PromptFacts((13,) * 4))
    assert cost.cells == sum(len(panel.rows) * len(panel.columns) for panel in panels)


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_look_has_no_results(name: str, model: LanguageModel) -> None:
    events = run(name, model, CASES[name], Context(stop_after=0))
    assert [event for event in events if isinstance(event, Result)] == []


@pytest.mark.parametrize("name", CASES)
def test_progress_ends_where_it_should(name: str, model: LanguageModel) -> None:
    last = [event for event in run(name, model, CASES[name]) if isinstance(event, Progress)][-1]
    assert 0 < last.done == last.total


@pytest.mark.parametrize("name", CASES)
def test_costs_are_known_without_a_model_and_grow_with_the_set(name: str) -> None:
    method = get(name)
    small, large = (method.cost(method.spec(**CASES[name]), FACTS, PromptFacts((13,) * count)) for count in (2, 20_000))
    assert 0 < small.flops <= small.naive_flops
    assert 0 < small.launches <= large.launches
    assert method.help.count("When not to trust it:") == 1
    assert "Source" in method.help


def test_a_steering_run_keeps_its_vector(model: LanguageModel) -> None:
    context = Context()
    run("steering", model, CASES["steering"], context)
    assert context.saved == ["steering_vector_resid_pre_1"]


def test_specs_refuse_what_cannot_be() -> None:
    mamba = model_facts({"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9})
    for name, params in (("head_detectors", {}), ("attention_patterns", {}), ("direct_logit_attribution", {})):
        with pytest.raises(SiteError, match="The family mamba has no site"):
            get(name).spec(**params).check_model(mamba)
    with pytest.raises(SpecError, match="2 times 40 tokens are more than the 64"):
        get("head_detectors").spec(length=40).check_model(FACTS)
    with pytest.raises(SpecError, match="There is no layer 3: the model has 3"):
        get("steering").spec(layer=3).check_model(FACTS)
    with pytest.raises(PromptError, match="no half to hold out"):
        get("steering").spec(hold_out=True).check_pairs(tiny.pairs(1))
    with pytest.raises(ValidationError, match="below"):
        get("steering").spec(scale_from=2, scale_to=1)
    with pytest.raises(ValidationError, match="named twice"):
        get("head_detectors").spec(kinds=("induction", "induction"))
