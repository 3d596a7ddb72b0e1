"""Token attribution against loops over `inputs_embeds`, finite differences and the completeness axiom, float64."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.decoders import language_model, pairs
from tracing.demo import MODEL_DIR
from tracing.errors import MetricError, PromptError, SpecError, Stopped
from tracing.lenses.integral import RULES, points
from tracing.lenses.saliency import completeness, token_attribution
from tracing.models import LanguageModel
from tracing.prompts import PromptPair, TokenizedPair


def metric_of(model: LanguageModel, embeddings: Tensor, one: TokenizedPair) -> Tensor:
    """The logit difference of one prompt given its embeddings, by transformers alone."""
    last = model.module(inputs_embeds=embeddings, use_cache=False).logits[0, one.answer_position]
    return last[list(one.answer_ids)].mean() - last[list(one.foil_ids)].mean()


def looked_up(model: LanguageModel, ids: Any) -> Tensor:
    return model.module.get_input_embeddings()(torch.tensor([list(ids)])).detach()


def plain_integral(model: LanguageModel, one: TokenizedPair, base: Tensor, alphas: Any, weights: Any) -> Tensor:
    """Integrated gradients as their definition reads, one prompt and one point at a time: `[position]`."""
    clean = looked_up(model, one.clean_ids)
    total = torch.zeros_like(clean)
    for alpha, weight in zip(alphas, weights, strict=True):
        point = (base + alpha * (clean - base)).requires_grad_()
        (gradient,) = torch.autograd.grad(metric_of(model, point, one), point)
        total += weight * gradient
    return ((clean - base) * total).sum(-1)[0]


# -- equal to the definition ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*zoo.decoders(), "bert", "mamba"])
def test_integrated_gradients_are_their_definition_on_every_family(name: str) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    some = pairs(2, lengths=(5, 6))
    if name == "bert":  # it answers at a mask, and says nothing of where that is
        some = [replace(one, answer_position=2) for one in some]
    found = token_attribution(model, some, steps=3, rule="midpoint", method="integrated_gradients")
    for n, one in enumerate(some):
        base = looked_up(model, one.corrupted_ids)
        expected = plain_integral(model, one, base, [1 / 6, 1 / 2, 5 / 6], [1 / 3] * 3)
        np.testing.assert_allclose(found.values[n, : one.length, 0], expected, atol=2e-6, rtol=1e-5)
        same = [t for t in range(one.length) if not one.differs[t]]
        assert np.abs(found.values[n, same, 0]).max() == 0.0


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_points_and_weights(rule: Any) -> None:
    where = {
        "midpoint": ([0.25, 0.75], [0.5, 0.5]),
        "left": ([0.0, 0.5], [0.5, 0.5]),
        "right": ([0.5, 1.0], [0.5, 0.5]),
        "trapezoid": ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25]),
        "gauss_legendre": ([0.5 - 12**-0.5, 0.5 + 12**-0.5], [0.5, 0.5]),
    }[rule]
    np.testing.assert_allclose(points(2, rule), where, atol=1e-15)
    model = language_model("gpt2", torch.float64)
    (one,) = pairs(1, lengths=(6,))
    found = token_attribution(model, [one], steps=2, rule=rule)
    expected = plain_integral(model, one, looked_up(model, one.corrupted_ids), *where)
    np.testing.assert_allclose(found.values[0, :, 0], expected, atol=1e-12)


@pytest.mark.parametrize("baseline", ["zero", "mean_embedding", "pad"])
def test_baselines_are_zeros_the_vocabularys_mean_and_the_padding_token(baseline: Any) -> None:
    model = LanguageModel(zoo.model("gpt2", torch.float64))  # its config names token 2 for padding
    (one,) = pairs(1, lengths=(6,))
    table = model.module.get_input_embeddings().weight.detach()
    row = {"zero": torch.zeros_like(table[0]), "mean_embedding": table.mean(0), "pad": table[2]}[baseline]
    base = row.expand(1, 6, -1)
    found = token_attribution(model, [one], baseline=baseline, steps=2, rule="left")
    expected = plain_integral(model, one, base, [0.0, 0.5], [0.5, 0.5])
    np.testing.assert_allclose(found.values[0, :, 0], expected, atol=1e-12)
    difference = metric_of(model, looked_up(model, one.clean_ids), one) - metric_of(model, base, one)
    assert found.facts["differences"][0] == pytest.approx(float(difference), abs=1e-12)


def test_scaled_embeddings_are_compared_as_the_model_reads_them() -> None:
    """Gemma's lookup multiplies by √width: the mean embedding and the completeness are of what it returns."""
    model = LanguageModel(zoo.model("gemma2", torch.float64))
    (one,) = pairs(1, lengths=(6,))
    lookup = model.module.get_input_embeddings()
    mean = lookup(torch.arange(zoo.VOCABULARY)).mean(0).detach().expand(1, 6, -1)
    found = token_attribution(model, [one], baseline="mean_embedding", steps=64, rule="gauss_legendre")
    expected = plain_integral(model, one, mean, *points(64, "gauss_legendre"))
    np.testing.assert_allclose(found.values[0, :, 0], expected, atol=1e-5)


def test_input_times_gradient_is_one_point_at_the_prompt() -> None:
    model = language_model("llama", torch.float64)
    (one,) = pairs(1, lengths=(6,))
    found = token_attribution(model, [one], method="input_x_gradient", baseline="zero")
    expected = plain_integral(model, one, torch.zeros(1, 6, 32).double(), [1.0], [1.0])
    np.testing.assert_allclose(found.values[0, :, 0], expected, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradients_are_the_finite_differences_of_the_metric(name: str) -> None:
    """Moving one token's embedding along its gradient's direction moves the metric by the gradient's norm."""
    model = language_model(name, torch.float64)
    (one,) = pairs(1, lengths=(6,))
    found = token_attribution(model, [one], method="gradient_norm").values[0, :, 0]
    clean = looked_up(model, one.clean_ids).requires_grad_()
    (gradient,) = torch.autograd.grad(metric_of(model, clean, one), clean)
    for t in (0, 3, 5):
        direction = torch.zeros_like(gradient)
        direction[0, t] = gradient[0, t] / gradient[0, t].norm()

        def moved(by: float, direction: Tensor = direction) -> float:
            with torch.no_grad():
                return float(metric_of(model, clean + by * direction, one))

        h = 1e-3
        slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
        assert found[t] == pytest.approx(slope, abs=1e-9 if name == "gpt2" else 1e-3)


# -- completeness -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("baseline", ["corrupted", "zero", "mean_embedding"])
def test_the_sum_tends_to_the_metrics_difference(baseline: Any) -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(3)
    few, many = (
        token_attribution(model, some, baseline=baseline, steps=steps, rule="midpoint").facts for steps in (4, 256)
    )
    assert np.abs(many["errors"]).max() < 1e-3
    assert np.abs(many["errors"]).max() < 0.1 * np.abs(few["errors"]).max()
    np.testing.assert_allclose(np.array(many["sums"]) - many["differences"], many["errors"], atol=1e-14)
    assert many["warnings"] == []


def test_gauss_legendre_is_complete_in_a_few_steps() -> None:
    model = language_model("gpt2", torch.float64)
    found = token_attribution(model, pairs(3), steps=24, rule="gauss_legendre")
    assert np.abs(found.facts["errors"]).max() < 1e-6


def test_the_curve_shows_the_sum_at_each_number_of_steps() -> None:
    model = language_model("gpt2", torch.float64)
    some = pairs(3)
    told: list[tuple[int, int]] = []
    curve = completeness(model, some, steps=(1, 4, 16, 64), progress=lambda done, total: told.append((done, total)))
    line, target = (one.y for one in curve.series)
    assert curve.x.tolist() == [1, 4, 16, 64]
    for n, steps in enumerate((1, 4, 16, 64)):
        facts = token_attribution(model, some, steps=steps).facts
        assert line[n] == pytest.approx(np.mean(facts["sums"]), abs=1e-12)
        assert target[n] == pytest.approx(np.mean(facts["differences"]), abs=1e-12)
    assert abs(line[-1] - target[-1]) < 1e-2 * abs(line[0] - target[0]) + 1e-6
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_sum_far_from_the_difference_is_said() -> None:
    model = language_model("gpt2", torch.float64)
    found = token_attribution(model, pairs(3), baseline="zero", steps=1, rule="left")
    assert "do not add up" in found.facts["warnings"][0]


# -- batches, lengths, other models -----------------------------------------------------------------------------------
def test_scores_do_not_depend_on_the_batch_nor_on_the_other_prompts() -> None:
    model = language_model("llama", torch.float64)
    some = pairs(5)
    together = token_attribution(model, some, steps=4).values
    split = token_attribution(model, some, steps=4, batch=3).values
    np.testing.assert_allclose(together, split, atol=1e-9)
    for n, one in enumerate(some):
        alone = token_attribution(model, [one], steps=4).values[0, :, 0]
        np.testing.assert_allclose(together[n, : one.length, 0], alone, atol=1e-9)
        assert np.isnan(together[n, one.length :, 0]).all()


def test_tokens_of_shorter_prompts_are_empty_behind_their_end() -> None:
    model = language_model("gpt2")
    found = token_attribution(model, pairs(2), steps=1)
    assert found.tokens[0][5] == ("",)
    assert found.tokens[1][5] != ("",)
    assert len(found.columns) == 6


def test_an_encoder_decoder_is_explained_by_what_its_encoder_reads() -> None:
    model = LanguageModel(zoo.model("t5_gated", torch.float64))
    (one,) = pairs(1, lengths=(6,))
    found = token_attribution(model, [one], steps=4)
    clean, base = (model.module.shared(torch.tensor([ids])).detach() for ids in (one.clean_ids, one.corrupted_ids))
    total = torch.zeros_like(clean)
    for k in range(4):
        point = (base + (k + 0.5) / 4 * (clean - base)).requires_grad_()
        logits = model.module(inputs_embeds=point, decoder_input_ids=torch.tensor([[2]])).logits[0, -1]
        value = logits[list(one.answer_ids)].mean() - logits[list(one.foil_ids)].mean()
        total += torch.autograd.grad(value, point)[0] / 4
    np.testing.assert_allclose(found.values[0, :, 0], ((clean - base) * total).sum(-1)[0], atol=1e-6)


def test_bfloat16_gives_the_scores_up_to_its_rounding() -> None:
    some = pairs(3, lengths=(6,))
    wide = token_attribution(language_model("gpt2"), some, steps=8, baseline="zero").values.ravel()
    narrow = token_attribution(language_model("gpt2", torch.bfloat16), some, steps=8, baseline="zero").values.ravel()
    assert np.corrcoef(wide, narrow)[0, 1] > 0.99


# -- prompts without pairs --------------------------------------------------------------------------------------------
def test_texts_are_explained_by_the_token_that_the_model_predicts() -> None:
    model = LanguageModel(MODEL_DIR)
    text = "The Eiffel Tower is in"
    found = token_attribution(model, text, "log_prob", baseline="mean_embedding", steps=16)
    pair = PromptPair(clean=text, corrupted="The Colosseum is in", answer=" Paris", foil=" Rome")
    paired = token_attribution(model, [pair], "log_prob", baseline="mean_embedding", steps=16)
    np.testing.assert_allclose(found.values, paired.values, atol=1e-6)
    assert [cell[0] for cell in found.tokens[0]] == ["The", " Eiffel Tower", " is", " in"]


def test_the_landmark_explains_the_city_on_the_demo_model() -> None:
    """A known case: of the tokens that both prompts share, none can score; the landmark has the whole difference."""
    model = LanguageModel(MODEL_DIR)
    pair = PromptPair(clean="The Eiffel Tower is in", corrupted="The Colosseum is in", answer=" Paris", foil=" Rome")
    found = token_attribution(model, [pair], steps=64)
    assert int(np.argmax(np.abs(found.values[0, :, 0]))) == 1
    assert found.values[0, 1, 0] == pytest.approx(found.facts["differences"][0], rel=0.02)


# -- refusals and stopping --------------------------------------------------------------------------------------------
REFUSED: list[tuple[Callable[[LanguageModel], Any], type[Exception], str]] = [
    (lambda m: token_attribution(m, pairs(1), method="saliency"), SpecError, "Unknown method"),  # type: ignore[arg-type]
    (lambda m: token_attribution(m, pairs(1), baseline="noise"), SpecError, "Unknown baseline"),  # type: ignore[arg-type]
    (lambda m: token_attribution(m, pairs(1), rule="simpson"), SpecError, "Unknown rule"),  # type: ignore[arg-type]
    (lambda m: token_attribution(m, pairs(1), steps=0), SpecError, "no number of steps"),
    (lambda m: token_attribution(m, pairs(1), batch=0), SpecError, "no batch size"),
    (lambda m: token_attribution(m, pairs(1), "accuracy"), MetricError, "has no gradient"),
    (lambda m: token_attribution(m, [[3, 5, 7]], "logit"), SpecError, "no corrupted prompt"),
    (lambda m: token_attribution(m, [[3, 5, 7]], baseline="zero"), SpecError, "texts alone have none"),
    (lambda m: token_attribution(m, [], "logit", baseline="zero"), PromptError, "no prompts"),
    (lambda m: completeness(m, pairs(1), steps=()), SpecError, "no numbers of steps"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_done_is_refused(
    call: Callable[[LanguageModel], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(language_model("gpt2"))


def test_a_model_without_padding_token_has_no_padding_baseline() -> None:
    model = language_model("gpt2")
    assert model.config.pad_token_id is None
    with pytest.raises(SpecError, match="no padding token"):
        token_attribution(model, pairs(1), baseline="pad")


def test_it_stops_between_two_batches() -> None:
    told: list[tuple[int, int]] = []
    with pytest.raises(Stopped):
        token_attribution(
            language_model("gpt2"), pairs(2, lengths=(5,)), steps=4, batch=2,
            progress=lambda done, total: told.append((done, total)), should_stop=lambda: len(told) == 2,
        )  # fmt: skip
    assert told == [(2, 8), (4, 8)]
