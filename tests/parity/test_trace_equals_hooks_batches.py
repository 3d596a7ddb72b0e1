"""Batches whose prompts end at different places: in length, while generating, and beside one another's interventions.

Each prompt of a batch equals its own plain run with hooks: 1e-12 of the largest number in float64; in float32, where a
family refuses padding in float64, 1e-5, as for GPT-J, whose attention is in float32 always.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.parity import hooks
from tests.parity.subjects import GENERATING, UNPADDED, Subject, error, generating, subject
from tests.parity.test_trace_equals_hooks_generation import GREEDY, PADDED, plain, prompt_of
from tracing import LanguageModel
from tracing.errors import PromptError

TOLERANCE = 1e-12
FLOAT32 = 1e-5


def prompt(one: Subject, start: int, length: int) -> dict[str, Tensor]:
    return {"input_ids": zoo.ids(1, 80)[:, start : start + length]}


def tolerance(one: Subject) -> float:
    return FLOAT32 if one.name == "gptj" else TOLERANCE


def flip(step: int, part: Any) -> None:
    """An intervention that is another one at each step."""
    part[:, -1] *= -1.0 - 0.25 * step


@pytest.mark.parametrize("name", PADDED)
def test_lengths_that_grow_past_the_sizes_of_the_model(name: str) -> None:
    """30 and 26 tokens grow past 32, the model's width, 6 and 3 past 8, a head's: no other axis is cut there."""
    one = generating(name)
    site = "mixer_out" if name == "mamba" else "mlp_out"
    places = [one.where.place("resid_post", 1), one.where.place(site, 1)]
    for lengths in ((30, 26), (6, 3)):
        prompts = [prompt(one, 7 * number, length) for number, length in enumerate(lengths)]
        values, results = [], []
        with one.model.generate(**GREEDY) as tracer:
            for given in prompts:
                with tracer.invoke(given):
                    for step in tracer.iter[:]:
                        flip(step, one.model.sites.resid_post[0])
                    values.append(
                        [(one.model.sites.resid_post[1].save(), one.site(site, 1).save()) for _ in tracer.iter[:]]
                    )
                    results.append(tracer.result.save())
        for given, found, result in zip(prompts, values, results, strict=True):
            edits = [(one.where.place("resid_post", 0), flip)]
            ids, seen = plain(one, given, places, edits)
            assert torch.equal(result.value, ids), lengths
            for step, pair in enumerate(found):
                for number, value in enumerate(pair):
                    assert error(value, seen[number][step]) < tolerance(one), (lengths, number, step)


@pytest.mark.parametrize("name", PADDED)
def test_each_prompt_ends_where_it_ends_alone(name: str) -> None:
    """Three prompts with an intervention at each step, of which one ends at its second token."""
    one = generating(name)
    place, edits = one.where.place("resid_post", 1), [(one.where.place("resid_post", 0), flip)]
    prompts = [prompt_of(one, 0, short=True), prompt_of(one, 1), prompt_of(one, 2, short=True)]
    free = [plain(one, given, (), edits)[0][0, -4:].tolist() for given in prompts]
    ends = {"eos_token_id": free[0][1], "pad_token_id": 2}
    with one.model.generate(**{**GREEDY, **ends}) as tracer:
        found = []
        for given in prompts:
            with tracer.invoke(given):
                with tracer.iter[:]:
                    values = one.model.sites.resid_post[1].save()
                for step in tracer.iter[:]:
                    flip(step, one.model.sites.resid_post[0])
                found.append((values, tracer.result.save()))
    steps = []
    for given, (values, result) in zip(prompts, found, strict=True):
        ids, seen = plain(one, given, [place], edits, **ends)
        steps.append(len(seen[0]))
        length = ids.shape[1]
        assert torch.equal(result.value[:, :length], ids)
        assert (result.value[:, length:] == 2).all()
        for step, expected in enumerate(seen[0]):
            assert error(values.value[step], expected) < tolerance(one), step
    assert steps[0] <= 2


@pytest.mark.parametrize("name", [name for name in UNPADDED if name in GENERATING])
def test_prompts_of_equal_lengths_where_others_are_refused(name: str) -> None:
    one = generating(name)
    place, edits = one.where.place("resid_post", 1), [(one.where.place("resid_post", 0), flip)]
    prompts = [prompt_of(one, number) for number in range(2)]
    found = []
    with one.model.generate(**GREEDY) as tracer:
        for given in prompts:
            with tracer.invoke(given):
                for step in tracer.iter[:]:
                    flip(step, one.model.sites.resid_post[0])
                values = [one.model.sites.resid_post[1].save() for _ in tracer.iter[:]]
                found.append((values, tracer.result.save()))
    for given, (values, result) in zip(prompts, found, strict=True):
        ids, seen = plain(one, given, [place], edits)
        assert torch.equal(result.value, ids)
        for value, expected in zip(values, seen[0], strict=True):
            assert error(value, expected) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in UNPADDED if name in GENERATING])
def test_in_float32_prompts_of_unequal_lengths_go_together(name: str) -> None:
    module = zoo.model(name)
    one = Subject(name, module, LanguageModel(module), hooks.WHERE[name])
    prompts, place = (
        [one.prompt(0, short=False), {"input_ids": zoo.ids(1, 9)[:, 2:6]}],
        one.where.place("resid_post", 1),
    )
    found = []
    with one.model.trace() as tracer:
        for given in prompts:
            with tracer.invoke(given):
                one.model.sites.resid_post[0][:, -1] *= 0.5
                found.append((one.model.sites.resid_post[1].save(), one.model.output.save()))

    def halve(part: Tensor) -> None:
        part[:, -1] *= 0.5

    for given, (value, logits) in zip(prompts, found, strict=True):
        edits = [(one.where.place("resid_post", 0), halve)]
        expected, seen = hooks.writes(module, one.plain(given), edits, [place])
        assert error(value, seen[0]) < FLOAT32
        assert error(logits, expected) < FLOAT32


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "t5"])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}], ids=str)
def test_several_sequences_of_one_prompt(name: str, options: dict[str, Any]) -> None:
    one = generating(name)
    given, places = prompt_of(one, 0), [one.where.place(site, 1) for site in ("resid_post", "mlp_out")]
    torch.manual_seed(3)
    ids, seen = plain(one, given, places[:1], [(places[0], flip)], **options)
    torch.manual_seed(3)
    with one.model.generate(given, **{**GREEDY, **options}) as tracer:
        mlp = one.model.sites.mlp_out[1].save()
        for step in tracer.iter[:]:
            flip(step, one.model.sites.resid_post[1])
        values = [one.model.sites.resid_post[1].save() for _ in tracer.iter[:]]
        result = tracer.result.save()
    assert torch.equal(result.value, ids)
    assert mlp.dim() == 3
    for value, expected in zip(values, seen[0], strict=True):
        assert value.shape == expected.shape
        assert error(value, expected) < TOLERANCE


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}], ids=str)
def test_several_sequences_of_several_prompts_are_refused(options: dict[str, Any]) -> None:
    one = generating("gpt2")
    message = r"test_trace_equals_hooks_batches\.py.* 2 rows of each prompt"
    with pytest.raises(PromptError, match=message), one.model.generate(**{**GREEDY, **options}) as tracer:
        for number in range(2):
            with tracer.invoke(prompt_of(one, number)):
                tracer.result.save()


@pytest.mark.parametrize("field", ["loss", "past_key_values"])
def test_what_a_batch_has_one_of_is_no_prompts_own(field: str) -> None:
    one = subject("gpt2")
    prompts = [one.prompt(number)["input_ids"] for number in range(2)]
    refused = pytest.raises(PromptError, match=rf"one {field} for all prompts")
    with refused as raised, one.model.trace(use_cache=True) as tracer:
        for ids in prompts:
            with tracer.invoke({"input_ids": ids, "labels": ids}):
                getattr(one.model.output, field).save()
    assert "test_trace_equals_hooks_batches.py" in raised.value.__notes__[0]
    with one.model.trace() as tracer:
        for ids in prompts:
            with tracer.invoke({"input_ids": ids, "labels": ids}):
                pass
        with tracer.invoke():
            loss = one.model.output.loss.save()
    with torch.no_grad():
        expected = one.module(input_ids=torch.cat(prompts), labels=torch.cat(prompts)).loss
    assert error(loss, expected) < FLOAT32  # transformers takes the loss in float32


def test_the_result_as_a_dict_is_cut_like_ids() -> None:
    one = generating("llama")
    prompts, results = [prompt_of(one, 0, short=True), prompt_of(one, 1)], []
    with one.model.generate(**GREEDY, return_dict_in_generate=True, output_scores=True) as tracer:
        for given in prompts:
            with tracer.invoke(given):
                results.append(tracer.result.save())
    for given, result in zip(prompts, results, strict=True):
        expected = plain(one, given, return_dict_in_generate=True, output_scores=True)[0]
        assert torch.equal(result.value.sequences, expected.sequences)
        for one_step, other in zip(result.value.scores, expected.scores, strict=True):
            assert error(one_step, other) < TOLERANCE
