"""ACDC against a plain loop over circuit metrics, and the areas under ROC curves against their definition."""

import numpy as np
import pytest
import torch

from tests.decoders import language_model, pairs
from tracing.circuits.acdc import acdc
from tracing.circuits.exact import circuit_metric
from tracing.circuits.layout import Layout
from tracing.circuits.roc import auroc, pessimistic_auroc
from tracing.errors import SpecError, Stopped
from tracing.results import EdgeScores


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decisions_are_those_of_a_plain_loop_in_the_documented_order(family: str) -> None:
    model, several, threshold = language_model(family, torch.float64), pairs(2), 0.02
    layout = Layout.of(model.facts, model.adapter)
    found = acdc(model, several, "logit_diff", threshold=threshold)
    base = circuit_metric(model, several, "logit_diff", layout.real)
    keep, current = layout.real.copy(), 0.0
    for reader in reversed(range(len(layout.readers))):
        for source in reversed(range(len(layout.sources))):
            if layout.real[source, reader]:
                keep[source, reader] = False
                damage = float(np.abs(circuit_metric(model, several, "logit_diff", keep) - base).mean())
                if damage - current < threshold:
                    current = damage
                else:
                    keep[source, reader] = True
    np.testing.assert_array_equal(found.keep, keep)
    assert found.damage == pytest.approx(current, abs=1e-6)
    assert 0 < keep.sum() < layout.n_edges
    assert found.trials <= layout.n_edges
    assert found.scores.facts["kept"] == int(keep.sum())


def test_the_same_input_gives_the_same_circuit_whatever_the_batch() -> None:
    model, several = language_model("gpt2"), pairs(3)
    one, other = (acdc(model, several, threshold=0.05, batch=batch) for batch in ("auto", 1))
    np.testing.assert_array_equal(one.keep, other.keep)


def test_a_threshold_of_nothing_and_stopping() -> None:
    model, several = language_model("gpt2"), pairs(2)
    with pytest.raises(SpecError, match="A threshold of 0"):
        acdc(model, several, threshold=0)
    with pytest.raises(Stopped):
        acdc(model, several, should_stop=lambda: True)


# -- areas under ROC curves --------------------------------------------------------------------------------------------
def test_the_areas_count_pairs_of_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, truth = rng.integers(-3, 4, (5, 7)) / 2.0, rng.random((5, 7)) < 0.3
        real = rng.random((5, 7)) < 0.8
        truth[0, 0], truth[0, 1], real[0, :2] = True, False, True
        size = np.abs(scores)
        inside, outside = size[real & truth], size[real & ~truth]
        above = (inside[:, None] > outside[None, :]).mean()
        equal = (inside[:, None] == outside[None, :]).mean()
        assert auroc(scores, truth, real) == pytest.approx(above + equal / 2)
        assert pessimistic_auroc(scores, truth, real) == pytest.approx(above)


def test_all_scores_equal_are_half_or_nothing() -> None:
    truth = np.array([[True, False, True, False]])
    assert auroc(np.ones((1, 4)), truth) == 0.5
    assert pessimistic_auroc(np.ones((1, 4)), truth) == 0.0


def test_scores_are_ranked_by_size_unless_their_sign_is_asked_for() -> None:
    scores, truth = np.array([[-3.0, 1.0, 2.0]]), np.array([[True, False, False]])
    assert auroc(scores, truth) == 1.0
    assert auroc(scores, truth, signed=True) == 0.0


def test_an_area_needs_edges_of_both_kinds_and_scores_of_all() -> None:
    scores = np.array([[1.0, 2.0]])
    with pytest.raises(SpecError, match="nothing to tell apart"):
        auroc(scores, np.array([[True, True]]))
    with pytest.raises(SpecError, match="The truth is"):
        auroc(scores, np.array([True, False]))
    some = EdgeScores("e", "E", ("input",), ("m0", "logits"), np.array([[True, True]]), np.array([[1.0, np.nan]]))
    with pytest.raises(SpecError, match="have no score"):
        auroc(some, np.array([[True, False]]))
