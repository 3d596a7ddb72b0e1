"""Semantics 6: prompts of one trace run as one batch, and each sees its own rows, without padding."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.seed.support import calls, close, ids, outputs, rows, run
from tracing import LanguageModel, Model
from tracing.errors import CausalityError, RecordError

SHORT, MIDDLE, LONG = "Hello world", "The capital of France is", "The Eiffel Tower is in the city of Paris and"
PROMPTS = (SHORT, LONG, MIDDLE)


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Any:
    """A model with learned positions and one with rotary positions, with the path of its layers."""
    name = request.param
    return request.getfixturevalue(name), {"gpt2": "transformer.h", "llama": "model.layers"}[name]


def test_each_prompt_of_a_batch_has_the_values_it_has_alone(model: Any) -> None:
    language, layers = model
    with language.trace() as tracer:
        hidden, logits = [], []
        for prompt in PROMPTS:
            with tracer.invoke(prompt):
                hidden.append(language.get(layers)[1].output.save())
                logits.append(language.output.save())

    for prompt, one, out in zip(PROMPTS, hidden, logits, strict=True):
        expected, found = run(language._model, ids(prompt), reads=[f"{layers}.1"])
        assert one.shape == (1, ids(prompt).shape[1], 32)
        close(one, found[f"{layers}.1"])
        close(out, expected)


def test_position_0_is_the_first_token_whatever_the_neighbours(model: Any) -> None:
    language, layers = model
    with language.trace() as tracer:
        with tracer.invoke(SHORT):
            language.get(layers)[0].output[:, 0] = 0
            short = language.output.save()
        with tracer.invoke(LONG):
            long = language.output.save()

    def first_zero(value: Tensor) -> Tensor:
        value[:, 0] = 0
        return value

    close(short, run(language._model, ids(SHORT), writes={f"{layers}.0": first_zero})[0])
    close(long, run(language._model, ids(LONG))[0])


def test_the_prompts_run_as_one_forward(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace() as tracer:
        for prompt in PROMPTS:
            with tracer.invoke(prompt):
                gpt2.output.save()
    assert called.count("transformer.h.0") == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_write_in_one_prompt_leaves_the_others_alone(gpt2: LanguageModel, whole: bool) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke(MIDDLE):
            clean = gpt2.output.save()
        with tracer.invoke(MIDDLE):
            if whole:
                gpt2.transformer.h[1].output = torch.zeros(1, 5, 32, dtype=torch.float64)
            else:
                gpt2.transformer.h[1].output[:] = 0
            ablated = gpt2.output.save()

    close(clean, run(gpt2._model, ids(MIDDLE))[0])
    close(ablated, run(gpt2._model, ids(MIDDLE), writes={"transformer.h.1": torch.zeros_like})[0])


@pytest.mark.parametrize("site", ["transformer.h.1", "transformer.h.1.mlp", "transformer.h.1.attn"])
def test_a_value_crosses_at_the_same_layer_without_a_barrier(gpt2: LanguageModel, site: str) -> None:
    def of(envoy: Any) -> Any:
        return envoy.output[0] if site.endswith("attn") else envoy.output

    with gpt2.trace() as tracer:
        with tracer.invoke("The cat sat on the"):
            clean = of(gpt2.get(site))
        with tracer.invoke("The dog ran through the"):
            of(gpt2.get(site))[:] = clean
            logits = gpt2.output.save()

    _, found = run(gpt2._model, ids("The cat sat on the"), reads=[site])
    close(logits, run(gpt2._model, ids("The dog ran through the"), writes={site: lambda _: found[site]})[0])


def test_a_value_crosses_to_an_invoke_that_is_written_first(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        first, second = tracer.invoke("The cat sat on the"), tracer.invoke("The dog ran through the")
        with second:
            clean = gpt2.transformer.h[1].output
        with first:
            gpt2.transformer.h[2].output[:] = clean
            logits = gpt2.output.save()

    _, found = run(gpt2._model, ids("The dog ran through the"), reads=["transformer.h.1"])
    patched, _ = run(
        gpt2._model, ids("The cat sat on the"), writes={"transformer.h.2": lambda _: found["transformer.h.1"]}
    )
    close(logits, patched)


def test_a_value_of_one_position_crosses_between_unequal_lengths(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke(LONG):
            last = gpt2.transformer.h[1].output[:, -1]
        with tracer.invoke(SHORT):
            gpt2.transformer.h[1].output[:, 0] = last
            logits = gpt2.output.save()

    _, found = run(gpt2._model, ids(LONG), reads=["transformer.h.1"])

    def write(value: Tensor) -> Tensor:
        value[:, 0] = found["transformer.h.1"][:, -1]
        return value

    close(logits, run(gpt2._model, ids(SHORT), writes={"transformer.h.1": write})[0])


def test_a_later_layer_of_one_prompt_reaches_an_earlier_one_of_another_by_two_forwards(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace() as tracer:
        with tracer.invoke("The cat sat on the"):
            late = gpt2.transformer.h[3].output
        with tracer.invoke("The dog ran through the"):
            gpt2.transformer.h[0].output[:] = late
            logits = gpt2.output.save()

    assert called.count("transformer.h.0") == 2
    _, found = run(gpt2._model, ids("The cat sat on the"), reads=["transformer.h.3"])
    dog = ids("The dog ran through the")
    close(logits, run(gpt2._model, dog, writes={"transformer.h.0": lambda _: found["transformer.h.3"]})[0])


def test_a_chain_of_three_prompts_takes_three_forwards(gpt2: LanguageModel) -> None:
    texts = ("The cat sat on the", "The dog ran through the", MIDDLE)
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace() as tracer:
        carried: Any = None
        for text in texts:
            with tracer.invoke(text):
                if carried is not None:
                    gpt2.transformer.h[0].output[:] = carried
                carried = gpt2.transformer.h[2].output
        last = carried.save()

    assert called.count("transformer.h.0") == 3
    value: Any = None
    for text in texts:
        writes = {} if value is None else {"transformer.h.0": lambda _, value=value: value}
        value = run(gpt2._model, ids(text), reads=["transformer.h.2"], writes=writes)[1]["transformer.h.2"]
    close(last, value)


def test_two_prompts_that_each_need_the_others_future_are_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError), gpt2.trace() as tracer:
        with tracer.invoke("The cat sat on the"):
            early = gpt2.transformer.h[1].output
            late = gpt2.transformer.h[3].output
        with tracer.invoke("The dog ran through the"):
            gpt2.transformer.h[2].output[:] = late
            other = gpt2.transformer.h[3].output.save()
        early[:] = other


def test_an_invoke_without_a_prompt_sees_the_whole_batch(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke("The cat sat on the"):
            one = gpt2.output.save()
        with tracer.invoke(["The dog ran through the", MIDDLE]):
            two = gpt2.output.save()
        with tracer.invoke():
            both = gpt2.output.save()
            hidden = gpt2.transformer.h[1].output.save()

    assert tuple(hidden.shape) == (3, 5, 32)
    close(both, torch.cat([one.value, two.value]))


def test_a_write_in_an_invoke_without_a_prompt_reaches_all(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        found = []
        for text in ("The cat sat on the", MIDDLE):
            with tracer.invoke(text):
                found.append(gpt2.output.save())
        with tracer.invoke():
            gpt2.transformer.h[1].output[:] = 0

    for text, logits in zip(("The cat sat on the", MIDDLE), found, strict=True):
        close(logits, run(gpt2._model, ids(text), writes={"transformer.h.1": torch.zeros_like})[0])


def test_prompts_of_every_kind_mix(gpt2: LanguageModel) -> None:
    given = [MIDDLE, [SHORT, LONG], ids(SHORT), ids(LONG)[0], ids(MIDDLE)[0].tolist(), gpt2.tokenizer(SHORT)]
    with gpt2.trace() as tracer:
        found = []
        for prompt in given:
            with tracer.invoke(prompt):
                found.append(gpt2.output[:, -1].save())

    texts = [[MIDDLE], [SHORT, LONG], [SHORT], [LONG], [MIDDLE], [SHORT]]
    for value, expected in zip(found, texts, strict=True):
        close(value, torch.cat([run(gpt2._model, ids(text))[0][:, -1] for text in expected]))


def test_a_list_of_prompts_of_unequal_length_has_each_rows_own_values_at_its_end(gpt2: LanguageModel) -> None:
    with gpt2.trace([SHORT, LONG]):
        logits = gpt2.output.save()

    close(logits[0, -2:], run(gpt2._model, ids(SHORT))[0][0])
    close(logits[1, -10:], run(gpt2._model, ids(LONG))[0][0, -10:])


def test_results_stand_in_the_order_of_the_invokes(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        found = []
        for layer in (3, 1, 2, 0):
            with tracer.invoke(MIDDLE):
                found.append(gpt2.transformer.h[layer].output.save())

    _, expected = run(gpt2._model, ids(MIDDLE), reads=[f"transformer.h.{n}" for n in range(4)])
    for layer, value in zip((3, 1, 2, 0), found, strict=True):
        close(value, expected[f"transformer.h.{layer}"])


def test_a_hundred_prompts(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        found = []
        for n in range(100):
            with tracer.invoke(ids(LONG)[:, : n % 10 + 1]):
                gpt2.transformer.h[n % 4].output[:, n % 10] = 0
                found.append(gpt2.output[:, -1].save())

    for n in (0, 13, 57, 99):

        def write(value: Tensor, n: int = n) -> Tensor:
            value[:, n % 10] = 0
            return value

        expected, _ = run(gpt2._model, ids(LONG)[:, : n % 10 + 1], writes={f"transformer.h.{n % 4}": write})
        close(found[n], expected[:, -1])


def test_invokes_of_a_plain_module_are_rows_of_its_tensors(net: Model) -> None:
    with net.trace() as tracer:
        with tracer.invoke(rows(2)):
            net.first.output[:] = 0
            one = net.output.save()
        with tracer.invoke(rows(3, seed=1)):
            two = net.first.output.save()
            out = net.output.save()

    values = outputs(net._model, rows(3, seed=1))
    close(two, values["first"])
    close(out, values[""])
    assert tuple(one.shape) == (2, 3)
    assert not torch.allclose(one.value, outputs(net._model, rows(2))[""])


def test_a_replacement_with_other_rows_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 5, 32\)"), gpt2.trace() as tracer:
        with tracer.invoke(MIDDLE):
            gpt2.transformer.h[1].output = torch.zeros(2, 5, 32, dtype=torch.float64)
            gpt2.output.save()
        with tracer.invoke(MIDDLE):
            gpt2.output.save()


def test_a_block_of_a_prompt_that_is_opened_again_is_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"opened once \(at test_invokes\.py:\d+"), gpt2.trace() as tracer:
        prompt = tracer.invoke(MIDDLE)
        with prompt:
            gpt2.transformer.h[1].output[:] = 0
        with prompt:
            gpt2.output.save()
