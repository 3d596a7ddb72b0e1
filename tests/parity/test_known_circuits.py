"""Benchmarks G1 to G3 of the methods page: circuits of Tracr programs, which are known because they were compiled."""

import numpy as np
import pytest

from tests.parity.known import correct_output, distance, inputs, program, truth
from tracing.circuits.acdc import acdc
from tracing.circuits.attribution import edge_attribution
from tracing.circuits.certificate import certify
from tracing.circuits.exact import circuit_metric, edge_effects
from tracing.circuits.roc import auroc, pessimistic_auroc
from tracing.results import EdgeScores

SIZES = {
    ("reverse", "resample"): 2, ("reverse", "zero"): 9, ("xproportion", "resample"): 3, ("xproportion", "zero"): 3,
    ("hist", "resample"): 4, ("hist", "zero"): 6,
}  # fmt: skip
EDGES = {"reverse": 77, "xproportion": 23, "hist": 8}
ABLATION = {"resample": "interchange", "zero": "zero"}


@pytest.mark.parametrize(("name", "kind"), list(SIZES))
def test_acdc_returns_exactly_the_compiled_circuit(name: str, kind: str) -> None:
    model, layout = program(name)
    expected = truth(name, kind)
    assert (layout.n_edges, int(expected.sum())) == (EDGES[name], SIZES[name, kind])
    options = {"ablation": ABLATION[kind], "answer": "all"}
    found = acdc(model, inputs(name), distance, threshold=1e-6, **options)
    np.testing.assert_array_equal(found.keep, expected)
    assert found.damage < 1e-6
    kept = circuit_metric(model, inputs(name), distance, found.keep, **options)
    np.testing.assert_allclose(kept.mean(), found.damage, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "kind"), list(SIZES))
def test_exact_effects_tell_the_compiled_circuit_from_all_other_edges(name: str, kind: str) -> None:
    model, layout = program(name)
    expected = truth(name, kind)
    found = edge_effects(model, inputs(name), distance, ablation=ABLATION[kind], answer="all")
    assert auroc(found, expected) == pessimistic_auroc(found, expected) == 1.0
    assert np.abs(found.scores[layout.real & ~expected]).max() < 1e-9
    assert np.abs(found.scores[expected]).min() > 0.1


def scored(scores: EdgeScores) -> np.ndarray:
    """The scores with what is nothing but rounding made equal: a ranking of 1e-17 above 1e-18 would be luck."""
    values = np.where(scores.real, scores.scores, 0.0)
    return np.where(np.abs(values) > 1e-9 * np.abs(values).max(), values, 0.0)


@pytest.mark.parametrize(
    ("name", "method", "least"),
    [("reverse", "eap", 0.95), ("xproportion", "eap", 0.95), ("xproportion", "eap-ig-inputs", 0.97)],
)
def test_edge_attribution_finds_the_circuit_where_nothing_saturates(name: str, method: str, least: float) -> None:
    model, layout = program(name)
    found = edge_attribution(model, inputs(name), correct_output, method=method, steps=10, answer="all")
    assert auroc(scored(found), truth(name, "resample"), layout.real) >= least


def test_edge_attribution_misses_the_histogram_and_its_certificate_says_so() -> None:
    model, layout = program("hist")
    pairs = inputs("hist")
    found = edge_attribution(model, pairs, correct_output, answer="all")
    assert auroc(scored(found), truth("hist", "resample"), layout.real) == pytest.approx(0.625)
    certificate = certify(model, pairs, correct_output, found, answer="all")
    assert not certificate.trusted
    hidden = certificate.check("saturation")
    assert hidden.passed is False
    assert hidden.value == pytest.approx(0.75), "three of the four edges"
    assert certificate.check("additivity").passed
    assert certificate.check("sums").passed
    assert certificate.check("gradient").passed
    assert any("saturated" in warning for warning in certificate.warnings)


def test_the_certificate_of_exact_effects_of_the_histogram_raises_no_alarm() -> None:
    model, _ = program("hist")
    pairs = inputs("hist")
    exact = edge_effects(model, pairs, correct_output, answer="all")
    certificate = certify(model, pairs, correct_output, exact, answer="all")
    assert certificate.trusted
    assert certificate.warnings == ()
    assert certificate.check("pearson").value == pytest.approx(1.0)
    assert certificate.check("sums").passed is None, "a sum of exact effects is no first-order effect"


def test_a_metric_at_its_minimum_is_caught() -> None:
    """The distance from the clean run has no gradient at the clean run: every score is zero."""
    model, _ = program("reverse")
    pairs = inputs("reverse", 10)
    found = edge_attribution(model, pairs, distance, answer="all")
    np.testing.assert_allclose(found.scores, 0.0, atol=1e-12)
    certificate = certify(model, pairs, distance, found, answer="all")
    assert certificate.check("gradient").value == 1.0
    assert not certificate.trusted
    assert any("no gradient" in warning for warning in certificate.warnings)
