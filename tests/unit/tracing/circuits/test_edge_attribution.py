"""What `edge_attribution` promises beside its numbers: batches, lengths, spans, metrics, refusals, stopping."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests import zoo
from tests.decoders import language_model, pair, pairs
from tracing.circuits import attribution, contraction
from tracing.circuits.attribution import attribution_steps, edge_attribution
from tracing.circuits.norms import Norm
from tracing.errors import MetricError, OutOfMemoryError, PromptError, SiteError, SpecError, Stopped
from tracing.models import LanguageModel

MIXED = pairs(5)
EVEN = pairs(4, lengths=(6,))
METHODS = ("eap", "eap-ig-inputs", "eap-ig-activations", "ig-mask")
CLOSE = {"atol": 1e-12, "rtol": 0}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return language_model("llama", torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_how_pairs_are_batched(model: LanguageModel, method: Any) -> None:
    whole = edge_attribution(model, MIXED, method=method, steps=2)
    for batch in (1, 2):
        found = edge_attribution(model, MIXED, method=method, steps=2, batch=batch)
        np.testing.assert_allclose(found.scores, whole.scores, **CLOSE)


@pytest.mark.parametrize("aggregation", ["signed", "absolute"])
def test_scores_of_pairs_of_unequal_lengths_are_means_of_each_pair_alone(
    model: LanguageModel, aggregation: Any
) -> None:
    alone = [edge_attribution(model, one).scores for one in MIXED]
    expected = np.mean(np.abs(alone) if aggregation == "absolute" else alone, axis=0)
    np.testing.assert_allclose(edge_attribution(model, MIXED, aggregation=aggregation).scores, expected, **CLOSE)


def test_chunks_of_any_size_give_the_same_scores(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = edge_attribution(model, MIXED)
    monkeypatch.setattr(contraction, "CHUNK_BYTES", 1)
    monkeypatch.setattr(contraction, "READY_BYTES", {})
    np.testing.assert_allclose(edge_attribution(model, MIXED).scores, whole.scores, **CLOSE)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_norm_without_a_closed_form_gives_the_same_scores(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model(family, torch.float64)
    closed = {method: edge_attribution(model, EVEN, method=method, steps=2).scores for method in METHODS}
    monkeypatch.setattr(Norm, "of", lambda module, *_: Norm(module, "other" if module else "none"))
    for method, expected in closed.items():
        found = edge_attribution(model, EVEN, method=method, steps=2)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.scores, expected, atol=1e-6)  # float32 inside the norm


def test_a_norm_behind_attention_without_a_closed_form_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(zoo.model("gemma2", torch.float64))
    expected = edge_attribution(model, EVEN).scores
    monkeypatch.setattr(Norm, "of", lambda module, *_: Norm(module, "other" if module else "none"))
    np.testing.assert_allclose(edge_attribution(model, EVEN).scores, expected, atol=1e-5)


def test_kinds_of_norm_are_told_by_what_they_compute() -> None:
    def kind(module: nn.Module | None) -> str:
        module = None if module is None else module.double()
        return Norm.of(module, 8, torch.float64, torch.device("cpu")).kind

    class Halved(nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x) / (1 + x.abs().mean())

    assert [kind(one) for one in (nn.LayerNorm(8), nn.RMSNorm(8, 1e-6), nn.Identity(), None, Halved(8), nn.Tanh())] == [
        "layer", "rms", "none", "none", "other", "other",
    ]  # fmt: skip


# -- spans ------------------------------------------------------------------------------------------------------------
def test_named_spans_and_the_rest_sum_to_the_scores(model: LanguageModel) -> None:
    spanned = [replace(one, spans=(("subject", 0, 2), ("end", one.length - 1, one.length))) for one in MIXED]
    found = edge_attribution(model, spanned, spans=("subject", "end"))
    assert found.spans == ("subject", "end", "elsewhere")
    np.testing.assert_allclose(np.asarray(found.span_scores).sum(0), found.scores, **CLOSE)
    by_position = edge_attribution(model, spanned[0], spans="position")
    alone = edge_attribution(model, spanned[0], spans=("subject",))
    expected = np.asarray(by_position.span_scores)[:2].sum(0)
    np.testing.assert_allclose(np.asarray(alone.span_scores)[0], expected, **CLOSE)


def test_positions_of_unequal_lengths_count_from_the_end(model: LanguageModel) -> None:
    found = edge_attribution(model, MIXED, spans="position")
    assert found.spans[0] == "-8"
    assert found.spans[-1] == "-1"
    last = found.readers.index("logits")
    values = np.asarray(found.span_scores)[:, :, last]
    assert (values[:-1] == 0).all()  # the metric reads the last position
    np.testing.assert_allclose(values[-1], found.scores[:, last], **CLOSE)


def test_absolute_scores_of_spans_are_of_each_pair(model: LanguageModel) -> None:
    found = edge_attribution(model, EVEN, spans="position", aggregation="absolute", batch=3)
    alone = [edge_attribution(model, one, spans="position").span_scores for one in EVEN]
    np.testing.assert_allclose(found.span_scores, np.abs(np.array(alone, float)).mean(0), **CLOSE)


@pytest.mark.parametrize(
    ("spans", "error", "says"),
    [
        (("nowhere",), PromptError, "no span 'nowhere'"),
        (("a", "b"), PromptError, "shares a position"),
        ("subject", SpecError, "are no spans"),
        ((), SpecError, "are no spans"),
    ],
)
def test_spans_that_cannot_be_are_refused(model: LanguageModel, spans: Any, error: Any, says: str) -> None:
    overlapping = replace(EVEN[0], spans=(("a", 0, 3), ("b", 2, 4)))
    with pytest.raises(error, match=says):
        edge_attribution(model, overlapping, spans=spans)


# -- metrics ----------------------------------------------------------------------------------------------------------
def test_a_function_of_logits_is_a_metric(model: LanguageModel) -> None:
    def difference(logits: torch.Tensor, targets: Any) -> torch.Tensor:
        return torch.stack([row[a[0]] - row[f[0]] for row, a, f in zip(logits, *targets_of(targets), strict=True)])

    def targets_of(targets: Any) -> tuple[Any, Any]:
        return targets.answers, targets.foils

    single = [replace(one, answer_ids=one.answer_ids[:1]) for one in EVEN]
    expected = edge_attribution(model, single).scores
    np.testing.assert_allclose(edge_attribution(model, single, difference).scores, expected, **CLOSE)


@pytest.mark.parametrize("metric", ["log_prob", "prob_diff", "logit"])
def test_metrics_with_a_gradient_have_scores(model: LanguageModel, metric: str) -> None:
    found = edge_attribution(model, EVEN, metric)
    assert abs(found.scores).max() > 1e-6
    assert found.facts["warnings"] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_divergence_from_the_run_itself_has_no_gradient_and_says_so(dtype: torch.dtype) -> None:
    model = language_model("gpt2", dtype)
    noising = edge_attribution(model, EVEN, "kl_divergence")
    assert 0 < abs(noising.scores).max() < 1e-6, "rounding leaves something, which is no score"
    assert "zero wherever it was taken" in noising.facts["warnings"][0]
    denoising = edge_attribution(model, EVEN, "kl_divergence", direction="denoising")
    assert abs(denoising.scores).max() > 1e-3
    assert denoising.facts["warnings"] == []
    flat = edge_attribution(model, EVEN, lambda logits: logits[:, 0] * 0)
    assert "zero wherever it was taken" in flat.facts["warnings"][0]


@pytest.mark.parametrize("metric", ["rank", "accuracy"])
def test_a_metric_without_gradient_is_refused(model: LanguageModel, metric: str) -> None:
    with pytest.raises(MetricError, match="no gradient"):
        edge_attribution(model, EVEN, metric)
    with pytest.raises(MetricError, match="no gradient"):
        edge_attribution(model, EVEN, lambda logits: logits.argmax(-1).double())


# -- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "says"),
    [("bert", "no sum of writes"), ("mamba", "without attention heads"), ("t5", "cross-attention")],
)
def test_families_without_such_edges_say_why(name: str, says: str) -> None:
    model = LanguageModel(zoo.model(name))
    with pytest.raises(SiteError, match=says):
        edge_attribution(model, EVEN)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "acdc"}, {"rule": "middle"}, {"direction": "both"}, {"source": "noise"}, {"aggregation": "max"},
        {"steps": 0}, {"steps": 2.5}, {"batch": 0},
    ],
)  # fmt: skip
def test_unknown_options_are_refused_before_anything_runs(model: LanguageModel, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        attribution_steps(model, EVEN, **options)


def test_pairs_that_do_not_align_or_lack_a_foil_are_refused(model: LanguageModel) -> None:
    with pytest.raises(PromptError, match="first differ"):
        edge_attribution(model, pair([1, 2, 3], [1, 2], (4,), (5,)))
    with pytest.raises(PromptError, match="foil"):
        edge_attribution(model, pair([1, 2, 3], [1, 2, 4], (4,)))


# -- running ----------------------------------------------------------------------------------------------------------
def test_progress_counts_backwards_and_ends_at_the_total(model: LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    edge_attribution(
        model, EVEN, method="eap-ig-inputs", steps=3, batch=2, progress=lambda *numbers: seen.append(numbers)
    )
    assert seen == [(n, 6) for n in range(1, 7)]


def test_each_batch_refines_the_mean_of_the_pairs_so_far(model: LanguageModel) -> None:
    steps = list(attribution_steps(model, EVEN, batch=1))
    assert [step.pairs for step in steps] == [1, 2, 3, 4]
    np.testing.assert_allclose(steps[0].scores.scores, edge_attribution(model, EVEN[0]).scores, **CLOSE)
    np.testing.assert_allclose(steps[-1].scores.scores, edge_attribution(model, EVEN).scores, **CLOSE)


def test_it_stops_between_two_forwards(model: LanguageModel) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Stopped):
        edge_attribution(model, EVEN, method="eap-ig-inputs", should_stop=stop)
    assert len(asked) == 4


def test_batches_that_do_not_fit_are_halved(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = edge_attribution(model, EVEN).scores
    real, sizes = attribution.Work.batch, []

    def tight(self: Any, members: Any, *more: Any) -> Any:
        sizes.append(len(members))
        if len(members) > limit:
            raise torch.OutOfMemoryError("no room")
        return real(self, members, *more)

    limit = 1
    monkeypatch.setattr(attribution.Work, "batch", tight)
    np.testing.assert_allclose(edge_attribution(model, EVEN).scores, expected, **CLOSE)
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    limit = 0
    with pytest.raises(OutOfMemoryError, match="6 tokens"):
        edge_attribution(model, EVEN)


def test_the_model_is_left_as_it_was(model: LanguageModel) -> None:
    before = [(name, value.clone()) for name, value in model.module.state_dict().items()]
    edge_attribution(model, EVEN, method="ig-mask", steps=2)
    assert all(torch.equal(model.module.state_dict()[name], value) for name, value in before)
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()]
    assert sum(hooks) == 0
    assert all(value.grad is None and not value.requires_grad for value in model.module.parameters())


def test_results_say_how_they_were_made(model: LanguageModel) -> None:
    found = edge_attribution(model, EVEN, method="eap-ig-inputs", steps=3, rule="midpoint", source="mean")
    facts = found.facts
    assert (facts["method"], facts["steps"], facts["rule"], facts["source"]) == ("eap-ig-inputs", 3, "midpoint", "mean")
    assert facts["pairs"] == 4
    assert facts["edges"] == int(found.real.sum())
    assert edge_attribution(model, EVEN[0]).facts["steps"] is None
    source, reader, score = found.top(1)[0]
    assert found.score(source, reader) == score
