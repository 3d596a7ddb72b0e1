"""The certificate of edge scores: what passes, what is caught, which edges are sampled, what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests import zoo
from tests.decoders import language_model, pairs
from tracing.circuits.attribution import edge_attribution
from tracing.circuits.certificate import certify, sampled
from tracing.circuits.exact import edge_effects
from tracing.errors import SpecError, Stopped
from tracing.models import LanguageModel
from tracing.results import EdgeScores

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def scores_of(model: LanguageModel, count: int = 4) -> EdgeScores:
    return edge_attribution(model, pairs(count))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_identities_hold_in_every_precision(dtype: torch.dtype) -> None:
    model = language_model("gpt2", dtype)
    found = certify(model, pairs(4), "logit_diff", scores_of(model), sample=16)
    for name in ("additivity", "sums", "gradient"):
        assert found.check(name).passed, found.check(name)
    if dtype == torch.float64:
        assert found.check("additivity").value < 1e-14
        assert found.check("sums").value < 1e-12


@pytest.mark.parametrize("name", zoo.decoders())
def test_the_identities_hold_on_every_decoder(name: str) -> None:
    model = LanguageModel(zoo.double(zoo.model(name)))
    found = certify(model, pairs(2), "logit_diff", edge_attribution(model, pairs(2)), sample=8)
    assert found.check("additivity").passed, found.check("additivity")
    assert found.check("sums").passed, found.check("sums")


def test_exact_effects_agree_with_themselves() -> None:
    model = language_model("llama", torch.float64)
    exact = edge_effects(model, pairs(4))
    found = certify(model, pairs(4), "logit_diff", exact)
    assert found.trusted
    assert found.check("pearson").value == pytest.approx(1.0, abs=1e-9)
    assert found.check("signs").value == 1.0
    assert found.check("sums").passed is None
    assert found.warnings == ()


def test_scores_of_other_prompts_fail_the_sum_identity() -> None:
    model = language_model("gpt2", torch.float64)
    other = edge_attribution(model, pairs(5)[3:])
    found = certify(model, pairs(3), "logit_diff", other, sample=8)
    assert found.check("sums").passed is False
    assert any("other prompts or options" in warning for warning in found.warnings)


def test_absolute_scores_are_compared_with_absolute_effects() -> None:
    model = language_model("gpt2", torch.float64)
    scores = edge_attribution(model, pairs(4), aggregation="absolute")
    found = certify(model, pairs(4), "logit_diff", scores, sample=32)
    assert (found.check("sums").passed, found.check("signs").passed) == (None, None)
    each = [edge_effects(model, [one]).score(*found.facts["sampled"][0][:2]) for one in pairs(4)]
    assert found.facts["sampled"][0][3] == pytest.approx(float(np.abs(each).mean()), abs=1e-12)


def test_scores_of_the_wrong_sign_or_at_random_are_not_trusted() -> None:
    model = language_model("gpt2", torch.float64)
    exact = edge_effects(model, pairs(4))
    turned = certify(model, pairs(4), "logit_diff", replace(exact, scores=-exact.scores))
    assert turned.check("pearson").value == pytest.approx(-1.0)
    assert (turned.check("pearson").passed, turned.check("signs").passed) == (False, False)
    noise = np.random.default_rng(0).normal(size=exact.scores.shape) * exact.real
    random = certify(model, pairs(4), "logit_diff", replace(exact, scores=noise))
    assert not random.trusted
    assert abs(random.check("pearson").value) < 0.6


def test_a_metric_that_nothing_changes_is_called_so() -> None:
    model = language_model("gpt2", torch.float64)
    flat = EdgeScores(
        "flat", "Flat", *(lambda s: (s.sources, s.readers, s.real))(scores_of(model)),
        scores=np.zeros(scores_of(model).scores.shape),
    )  # fmt: skip
    found = certify(model, pairs(3), lambda logits: logits[:, 0] * 0.0, flat, sample=8)
    assert found.check("pearson").passed is False
    assert "equal" in found.check("pearson").sentence
    assert found.check("gradient").value == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_divergence_from_the_run_itself_is_called_blind_in_every_precision(dtype: torch.dtype) -> None:
    model = language_model("gpt2", dtype)
    scores = edge_attribution(model, pairs(3), "kl_divergence")
    found = certify(model, pairs(3), "kl_divergence", scores, sample=8)
    assert (found.check("gradient").value, found.check("gradient").passed) == (1.0, False)
    unnamed = replace(scores, facts={})
    assert certify(model, pairs(3), "prob", unnamed, sample=8).check("gradient").value == 0.0


@pytest.mark.parametrize(
    ("metric", "options", "words"),
    [
        ("prob", {}, "metric='logit_diff', and are to be checked with metric='prob'"),
        ("logit_diff", {"direction": "denoising"}, "direction='noising', .* direction='denoising'"),
        ("logit_diff", {"ablation": "zero"}, "ablation='interchange', .* ablation='zero'"),
    ],
)
@pytest.mark.parametrize("make", [edge_attribution, edge_effects])
def test_scores_made_another_way_are_refused(make: Any, metric: str, options: dict[str, Any], words: str) -> None:
    model = language_model("gpt2")
    with pytest.raises(SpecError, match=words) as caught:
        certify(model, pairs(2), metric, make(model, pairs(2)), sample=4, **options)
    assert caught.value.remedy


def test_scores_that_are_no_numbers_or_of_other_edges_are_refused() -> None:
    model = language_model("gpt2")
    scores = scores_of(model, 2)
    for wrong in (
        replace(scores, scores=np.where(scores.real, np.nan, 0.0)),
        replace(scores, real=np.ones_like(scores.real)),
    ):
        with pytest.raises(SpecError, match="leave nothing to check"):
            certify(model, pairs(2), "logit_diff", wrong)


def test_the_sample_has_the_largest_scores_and_edges_of_every_size() -> None:
    scores = scores_of(language_model("gpt2", torch.float64))
    size = np.abs(scores.scores[scores.real])
    order = np.sort(size)[::-1]
    chosen = sampled(scores, 64, seed=0)
    assert len(set(chosen)) == 64
    assert all(scores.real[edge] for edge in chosen)
    own = np.array([abs(scores.scores[edge]) for edge in chosen])
    np.testing.assert_array_equal(np.sort(own)[::-1][:16], order[:16])
    for quarter in np.array_split(order[16:], 4):
        assert int(np.isin(own, quarter).sum()) == 12
    assert sampled(scores, 64, seed=0) == chosen != sampled(scores, 64, seed=1)
    assert len(sampled(scores, 10_000, seed=0)) == int(scores.real.sum()), "no more than there are"


def test_the_sampled_edges_are_in_the_facts_with_both_numbers() -> None:
    model = language_model("gpt2", torch.float64)
    scores, exact = scores_of(model), edge_effects(model, pairs(4))
    found = certify(model, pairs(4), "logit_diff", scores, sample=12)
    assert found.facts["sample"] == len(found.facts["sampled"]) == 12
    for source, reader, given, effect in found.facts["sampled"]:
        assert given == pytest.approx(scores.score(source, reader))
        assert effect == pytest.approx(exact.score(source, reader), abs=1e-12)


def test_scores_of_another_model_and_samples_too_small_are_refused() -> None:
    gpt2, llama = language_model("gpt2"), language_model("llama")
    with pytest.raises(SpecError, match="not of this model's edges"):
        certify(gpt2, pairs(2), "logit_diff", scores_of(llama, 2))
    with pytest.raises(SpecError, match="A sample of 1 edges"):
        certify(gpt2, pairs(2), "logit_diff", scores_of(gpt2, 2), sample=1)
    with pytest.raises(Stopped):
        certify(gpt2, pairs(2), "logit_diff", scores_of(gpt2, 2), should_stop=lambda: True)
