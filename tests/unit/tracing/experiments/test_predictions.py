"""Predicted against real times: calibrations and runs recorded once, so that costs are tested without a clock.

Recorded as processor seconds of one thread (x86, float32), a model's calibration in the same process as its runs: the
demo model with eight pairs of 14 tokens, the GPT-2-small shape with two. A prediction may be off by a factor of two.
"""

import itertools
from typing import Any

import pytest

from tracing.experiments import get
from tracing.experiments.calibration import Habit, Rates
from tracing.experiments.registry import ModelFacts, PromptFacts

DEMO = ModelFacts("gpt2", 4, 4, 4, 128, 32, 512, 658, 128, 893_952)
GPT2 = ModelFacts("gpt2", 12, 12, 12, 768, 64, 3072, 50_257, 1024, 124_439_808)
MODELS = {
    "demo": (DEMO, Rates(39.8e9, 0.47e-3), PromptFacts((14,) * 8, (9,) * 8)),
    "gpt2": (GPT2, Rates(66.0e9, 5.4e-3), PromptFacts((14,) * 2, (9,) * 2)),
}
HEADS: dict[str, Any] = {"sites": ("z",), "over": "layer_head"}
CELLS: dict[str, Any] = {"sites": ("z",), "over": "layer_head_position"}
FIXED: dict[str, Any] = {"sites": ("q", "k"), "over": "layer_head_position", "qk_fix": True}
DROP: dict[str, Any] = {"grad_drop": True, "check": 0}
EAP: dict[str, Any] = {"method": "eap", "check": 0}
LIVE: dict[str, Any] = {"mlps": "live"}
BOTH: dict[str, Any] = {"senders": "heads and mlps"}
GRADIENT: dict[str, Any] = {"method": "input_x_gradient"}
# Method, options, seconds on the demo model, seconds on the GPT-2-small shape (None: not recorded).
RUNS: tuple[tuple[str, dict[str, Any], float | None, float | None], ...] = (
    ("activation_patching", {}, 0.045, 0.758),
    ("activation_patching", CELLS, 0.076, 5.19),
    ("activation_patching", HEADS, 0.051, 1.972),
    ("activation_patching", {"sites": ("resid_pre", "attn_out", "mlp_out")}, 0.085, 1.56),
    ("attention_patterns", {}, 0.0145, 0.137),
    ("attention_patterns", {"prompts": 8, "value_weighted": False}, 0.018, 0.119),
    ("attribution_patching", {}, 0.162, 2.34),
    ("attribution_patching", {"check": 0}, 0.031, 0.402),
    ("attribution_patching", FIXED, 0.215, 2.55),
    ("attribution_patching", DROP, 0.068, 1.69),
    ("attribution_patching", {**FIXED, "grad_drop": True}, 0.25, 4.085),
    ("direct_logit_attribution", {}, 0.028, 0.266),
    ("direct_logit_attribution", {"by": "head"}, 0.035, 0.263),
    ("direct_logit_attribution", {"by": "neuron"}, 0.043, 0.612),
    ("edge_attribution", {}, 0.442, 4.6),
    ("edge_attribution", {"method": "eap"}, 0.324, 4.3),
    ("edge_attribution", EAP, 0.041, 0.67),
    ("edge_attribution", {"check": 0}, 0.121, 2.05),
    ("edge_attribution", {"method": "eap-ig-activations", "check": 0}, 0.89, 41.7),
    ("head_detectors", {}, 0.11, 5.22),
    ("head_detectors", {"tokens": "prompts"}, 0.014, 0.141),
    ("path_patching", {}, 0.028, 0.35),
    ("path_patching", BOTH, 0.03, 0.359),
    ("path_patching", LIVE, 0.082, 5.41),
    ("steering", {}, 0.115, 6.7),
    ("steering", {"texts": 0}, 0.053, 0.74),
    ("token_attribution", {}, 1.3, 19.6),
    ("token_attribution", {"curve": False}, 0.46, 6.02),
    ("token_attribution", GRADIENT, 0.036, None),
    ("token_attribution", {"steps": 8}, 0.37, None),
)
RECORDED = [
    (model, method, options, real)
    for method, options, *both in RUNS
    for model, real in zip(MODELS, both, strict=True)
    if real is not None
]


def plain(model: str, method: str, options: dict[str, Any]) -> float:
    facts, rates, prompts = MODELS[model]
    found = get(method)
    return rates.of(found.cost(found.spec(**options), facts, prompts))


@pytest.mark.parametrize(("model", "method", "options", "real"), RECORDED)
def test_the_models_speed_alone_predicts_every_method_within_two(
    model: str, method: str, options: dict[str, Any], real: float
) -> None:
    assert 0.5 <= real / Habit().seconds(plain(model, method, options)) <= 2.0


@pytest.mark.parametrize(("model", "method", "options", "real"), RECORDED)
def test_a_run_predicts_its_own_repetition(model: str, method: str, options: dict[str, Any], real: float) -> None:
    work = plain(model, method, options)
    assert Habit().after(work, real).seconds(work) == pytest.approx(real, rel=1e-6)


def pairs_of_runs() -> list[Any]:
    own = itertools.permutations(RECORDED, 2)
    return [(one, other) for one, other in own if one[:2] == other[:2]]


def test_one_run_of_a_method_predicts_its_other_options() -> None:
    off = {}
    for (model, method, first, took), (_, _, then, real) in pairs_of_runs():
        habit = Habit().after(plain(model, method, first), took)
        ratio = real / habit.seconds(plain(model, method, then))
        if not 0.5 <= ratio <= 2.0:
            off[model, method, str(first), str(then)] = round(ratio, 2)
    assert off == {}
