"""Edge attribution as an experiment: the map while it runs, results that its call gives again, cost, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from docs.tools.running import Session
from tests import tiny
from tests.unit.tracing.experiments.test_looks import Context
from tracing.circuits.attribution import edge_attribution
from tracing.errors import PromptError, SiteError
from tracing.events import Event, PanelOpened, Progress, Result, Tile
from tracing.experiments import get
from tracing.experiments.registry import PromptFacts
from tracing.families import model_facts
from tracing.models import LanguageModel
from tracing.prompts import PromptPair
from tracing.results import Bars, Certificate, EdgeScores, from_parts

FACTS = model_facts(tiny.CONFIG)
METHOD = get("edge_attribution")
CASES: list[dict[str, Any]] = [
    {"check": 12},
    {"method": "eap", "check": 0, "spans": "position", "batch_pairs": 1},
    {"method": "eap", "check": 8, "direction": "denoising", "source": "mean", "spans": "named", "seed": 3},
    {"method": "eap-ig-activations", "steps": 2, "check": 0, "rule": "midpoint", "aggregation": "absolute"},
    {"method": "ig-mask", "steps": 2, "check": 6, "source": "zero", "metric": "log_prob"},
]


def pairs() -> list[PromptPair]:
    return [
        PromptPair(**{**one.model_dump(exclude={"spans"}), "spans": {"first": 0, "end": -1}}) for one in tiny.pairs(3)
    ]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return LanguageModel(tiny_folder)


def run(model: LanguageModel, params: dict[str, Any], context: Context | None = None) -> list[Event]:
    return list(METHOD.run(METHOD.spec(**params), model, pairs(), context or Context()))


def results(events: list[Event]) -> dict[str, Any]:
    return {event.name: from_parts(event.data, event.arrays) for event in events if isinstance(event, Result)}


@pytest.mark.parametrize("params", CASES, ids=[str(n) for n in range(len(CASES))])
def test_the_call_of_a_spec_gives_the_numbers_of_its_run(params: dict[str, Any], model: LanguageModel) -> None:
    found = results(run(model, params))
    with Session("call.py") as session:
        session.module.__dict__.update(model=model, pairs=pairs())
        session.run(METHOD.call(METHOD.spec(**params)))
        again = session.module.__dict__["results"]
    assert list(again) == list(found)
    for name, result in found.items():
        assert again[name].data() == result.data()
        for key, array in result.arrays().items():
            np.testing.assert_array_equal(again[name].arrays()[key], array)


def test_the_map_is_refined_after_every_batch_and_ends_as_the_result(model: LanguageModel) -> None:
    events = run(model, {"method": "eap", "batch_pairs": 1, "check": 4})
    opened = [event for event in events if isinstance(event, PanelOpened)]
    tiles = [event for event in events if isinstance(event, Tile)]
    found = results(events)
    assert len(opened) == 1
    assert len(tiles) == 3
    scores = found["edges"]
    assert isinstance(scores, EdgeScores)
    assert (len(opened[0].panel.rows), len(opened[0].panel.columns)) == scores.real.shape
    last = tiles[-1].values[0]
    assert np.isnan(last[~scores.real]).all()
    np.testing.assert_allclose(last[scores.real], scores.scores[scores.real], rtol=1e-6)
    alone = edge_attribution(model, pairs()[:1])
    np.testing.assert_allclose(tiles[0].values[0][scores.real], alone.scores[scores.real], rtol=1e-5, atol=1e-7)
    done = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert done == [(0, 0), (1, 3), (2, 3), (3, 3)]


def test_node_totals_are_sums_over_the_edges_of_a_source(model: LanguageModel) -> None:
    found = results(run(model, {"method": "eap", "check": 0}))
    scores, nodes = found["edges"], found["nodes"]
    assert isinstance(nodes, Bars)
    np.testing.assert_allclose(nodes.values["signed"], scores.scores.sum(1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(nodes.values["absolute"], np.abs(scores.scores).sum(1), rtol=1e-5)
    assert [tick.label for tick in nodes.axis.ticks] == list(scores.sources)


def test_a_certificate_comes_with_the_scores(model: LanguageModel) -> None:
    found = results(run(model, {"method": "eap", "check": 16}))
    certificate = found["certificate"]
    assert isinstance(certificate, Certificate)
    checks = {check.name: check for check in certificate.checks}
    assert checks["additivity"].passed
    assert checks["sums"].passed


@pytest.mark.parametrize("after", [0, 3, 9])
def test_a_run_that_is_stopped_has_no_results(model: LanguageModel, after: int) -> None:
    assert not results(run(model, {"batch_pairs": 1, "check": 64}, Context(stop_after=after)))


def test_cost_grows_with_steps_and_methods() -> None:
    prompts = PromptFacts((8, 8, 6))

    def cost(**params: Any) -> Any:
        return METHOD.cost(METHOD.spec(check=0, **params), FACTS, prompts)

    eap, inputs, dear = cost(method="eap"), cost(), cost(method="eap-ig-activations")
    assert eap.flops < inputs.flops < dear.flops < 1e15
    assert eap.cells == len(edge_count()) > 0
    assert inputs.launches > eap.launches > 0
    assert METHOD.cost(METHOD.spec(check=64), FACTS, prompts).flops > inputs.flops
    assert eap.naive_flops > eap.flops
    assert cost(spans="position").bytes > eap.bytes


def edge_count() -> list[Any]:
    sources = 1 + FACTS.n_layers * (FACTS.n_heads + 1)
    readers = FACTS.n_layers * (FACTS.n_heads + 2 * FACTS.n_kv_heads + 1) + 1
    return [None] * (sources * readers)


def test_families_without_edges_and_prompts_without_spans_are_refused_before_a_run() -> None:
    from tests import zoo

    spec = METHOD.spec(spans="named")
    with pytest.raises(SiteError, match="bert"):
        spec.check_model(model_facts(zoo.model("bert").config.to_dict()))
    spec.check_pairs(pairs())
    with pytest.raises(PromptError, match="no named spans"):
        spec.check_pairs(tiny.pairs(2))
    with pytest.raises(PromptError, match="'end'"):
        spec.check_pairs([pairs()[0], pairs()[1].model_copy(update={"spans": (("first", 0),)})])
    with pytest.raises(PromptError, match="foil"):
        spec.check_pairs([pairs()[0].model_copy(update={"foil": ()})])


@pytest.mark.parametrize("params", [{"method": "acdc"}, {"steps": 0}, {"metric": "rank"}, {"check": -1}])
def test_parameters_that_cannot_be_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        METHOD.spec(**params)
