"""Exact edge patching: options, batches, refusals, stopping. What its numbers are is tested in tests/parity."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from tests import zoo
from tests.decoders import language_model, pair, pairs
from tracing.circuits import exact
from tracing.circuits.attribution import edge_attribution
from tracing.circuits.exact import circuit_metric, edge_effects
from tracing.circuits.layout import Layout
from tracing.errors import MetricError, ModelError, OutOfMemoryError, PromptError, SiteError, SpecError, Stopped
from tracing.models import LanguageModel
from tracing.patching.paths import path_patching

SOME = [("input", "a0.h1<q>"), ("a0.h1", "a2.kv1<k>"), ("m1", "logits"), ("a1.h2", "m1")]


def llama(dtype: torch.dtype = torch.float64) -> LanguageModel:
    return language_model("llama", dtype)


def random_circuits(model: LanguageModel, count: int) -> np.ndarray:
    real = Layout.of(model.facts, model.adapter).real
    return real & (np.random.default_rng(1).random((count, *real.shape)) < 0.7)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_the_batch_size_changes_nothing(batch: int) -> None:
    model, several = language_model("gpt2", torch.float64), pairs(5)
    one, other = edge_effects(model, several), edge_effects(model, several, batch=batch)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-12, rtol=0)
    keep = random_circuits(model, 5)
    np.testing.assert_allclose(
        circuit_metric(model, several, "logit_diff", keep),
        circuit_metric(model, several, "logit_diff", keep, batch=batch), atol=1e-12, rtol=0,
    )  # fmt: skip


def test_pairs_of_other_lengths_in_the_set_change_nothing() -> None:
    model, several = language_model("gpt2", torch.float64), pairs(5)
    together = edge_effects(model, several).scores
    alone = np.mean([edge_effects(model, [one]).scores for one in several], axis=0)
    np.testing.assert_allclose(together, alone, atol=1e-12, rtol=0)


def test_parts_of_a_group_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = language_model("gpt2", torch.float64), pairs(6, lengths=(6,))
    whole = [edge_effects(model, several, ablation=ablation).scores for ablation in ("interchange", "mean", "resample")]
    monkeypatch.setattr("tracing.circuits.runs.BYTES", 1)
    parts = [edge_effects(model, several, ablation=ablation).scores for ablation in ("interchange", "mean", "resample")]
    np.testing.assert_allclose(parts, whole, atol=1e-12, rtol=0)


def test_denoising_is_noising_of_the_swapped_pairs() -> None:
    model, several = llama(), pairs(4)
    swapped = [pair(list(p.corrupted_ids), list(p.clean_ids), p.answer_ids, p.foil_ids, p.number) for p in several]
    np.testing.assert_array_equal(
        edge_effects(model, several, direction="denoising").scores, edge_effects(model, swapped).scores
    )


def test_edges_asked_for_are_those_of_all_and_the_others_have_no_score() -> None:
    model, several = llama(), pairs(3)
    every, some = edge_effects(model, several), edge_effects(model, several, edges=SOME)
    assert int(np.isfinite(some.scores[some.real]).sum()) == len(SOME)
    for source, reader in SOME:
        assert some.score(source, reader) == pytest.approx(every.score(source, reader), abs=1e-12)
    mask = np.isfinite(some.scores) & some.real
    np.testing.assert_allclose(edge_effects(model, several, edges=mask).scores, some.scores, atol=1e-12, rtol=0)
    assert (some.scores[~some.real] == 0).all()


def test_a_circuit_without_one_edge_has_the_effect_of_that_edge() -> None:
    model, several = llama(), pairs(3)
    effects = edge_effects(model, several, edges=SOME)
    layout = Layout.of(model.facts, model.adapter)
    keep = np.stack([layout.real, *[layout.real] * len(SOME)])
    for number, (source, reader) in enumerate(SOME, start=1):
        keep[(number, *layout.edge(source, reader))] = False
    values = circuit_metric(model, several, "logit_diff", keep).mean(1)
    for number, (source, reader) in enumerate(SOME, start=1):
        assert values[number] - values[0] == pytest.approx(effects.score(source, reader), abs=1e-7)


def test_one_circuit_gives_one_number_a_pair_and_several_a_row_each() -> None:
    model, several = llama(), pairs(4)
    keep = random_circuits(model, 2)
    both = circuit_metric(model, several, "logit_diff", list(keep))
    assert both.shape == (2, 4)
    np.testing.assert_allclose(circuit_metric(model, several, "logit_diff", keep[1]), both[1], atol=1e-7, rtol=0)


@pytest.mark.parametrize("metric", ["prob", "kl_divergence", "log_prob", "rank"])
def test_every_metric_reads_what_the_model_s_own_logits_give(metric: str) -> None:
    model, several = language_model("gpt2", torch.float64), pairs(3)
    layout = Layout.of(model.facts, model.adapter)
    both = circuit_metric(model, several, metric, np.stack([layout.real, np.zeros_like(layout.real)]))
    for row, ids in ((0, "clean_ids"), (1, "corrupted_ids")):
        for number, one in enumerate(several):
            logits, clean = (model.logits([getattr(one, key)])[0, -1] for key in (ids, "clean_ids"))
            shares, answers = logits.softmax(0), list(one.answer_ids)
            expected = {
                "prob": shares[answers].sum(),
                "log_prob": shares[answers].sum().log(),
                "rank": (logits > logits[answers].max()).sum(),
                "kl_divergence": (clean.softmax(0) * (clean.log_softmax(0) - logits.log_softmax(0))).sum(),
            }[metric]
            assert both[row, number] == pytest.approx(float(expected), abs=1e-10)


def test_the_answer_may_be_at_any_position_or_at_all() -> None:
    model, several = language_model("gpt2", torch.float64), pairs(3, lengths=(6,))
    keep = Layout.of(model.facts, model.adapter).real
    logits = torch.stack([model.logits([one.clean_ids])[0] for one in several])
    third = circuit_metric(model, several, lambda logits: logits[:, 7], keep, answer=2)
    np.testing.assert_allclose(third, logits[:, 2, 7], atol=1e-12, rtol=0)
    every = circuit_metric(model, several, lambda logits: logits[..., 7].sum(-1), keep, answer="all")
    np.testing.assert_allclose(every, logits[..., 7].sum(-1), atol=1e-10, rtol=0)
    with pytest.raises(MetricError, match="reads one position, not all"):
        circuit_metric(model, several, "logit_diff", keep, answer="all")


def test_progress_counts_edges_and_pairs_and_stopping_stops() -> None:
    model, several = llama(), pairs(4)
    seen: list[tuple[int, int]] = []
    edge_effects(model, several, edges=SOME, progress=lambda done, total: seen.append((done, total)), batch=1)
    assert seen[-1] == (len(SOME) * 4, len(SOME) * 4)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(Stopped):
        edge_effects(model, several, should_stop=lambda: True)


def test_a_batch_that_does_not_fit_is_halved_and_one_row_too_many_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = llama(), pairs(2, lengths=(6,))
    expected, walk, limit = edge_effects(model, several).scores, exact.walk, 3

    def small(layout: Any, blocks: Any, calls: Any, start: int, hidden: torch.Tensor, edit: Any) -> torch.Tensor:
        if len(hidden) > 2 * limit:
            raise MemoryError
        return walk(layout, blocks, calls, start, hidden, edit)

    monkeypatch.setattr(exact, "walk", small)
    np.testing.assert_allclose(edge_effects(model, several).scores, expected, atol=1e-7, rtol=0)
    limit = 0
    with pytest.raises(OutOfMemoryError, match="One patched batch of 2 pairs"):
        edge_effects(model, several)


def test_no_hook_stays_behind_even_after_an_error() -> None:
    model, several = llama(), pairs(2)
    with pytest.raises(MetricError):
        edge_effects(model, several, lambda logits: logits)
    edge_effects(model, several, edges=SOME)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_near_float64(dtype: torch.dtype) -> None:
    several = pairs(3)
    expected, found = edge_effects(llama(), several), edge_effects(llama(dtype), several)
    assert found.scores.dtype == np.float32
    size = np.abs(expected.scores).max()
    np.testing.assert_allclose(found.scores, expected.scores, atol=size * (1e-4 if dtype == torch.float32 else 0.1))


@pytest.mark.parametrize(("name", "reason"), [("mamba", "without attention heads"), ("bert", "norms the residual")])
def test_families_without_edges_are_refused_with_the_reason(name: str, reason: str) -> None:
    model = LanguageModel(zoo.model(name))
    with pytest.raises(SiteError, match=reason):
        edge_effects(model, pairs(2))


def test_what_makes_no_sense_is_refused_before_anything_runs() -> None:
    model, several = llama(), pairs(3)
    real = Layout.of(model.facts, model.adapter).real
    with pytest.raises(SiteError, match="There is no edge from m2 to a0"):
        edge_effects(model, several, edges=[("m2", "a0.h0<q>")])
    with pytest.raises(SiteError, match=r"There is no reader 'a0.h0<k>'\. Did you mean"):
        edge_effects(model, several, edges=[("input", "a0.h0<k>")])
    with pytest.raises(SpecError, match="Unknown ablation 'noise'"):
        edge_effects(model, several, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="Unknown direction"):
        edge_effects(model, several, direction="up")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="0 is no batch size"):
        edge_effects(model, several, batch=0)
    with pytest.raises(SpecError, match=r"bool \[source, reader\] = \[16, 28\]; this one is bool \[16, 3\]"):
        circuit_metric(model, several, "logit_diff", real[:, :3])
    with pytest.raises(SpecError, match="this one is float64"):
        circuit_metric(model, several, "logit_diff", real.astype(float))
    with pytest.raises(PromptError, match="there is only one"):
        edge_effects(model, several[:1], ablation="resample")
    with pytest.raises(PromptError, match="compares the answer with a foil"):
        edge_effects(model, [pair([1, 2, 3], [1, 4, 3], (5,))])


@pytest.mark.parametrize("measure", [edge_effects, edge_attribution, path_patching])
def test_a_norm_that_two_readers_have_in_common_is_refused(measure: Any) -> None:
    module = zoo.model("llama", torch.float64)
    module.model.layers[1].post_attention_layernorm = module.model.layers[1].input_layernorm
    model = LanguageModel(module)
    with pytest.raises(ModelError, match="post_attention_layernorm of layer 1 is the very module"):
        measure(model, pairs(1))
    module.model.layers[1].post_attention_layernorm = deepcopy(module.model.layers[1].input_layernorm)
    measure(LanguageModel(module), pairs(1))
