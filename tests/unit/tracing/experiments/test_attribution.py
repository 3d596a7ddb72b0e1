"""Attribution as experiments: maps while they run, certificates, calls that give the same numbers, costs, refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from docs.tools.running import Session
from tests import tiny, zoo
from tests.decoders import language_model
from tests.decoders import pairs as tokenized
from tests.unit.tracing.experiments.test_looks import Context
from tracing.demo import MODEL_DIR, prompt_sets
from tracing.errors import PromptError, SiteError, SpecError
from tracing.events import Event, Log, PanelOpened, Progress, Result, Tile
from tracing.experiments import get, run_method
from tracing.experiments.registry import PromptFacts
from tracing.families import model_facts
from tracing.models import LanguageModel
from tracing.patching.attribution import attribution_patching
from tracing.patching.attribution_check import check_attribution
from tracing.patching.sweeps import sweep
from tracing.prompts import PromptPair
from tracing.results import Certificate, Curve, Grid, TokenTable, from_parts

FACTS = model_facts(tiny.CONFIG)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("attribution_patching", {}),
    ("attribution_patching", {"sites": ("q", "k", "z"), "over": "layer_head", "qk_fix": True, "grad_drop": True}),
    ("attribution_patching", {"sites": ("neurons",), "over": "layer_neuron", "direction": "noising", "check": 5}),
    ("attribution_patching", {"sites": ("z",), "over": "example_layer_head", "metric": "prob", "absolute": True}),
    ("attribution_patching", {"source": "mean", "layers": (2, 0), "batch_pairs": 1, "check": 0, "positions": "start"}),
    ("token_attribution", {}),
    ("token_attribution", {"method": "input_x_gradient", "baseline": "zero", "metric": "log_prob"}),
    ("token_attribution", {"method": "gradient_norm", "curve": False}),
    ("token_attribution", {"steps": 5, "rule": "gauss_legendre", "baseline": "mean_embedding", "batch_rows": 3}),
]
IDS = [f"{name}-{n}" for n, (name, _) in enumerate(CASES)]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return LanguageModel(tiny_folder)


def run(name: str, model: LanguageModel, params: dict[str, Any], context: Context | None = None) -> list[Event]:
    method = get(name)
    return list(method.run(method.spec(**params), model, tiny.pairs(4), context or Context()))


def results(events: list[Event]) -> dict[str, Any]:
    return {event.name: from_parts(event.data, event.arrays) for event in events if isinstance(event, Result)}


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_the_call_of_a_spec_gives_the_numbers_of_its_run(
    name: str, params: dict[str, Any], model: LanguageModel
) -> None:
    method, found = get(name), results(run(name, model, params))
    with Session("call.py") as session:
        session.module.__dict__.update(model=model, pairs=tiny.pairs(4))
        session.run(method.call(method.spec(**params)))
        again = session.module.__dict__["results"]
    assert list(again) == list(found)
    for key, result in found.items():
        assert result.data() == again[key].data()
        for array, values in again[key].arrays().items():
            np.testing.assert_array_equal(values, result.arrays()[array])


def test_maps_open_with_the_first_batch_and_get_better_with_each(model: LanguageModel) -> None:
    events = run("attribution_patching", model, {"sites": ("resid_pre", "z"), "batch_pairs": 1, "check": 0})
    kinds = [event.kind for event in events]
    assert kinds == ["progress", "panel", "panel", *["tile", "tile", "progress"] * 4, "result", "result"]
    found = results(events)
    tiles = [event for event in events if isinstance(event, Tile)]
    for number, (name, grid) in enumerate(found.items()):
        mine = [tile.values for tile in tiles if tile.panel == number]
        for done, values in enumerate(mine, start=1):
            expected = attribution_patching(model, tiny.pairs(4)[:done], sites=name)
            np.testing.assert_allclose(values[0], expected.planes["score"], atol=1e-6)
        np.testing.assert_array_equal(mine[-1][0], grid.planes["score"].astype(np.float32))
    assert [(event.done, event.total) for event in events if isinstance(event, Progress)][-1] == (4, 4)


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_costs_count_the_cells_of_the_panels_and_grow_with_the_set(
    name: str, params: dict[str, Any], model: LanguageModel
) -> None:
    method = get(name)
    spec = method.spec(**params)
    panels = [event.panel for event in run(name, model, params) if isinstance(event, PanelOpened)]
    small, large = (method.cost(spec, FACTS, PromptFacts((13,) * count)) for count in (4, 20_000))
    assert small.cells == sum(len(panel.rows) * len(panel.columns) for panel in panels)
    assert 0 < small.flops <= small.naive_flops
    assert small.flops < large.flops
    assert 0 < small.launches <= large.launches


def test_the_cost_of_maps_does_not_grow_with_their_cells() -> None:
    method = get("attribution_patching")
    few, many = (
        method.cost(method.spec(sites=sites, over=over, check=0), FACTS, PromptFacts((13,) * 8))
        for sites, over in ((("z",), "layer_head"), (("z", "q", "k", "v"), "layer_head_position"))
    )
    assert many.cells > 40 * few.cells
    assert many.flops == few.flops
    dropped = method.cost(method.spec(grad_drop=True, check=0), FACTS, PromptFacts((13,) * 8))
    assert dropped.flops == pytest.approx(few.flops * (2 + 3) / (2 + 1))


# -- the certificate --------------------------------------------------------------------------------------------------
def test_a_certificate_has_the_correlation_with_an_exact_sweep(model: LanguageModel) -> None:
    found = results(run("attribution_patching", model, {"sites": ("z",), "over": "layer_head", "check": 1000}))
    certificate, grid = found["certificate"], found["z"]
    assert isinstance(certificate, Certificate)
    exact = sweep(model, tiny.pairs(4), sites="z", over=("layer", "head"))
    effects = exact.planes["raw"] - exact.corrupted.mean()
    r = np.corrcoef(effects.ravel(), grid.planes["score"].ravel())[0, 1]
    assert certificate.check("agreement").value == pytest.approx(r, abs=1e-5)
    strong = np.abs(effects) >= 0.1 * np.abs(effects).max()
    agree = (np.sign(effects) == np.sign(grid.planes["score"]))[strong].mean()
    assert certificate.check("signs").value == pytest.approx(agree, abs=1e-9)
    assert certificate.facts["cells"] == effects.size


def test_a_certificate_samples_as_many_cells_and_pairs_as_it_was_told() -> None:
    model = language_model("llama")
    some = tokenized(6)
    grids = attribution_patching(model, some, sites=["mlp_out", "q"], over=("layer", "position"))
    told: list[tuple[int, int]] = []
    found = [
        check_attribution(
            model, some, grids, cells=4, at_most=2, seed=seed, progress=lambda done, total: told.append((done, total))
        )
        for seed in (0, 0, 1)
    ]
    assert found[0].data() == found[1].data()
    assert found[0].data() != found[2].data()
    assert found[0].facts["pairs"] == 2
    assert {check.name for check in found[0].checks} == {"agreement", "signs", "agreement_mlp_out", "agreement_q"}
    assert told[:2] == [(1, 2), (2, 2)]


def test_saturated_attention_fails_the_check_and_the_fix_comes_nearer() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    width = model.facts.d_model
    import torch

    with torch.no_grad():
        for block in model.block_modules:
            block.attn.c_attn.weight[:, :width] *= 3
            block.attn.c_attn.bias[:width] *= 3
    some = tokenized(4, lengths=(7,))
    plain, fixed = (
        check_attribution(
            model, some,
            attribution_patching(
                model, some, sites=["q"], over=("layer", "head", "position"), direction="noising", qk_fix=fix
            ),
            cells=10_000,
        )
        for fix in (False, True)
    )  # fmt: skip
    assert not plain.trusted
    assert "far from the exact effects" in plain.warnings[-1]
    assert fixed.check("agreement").value > plain.check("agreement").value + 0.05


def test_sites_that_sweeps_do_not_patch_are_named() -> None:
    model = language_model("gpt2")
    some = tokenized(2)
    grids = attribution_patching(model, some, sites=["q_rot", "scores"], over=("layer", "head"))
    found = check_attribution(model, some, grids)
    assert found.checks == ()
    assert found.warnings == (
        "Not checked by exact patching: q_rot, scores.",
        "No cell was checked, so how good the estimates are is not known.",
    )


def test_attribution_finds_the_demo_models_heads_and_its_certificate_says_so() -> None:
    """Indirect objects on the trained demo model: the strongest exact head is the strongest estimate."""
    prompts = next(one for one in prompt_sets() if one.slug == "ioi")
    some = [PromptPair(**json.loads(line)) for line in prompts.path.read_text().splitlines()[:6]]
    found = run_method(
        "attribution_patching",
        {"sites": ["z"], "over": "layer_head", "direction": "noising", "check": 100},
        LanguageModel(MODEL_DIR),
        some,
    )
    grid, certificate = found["z"], found["certificate"]
    assert isinstance(grid, Grid)
    assert isinstance(certificate, Certificate)
    assert certificate.facts["cells"] > 8
    assert certificate.check("agreement").value > 0.5


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_tokens_come_as_a_table_and_a_curve(model: LanguageModel) -> None:
    found = results(run("token_attribution", model, {"steps": 8}))
    assert list(found) == ["tokens", "completeness"]
    table, curve = found["tokens"], found["completeness"]
    assert isinstance(table, TokenTable)
    assert isinstance(curve, Curve)
    assert curve.x.tolist() == [1, 2, 4, 8]
    assert curve.series[0].y[-1] == pytest.approx(np.mean(table.facts["sums"]), abs=1e-6)
    assert len(table.rows) == 4


# -- refusals and stopping --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
@pytest.mark.parametrize("after", [0, 1])
def test_a_stopped_run_has_no_results(name: str, params: dict[str, Any], model: LanguageModel, after: int) -> None:
    if after == 1 and params.get("check") == 0 and "batch_pairs" not in params:
        pytest.skip("there is one question only")
    events = run(name, model, params, Context(stop_after=after))
    asked = [event for event in events if isinstance(event, Result)]
    assert asked == [] or (after == 1 and _one_question(params))


def _one_question(params: dict[str, Any]) -> bool:
    """Whether the run asks once: a single batch, and nothing checked or integrated behind it."""
    return params.get("method") in ("input_x_gradient", "gradient_norm") or params.get("over") == "example_layer_head"


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("attribution_patching", {"metric": "rank"}, "no gradient"),
        ("attribution_patching", {"sites": ["z", "z"]}, "named twice"),
        ("attribution_patching", {"sites": ["mlp_out"], "over": "layer_head"}, "no head axis"),
        ("attribution_patching", {"sites": ["z"], "over": "layer_neuron"}, "no neuron axis"),
        ("attribution_patching", {"qk_fix": True}, "needs the site q or k"),
        ("attribution_patching", {"sites": ["q"], "qk_fix": True, "source": "zero"}, "interchange"),
        ("attribution_patching", {"source": "resample"}, "interchange"),
        ("token_attribution", {"metric": "accuracy"}, "no gradient"),
        ("token_attribution", {"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_specs_refuse_what_contradicts_itself(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        get(name).spec(**params)


def test_models_and_prompts_are_checked_before_anything_runs() -> None:
    spec = get("attribution_patching").spec
    with pytest.raises(SiteError, match="no site mixer_out"):
        spec(sites=["mixer_out"]).check_model(FACTS)
    with pytest.raises(SpecError, match="two layers"):
        spec(grad_drop=True).check_model(model_facts({**tiny.CONFIG, "n_layer": 1}))
    with pytest.raises(SiteError, match="no layer 9"):
        spec(layers=(9,)).check_model(FACTS)
    without = [PromptPair(clean="a b", corrupted="a c", answer="d")]
    for name in ("attribution_patching", "token_attribution"):
        with pytest.raises(PromptError, match="foil"):
            get(name).spec().check_pairs(without)
    with pytest.raises(PromptError, match="no named spans"):
        spec(over="layer_span").check_pairs(tiny.pairs(1))


def test_a_flat_metric_is_said_in_the_log(model: LanguageModel) -> None:
    events = run("attribution_patching", model, {"metric": "kl_divergence", "direction": "noising", "check": 0})
    warnings = [event.message for event in events if isinstance(event, Log) and event.level == "warning"]
    assert "no slope" in warnings[0]


def test_the_web_process_reads_specs_and_costs_without_torch() -> None:
    code = (
        "import sys\nfrom tracing.experiments import get\nfrom tracing.experiments.registry import PromptFacts\n"
        "from tests import tiny\nfrom tracing.families.facts import model_facts\n"
        "facts = model_facts(tiny.CONFIG)\n"
        "for name in ('attribution_patching', 'token_attribution'):\n"
        "    method = get(name)\n    spec = method.spec()\n    spec.check_model(facts)\n"
        "    method.cost(spec, facts, PromptFacts((13,)))\n    method.call(spec)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_a_single_map_is_checked_and_a_sweeps_map_is_refused() -> None:
    model, some = language_model("gpt2"), tokenized(3)
    single = attribution_patching(model, some, sites="z")
    one, several = check_attribution(model, some, single), check_attribution(model, some, {"z": single})
    assert one.facts == several.facts
    assert one.check("agreement").value == several.check("agreement").value
    exact = sweep(model, some)
    for maps in (exact, {"resid_pre": exact}):
        with pytest.raises(SpecError, match="no estimates of attribution patching") as caught:
            check_attribution(model, some, maps)
        assert "attribution_patching" in caught.value.remedy
