"""Metrics by name, by function, and what happens when one gives no number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.decoders import language_model, pair, pairs
from tracing import metrics
from tracing.errors import MetricError
from tracing.metric_facts import METRICS, metric_facts
from tracing.metrics import Targets
from tracing.patching import sweep

LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
TARGETS = Targets(((3,), (1, 2)), ((0, 1), (3,)), reference=LOGITS.flip(0))


def test_logit_difference_is_the_mean_of_answers_minus_the_mean_of_foils() -> None:
    assert metrics.get("logit_diff")(LOGITS, TARGETS).tolist() == [3.0 - 0.5, 1.5 - 0.0]


def test_probabilities_of_several_answers_add_up() -> None:
    p = LOGITS.softmax(-1)
    torch.testing.assert_close(metrics.get("prob")(LOGITS, TARGETS), torch.stack([p[0, 3], p[1, 1] + p[1, 2]]))
    torch.testing.assert_close(
        metrics.get("log_prob")(LOGITS, TARGETS), torch.stack([p[0, 3].log(), (p[1, 1] + p[1, 2]).log()])
    )


def test_rank_counts_the_tokens_above_the_best_answer() -> None:
    assert metrics.get("rank")(LOGITS, TARGETS).tolist() == [0.0, 1.0]


def test_accuracy_is_one_where_an_answer_is_on_top() -> None:
    assert metrics.get("accuracy")(LOGITS, TARGETS).tolist() == [1.0, 0.0]


def test_kl_divergence_sums_over_the_vocabulary() -> None:
    p, q = LOGITS.flip(0).softmax(-1), LOGITS.softmax(-1)
    expected = [sum(float(a) * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    torch.testing.assert_close(metrics.get("kl_divergence")(LOGITS, TARGETS), torch.tensor(expected).double())


@pytest.mark.parametrize("name", [name for name, facts in METRICS.items() if facts.targets_only])
def test_a_metric_of_targets_reads_no_other_column(name: str) -> None:
    columns = TARGETS.columns()
    assert columns == [0, 1, 2, 3]
    few = Targets(((3,), (1,)), ((1,), (3,)))
    kept = few.columns()
    assert kept == [1, 3]
    metric = metrics.get(name)
    torch.testing.assert_close(metric(LOGITS[:, kept], few.within(kept)), metric(LOGITS, few))


def test_an_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(MetricError, match=r"no metric named 'loss'.*logit_diff, logit, prob"):
        metrics.get("loss")


def test_any_function_of_logits_is_a_metric() -> None:
    model, several = language_model("gpt2", torch.float64), pairs()
    named = sweep(model, several, "logit_diff")

    def difference(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        rows = [
            logits[n, list(a)].mean() - logits[n, list(f)].mean()
            for n, (a, f) in enumerate(zip(targets.answers, targets.foils, strict=True))
        ]
        return torch.stack(rows)

    own = sweep(model, several, difference)
    torch.testing.assert_close(torch.tensor(own.raw), torch.tensor(named.raw), equal_nan=True)
    entropy = sweep(model, several, lambda logits: torch.distributions.Categorical(logits=logits).entropy())
    assert entropy.facts["metric"] == "<lambda>"


def test_a_function_that_returns_one_number_for_all_rows_is_refused() -> None:
    with pytest.raises(MetricError, match=r"shape \[\] for \d rows"):
        sweep(language_model("gpt2"), pairs(4), lambda logits: logits.mean())


def test_a_metric_that_is_not_a_number_names_the_pair() -> None:
    model = language_model("gpt2")
    several = [pair([1, 2, 3], [4, 2, 3], (n,), (50,), n + 1) for n in range(3)]

    def broken(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        return torch.tensor([math.nan if answers == (1,) else 1.0 for answers in targets.answers])

    with pytest.raises(MetricError, match=r"'broken' is not a number for pair 2 \(the clean prompt\)") as caught:
        sweep(model, several, broken)
    assert caught.value.where["pair"] == 2


def test_a_patched_cell_that_is_not_a_number_names_site_and_layer() -> None:
    model, several = language_model("gpt2"), [pair([1, 2, 3], [4, 2, 3], (5,), (6,))]
    baseline = {float(model.logits([ids])[0, -1, 5]) for ids in (several[0].clean_ids, several[0].corrupted_ids)}

    def only_baselines(logits: torch.Tensor) -> torch.Tensor:
        known = [any(abs(float(x) - b) < 1e-4 for b in baseline) for x in logits[:, 5]]
        return torch.where(torch.tensor(known), logits[:, 5], math.nan)

    with pytest.raises(MetricError, match=r"pair 1 \(resid_pre, layer \d"):
        sweep(model, several, only_baselines)


finite = st.floats(-1e6, 1e6)


@given(clean=finite, corrupted=finite, name=st.sampled_from(sorted(METRICS)))
def test_a_colour_domain_is_never_empty(clean: float, corrupted: float, name: str) -> None:
    low, high = metric_facts(name).domain(clean, corrupted)
    assert low < high


@given(clean=finite, corrupted=finite)
def test_a_logit_difference_is_coloured_symmetrically_and_holds_both_baselines(clean: float, corrupted: float) -> None:
    low, high = metric_facts("logit_diff").domain(clean, corrupted)
    assert low == -high
    assert low <= min(clean, corrupted) <= max(clean, corrupted) <= high
