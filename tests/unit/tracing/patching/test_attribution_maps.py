"""Attribution maps: what sums to what, a sweep's axes, batches and lengths, sources, streaming, refusals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.decoders import language_model, pair, pairs
from tests.unit.tracing.patching.slopes import cell, logit_diff, patched, slope
from tracing.errors import MetricError, PromptError, SiteError, SpecError, Stopped
from tracing.models import LanguageModel
from tracing.patching.attribution import Options, attribution_patching, attribution_steps
from tracing.patching.sweeps import sweep
from tracing.prompts import TokenizedPair


# -- what sums to what ------------------------------------------------------------------------------------------------
def test_scores_of_heads_sum_to_the_site_and_positions_to_all_positions() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(4)
    by_head = attribution_patching(model, some, sites="z", over=("layer", "head", "position"))
    by_position = attribution_patching(model, some, sites="z", over=("layer", "position"))
    heads = attribution_patching(model, some, sites="z", over=("layer", "head"))
    split = by_head.examples.reshape(4, 3, 4, -1)
    np.testing.assert_allclose(split.sum(2), by_position.examples, atol=1e-13)
    np.testing.assert_allclose(np.nansum(split, -1), heads.examples, atol=1e-13)


def test_head_outputs_have_the_scores_of_z() -> None:
    model = language_model("llama", torch.float64)
    found = attribution_patching(model, pairs(3), sites=["z", "head_out"], over=("layer", "head"))
    np.testing.assert_array_equal(found["z"].planes["score"], found["head_out"].planes["score"])


def test_the_estimate_is_exact_behind_the_last_block_of_a_model_without_final_norm() -> None:
    """There the metric is linear in the residual stream."""
    module = zoo.model("gpt2", torch.float64)
    module.transformer.ln_f = torch.nn.Identity()
    model = LanguageModel(module, verify=False)
    (one,) = pairs(1, lengths=(6,))
    found = attribution_patching(model, [one], sites="resid_post")
    effect = patched(model, one, "resid_post", 2, cell("resid_post", 5, None), 1.0, noising=False)
    assert found.planes["score"][2, 5] == pytest.approx(effect - found.corrupted[0], abs=1e-11)
    assert found.planes["estimated_recovery"][2, 5] == pytest.approx(1.0, abs=1e-11)


def test_a_map_has_a_sweeps_axes_and_labels() -> None:
    model = language_model("llama", torch.float64)
    some = [replace(one, spans=(("first", 0, 2), ("END", one.length - 1, one.length))) for one in pairs(3)]
    for site, over in (
        ("resid_pre", ("layer", "position")), ("resid_pre", ("layer",)), ("z", ("layer", "head", "position")),
        ("k", ("layer", "head")), ("mlp_out", ("layer", "span")), ("neurons", ("layer", "neuron")),
        ("z", ("example", "layer", "head")), ("resid_pre", ("example", "layer")),
        ("v", ("layer", "head", "span")),
    ):  # fmt: skip
        estimated = attribution_patching(model, some, sites=site, over=over)
        exact = sweep(model, some, sites=site, over=over)
        assert (estimated.rows, estimated.columns) == (exact.rows, exact.columns), over
        assert estimated.facts["over"] == exact.facts["over"]
        assert np.array_equal(np.isnan(estimated.planes["score"]), np.isnan(exact.planes["raw"]))


def test_spans_and_single_layers_are_sums_of_positions() -> None:
    model = language_model("llama", torch.float64)
    some = [replace(one, spans=(("first", 0, 2), ("END", one.length - 1, one.length))) for one in pairs(3)]
    spans = attribution_patching(model, some, sites="mlp_out", over=("layer", "span"))
    for n, one in enumerate(some):
        whole = attribution_patching(model, [one], sites="mlp_out").examples[0]
        np.testing.assert_allclose(spans.examples[n], np.stack([whole[:, :2].sum(1), whole[:, -1]], 1), atol=1e-13)
    heads = attribution_patching(model, some, sites="z", over=("layer", "head", "position"))
    alone = attribution_patching(model, some, sites="z", over=("head", "position"), layers=2)
    np.testing.assert_array_equal(alone.planes["score"], heads.planes["score"][8:])
    backwards = attribution_patching(model, some, sites="z", over=("layer", "head"), layers=[-1, 0])
    assert [tick.label for tick in backwards.rows.ticks] == ["2", "0"]


# -- examples, batches, lengths ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("over", [("layer", "position"), ("layer", "head")])
def test_scores_do_not_depend_on_the_batch_nor_on_the_other_pairs(over: Sequence[str]) -> None:
    model = language_model("llama", torch.float64)
    some = pairs(6)
    together = attribution_patching(model, some, sites="z", over=over)
    one_by_one = attribution_patching(model, some, sites="z", over=over, batch=1)
    np.testing.assert_allclose(together.examples, one_by_one.examples, atol=1e-12)
    for n, single in enumerate(some):
        alone = attribution_patching(model, [single], sites="z", over=over)
        width = alone.examples.shape[-1]
        np.testing.assert_allclose(alone.examples[0], together.examples[n][:, -width:], atol=1e-12)
    np.testing.assert_allclose(together.planes["score"], np.nanmean(together.examples, 0), atol=1e-14)


def test_positions_line_up_at_the_start_or_the_end() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(3)  # of 5, 6 and 8 tokens
    ends, starts = (attribution_patching(model, some, positions=where).examples for where in ("end", "start"))
    for n, one in enumerate(some):
        assert np.isnan(ends[n][:, : 8 - one.length]).all()
        assert np.isnan(starts[n][:, one.length :]).all()
        np.testing.assert_array_equal(ends[n][:, 8 - one.length :], starts[n][:, : one.length])


def test_absolute_values_are_taken_of_each_pair_and_before_the_mean() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(4, lengths=(6,))
    signed, absolute = (attribution_patching(model, some, absolute=flag) for flag in (False, True))
    np.testing.assert_allclose(absolute.planes["score"], np.abs(signed.examples).mean(0), atol=1e-14)
    np.testing.assert_allclose(absolute.examples, signed.examples, atol=1e-14)
    assert set(absolute.planes) == {"score"}
    assert absolute.quantities[0].domain[0] == 0.0


def test_the_example_axis_holds_each_pair() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(3)
    found = attribution_patching(model, some, sites="z", over=("layer", "head"))
    by_pair = attribution_patching(model, some, sites="z", over=("example", "layer", "head"))
    assert by_pair.examples is None
    assert [tick.label for tick in by_pair.rows.ticks[:4]] == ["L0.pair 1", "L0.pair 2", "L0.pair 3", "L1.pair 1"]
    np.testing.assert_array_equal(by_pair.planes["score"], found.examples.swapaxes(0, 1).reshape(9, 4))
    recovery = (found.corrupted[:, None, None] + found.examples - found.corrupted[:, None, None]) / (
        found.clean - found.corrupted
    )[:, None, None]
    np.testing.assert_allclose(by_pair.planes["estimated_recovery"], recovery.swapaxes(0, 1).reshape(9, 4), atol=1e-12)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_estimated_recovery_is_a_sweeps_recovery_of_the_estimate(direction: Any) -> None:
    model = language_model("llama", torch.float64)
    some = pairs(4, lengths=(6,))
    found = attribution_patching(model, some, direction=direction)
    clean, corrupted = found.clean.mean(), found.corrupted.mean()
    unpatched = corrupted if direction == "denoising" else clean
    expected = (unpatched + found.planes["score"] - corrupted) / (clean - corrupted)
    np.testing.assert_allclose(found.planes["estimated_recovery"], expected, atol=1e-12)


# -- sources ----------------------------------------------------------------------------------------------------------
def test_zero_and_mean_sources_are_slopes_towards_zero_and_towards_the_mean_at_the_position() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(3)
    zero, mean = (
        attribution_patching(model, some, sites="mlp_out", direction="noising", source=source)
        for source in ("zero", "mean")
    )
    runs = []
    for one in some:
        with model.trace(list(one.corrupted_ids)):
            runs.append(model.sites.mlp_out[1].save())
    target = torch.stack([run.value[0, -2] for run in runs]).mean(0)
    for n, one in enumerate(some):

        def effect(share: float, to: Tensor, ids: tuple[int, ...] = one.clean_ids, of: TokenizedPair = one) -> float:
            with model.trace(list(ids)):
                own = model.sites.mlp_out[1][:, -2]
                model.sites.mlp_out[1][:, -2] = own + share * (to - own)
                logits = model.output.save()
            return logit_diff(model, logits.value, of)

        assert zero.examples[n, 1, -2] == pytest.approx(slope(lambda s: effect(s, torch.zeros(32).double())), abs=1e-8)
        assert mean.examples[n, 1, -2] == pytest.approx(slope(lambda s: effect(s, target)), abs=1e-8)


def test_resampling_takes_another_pairs_activations_and_keeps_the_pairs_own_baselines() -> None:
    model = language_model("gpt2", torch.float64)
    a, b = pairs(2, lengths=(6,))
    both = attribution_patching(model, [a, b], direction="noising", source="resample")
    crossed = pair(list(a.clean_ids), list(b.corrupted_ids), a.answer_ids, a.foil_ids)
    expected = attribution_patching(model, [crossed], direction="noising")
    np.testing.assert_allclose(both.examples[0], expected.examples[0], atol=1e-13)
    own = attribution_patching(model, [a], direction="noising")
    assert both.corrupted[0] == pytest.approx(own.corrupted[0], abs=1e-13)


# -- streaming, stopping, precision -----------------------------------------------------------------------------------
def test_steps_refine_the_same_maps_pair_by_pair() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(5, lengths=(6,))
    seen = []
    for step in attribution_steps(model, some, batch=2):
        grid = step.grids()["resid_pre"]
        seen.append((step.done, step.total, grid.facts["pairs"]))
        np.testing.assert_allclose(
            grid.planes["score"], attribution_patching(model, some[: step.done]).planes["score"], atol=1e-13
        )
    assert seen == [(2, 5, 2), (4, 5, 4), (5, 5, 5)]


def test_progress_is_told_and_stopping_ends_between_two_batches() -> None:
    model = language_model("gpt2")
    told: list[tuple[int, int]] = []
    attribution_patching(
        model, pairs(3, lengths=(5,)), batch=1, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    with pytest.raises(Stopped):
        attribution_patching(
            model, pairs(3, lengths=(5,)), batch=1, progress=lambda done, total: told.append((done, total)),
            should_stop=lambda: len(told) == 2,
        )  # fmt: skip
    assert told == [(1, 3), (2, 3)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_bfloat16_gives_the_same_map_up_to_its_rounding(name: str) -> None:
    module = zoo.model(name, torch.float32)
    wide = attribution_patching(LanguageModel(module), pairs(4, lengths=(6,)), sites="resid_post")
    narrow = attribution_patching(LanguageModel(module.to(torch.bfloat16)), pairs(4, lengths=(6,)), sites="resid_post")
    assert narrow.planes["score"].dtype == np.float32
    a, b = wide.planes["score"].ravel(), narrow.planes["score"].ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.98
    assert np.abs(a - b).max() < 0.2 * np.abs(a).max()


def test_weights_get_no_gradient_and_no_hook_stays() -> None:
    model = language_model("gpt2")
    attribution_patching(model, pairs(2), sites=["z", "pattern", "q"])
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


def test_sdpa_attention_runs_unless_patterns_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("llama")
    called = []
    original = torch.nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        called.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    attribution_patching(model, pairs(1), sites=["q", "k", "q_rot"], qk_fix=True)
    assert len(called) == 6


# -- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"over": ("head", "position"), "sites": "z"}, SpecError, "layers=3"),
        ({"over": ("layer", "head")}, SiteError, "resid_pre has no head axis"),
        ({"over": ("layer", "neuron")}, SiteError, "no neuron axis"),
        ({"over": ("layer", "token")}, SpecError, "token"),
        ({"over": ("position", "layer")}, SpecError, "in this order"),
        ({"over": ("layer", "span")}, SpecError, "no named spans"),
        ({"layers": 7}, SiteError, "no layer 7"),
        ({"sites": []}, SpecError, "at least one site"),
        ({"sites": "resid_before"}, SiteError, "resid_before"),
        ({"sites": "logits"}, SiteError, "has no layers"),
        ({"sites": "neuron"}, SiteError, "no site 'neuron'"),
        ({"direction": "denoise"}, SpecError, "Unknown direction"),
        ({"source": "noise"}, SpecError, "Unknown source"),
        ({"qk_fix": True}, SpecError, "sites q and k"),
        ({"qk_fix": True, "sites": "q", "source": "mean"}, SpecError, "not by mean"),
        ({"batch": 0}, SpecError, "no batch size"),
        ({"positions": "middle"}, SpecError, "middle"),
        ({"metric": "rank"}, MetricError, "has no gradient"),
        ({"metric": "accuracy"}, MetricError, "has no gradient"),
        ({"source": "resample"}, PromptError, "pair 1 has none"),
    ],
)
def test_what_cannot_be_done_is_refused(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    model = language_model("gpt2")
    with pytest.raises(error, match=message):
        attribution_patching(model, pairs(2), **{"sites": "resid_pre", **keywords})


def test_a_metric_without_slope_at_the_patched_run_is_named() -> None:
    model = language_model("gpt2", torch.float64)
    flat = attribution_patching(model, pairs(2), "kl_divergence", direction="noising")
    assert np.abs(flat.planes["score"]).max() < 1e-12
    assert "no slope" in flat.facts["warnings"][0]
    fine = attribution_patching(model, pairs(2), "kl_divergence")
    assert np.abs(fine.planes["score"]).max() > 1e-3
    assert fine.facts["warnings"] == []


def test_options_say_what_was_done() -> None:
    assert Options(qk_fix=True, grad_drop=True).facts["method"] == "atp_star"
    found = attribution_patching(language_model("gpt2"), pairs(1), absolute=True)
    assert {key: found.facts[key] for key in ("method", "direction", "source", "absolute", "metric", "pairs")} == {
        "method": "atp", "direction": "denoising", "source": "interchange", "absolute": True, "metric": "logit_diff",
        "pairs": 1,
    }  # fmt: skip
