"""Semantics 7: a block's output is its whole hidden state, as a tensor and as `[0]`; inputs by position and by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, ids, rows, run
from tracing import LanguageModel, Model
from tracing.errors import TracingError

PROMPTS = ["The capital of France is", "The cat sat on the"]
FAMILIES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "gpt2": (support.gpt2, "transformer.h", "attn"),
    "llama": (support.llama, "model.layers", "self_attn"),
    "mistral": (support.mistral, "model.layers", "self_attn"),
    "gpt_neox": (support.gpt_neox, "gpt_neox.layers", "attention"),
    "falcon": (support.falcon, "transformer.h", "self_attention"),
    "bloom": (support.bloom, "transformer.h", "self_attention"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[LanguageModel, str, str]:
    """A model whose blocks return a tensor, or (falcon, bloom) a tuple; its layers' and its attention's paths."""
    build, layers, attention = FAMILIES[request.param]
    return LanguageModel(build(), tokenizer=support.TOKENIZER, dtype=torch.float64), layers, attention


def test_output_and_output_0_are_the_hidden_state_of_all_rows(family: Any) -> None:
    model, layers, _ = family
    with model.trace(PROMPTS):
        block = model.get(layers)[1]
        whole, first = block.output.save(), block.output[0].save()
        last, mean = block.output[:, -1].save(), block.output.mean(-1).save()
        row, element = block.output[0][1].save(), block.output[0][0, 2].save()
        kept = block.output[0:1].save()

    hidden = run(model._model, ids(PROMPTS), reads=[f"{layers}.1"])[1][f"{layers}.1"]
    for found, expected in (
        (whole, hidden), (first, hidden), (last, hidden[:, -1]), (mean, hidden.mean(-1)), (row, hidden[1]),
        (element, hidden[0, 2]), (kept, hidden[0:1]),
    ):  # fmt: skip
        assert tuple(found.shape) == tuple(expected.shape)
        close(found, expected)


def _slice_of_0(block: Any) -> None:
    block.output[0][:] = 0


def _slice(block: Any) -> None:
    block.output[:] = 0


def _item(block: Any) -> None:
    block.output[0] = block.output[0] * 0


def _assign(block: Any) -> None:
    block.output = block.output * 0


def _assign_tuple(block: Any) -> None:
    block.output = (block.output[0] * 0,)


def _augmented(block: Any) -> None:
    block.output *= 0


def _augmented_0(block: Any) -> None:
    hidden = block.output[0]
    hidden *= 0


def _method(block: Any) -> None:
    block.output[0].zero_()


@pytest.mark.parametrize(
    "write", [_slice_of_0, _slice, _item, _assign, _assign_tuple, _augmented, _augmented_0, _method]
)
def test_every_way_to_write_a_block_output_reaches_all_rows(family: Any, write: Callable[[Any], None]) -> None:
    model, layers, _ = family
    with model.trace(PROMPTS):
        write(model.get(layers)[1])
        logits = model.output.save()

    close(logits, run(model._model, ids(PROMPTS), writes={f"{layers}.1": torch.zeros_like})[0])


@pytest.mark.parametrize("index", [1, -1, 2])
def test_another_single_index_is_an_error_that_says_so(gpt2: LanguageModel, index: int) -> None:
    with pytest.raises(TracingError, match=rf"output\[{index}\]"), gpt2.trace(PROMPTS):
        gpt2.transformer.h[1].output[index].save()
    with pytest.raises(TracingError, match=rf"output\[{index}\]"), gpt2.trace(PROMPTS):
        gpt2.transformer.h[1].output[index] = 0


def test_attention_keeps_its_tuple(family: Any) -> None:
    model, layers, attention = family
    with model.trace(PROMPTS):
        out = getattr(model.get(layers)[1], attention).output[0].save()

    path = f"{layers}.1.{attention}"
    close(out, run(model._model, ids(PROMPTS), reads=[path])[1][path])


def test_an_element_of_a_modules_tuple_can_be_written(family: Any) -> None:
    model, layers, attention = family
    with model.trace(PROMPTS):
        getattr(model.get(layers)[1], attention).output[0][:, 1] = 0
        logits = model.output.save()

    def write(value: Tensor) -> Tensor:
        value[:, 1] = 0
        return value

    close(logits, run(model._model, ids(PROMPTS), writes={f"{layers}.1.{attention}": write})[0])


def test_a_plain_modules_output_is_indexed_as_torch_does(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPTS):
        row = gpt2.transformer.h[1].mlp.output[1].save()
        last = gpt2.transformer.h[1].mlp.output[-1].save()

    path = "transformer.h.1.mlp"
    expected = run(gpt2._model, ids(PROMPTS), reads=[path])[1][path]
    close(row, expected[1])
    close(last, expected[-1])


# -- inputs -----------------------------------------------------------------------------------------------------------
def test_input_is_the_first_argument_and_input_0_the_positional_ones(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPTS):
        block = gpt2.transformer.h[1]
        whole, again, last = block.input.save(), block.input[0][0].save(), block.input[:, -1].save()
        args, kwargs = block.mlp.inputs[0].save(), block.mlp.inputs[1].save()
        normed = block.ln_2.output.save()

    expected = run(gpt2._model, ids(PROMPTS), reads=["transformer.h.0"])[1]["transformer.h.0"]
    close(whole, expected)
    close(again, expected)
    close(last, expected[:, -1])
    assert isinstance(args.value, tuple)
    close(args[0], normed.value)
    assert kwargs.value == {}


def test_input_given_by_name_is_the_first_argument(llama: LanguageModel) -> None:
    with llama.trace(PROMPTS):
        given = llama.model.layers[1].self_attn.input.save()
        named = llama.model.layers[1].self_attn.inputs[1]["hidden_states"].save()
        normed = llama.model.layers[1].input_layernorm.output.save()

    close(given, normed.value)
    close(named, normed.value)


def _in_place(module: Any) -> None:
    module.input[:, 1] = 0


def _through_0_0(module: Any) -> None:
    module.input[0][0][:, 1] = 0


def _replaced(module: Any) -> None:
    mask = torch.ones(1, 5, 1, dtype=torch.float64)
    mask[:, 1] = 0
    module.input = module.input * mask


def _inputs(module: Any) -> None:
    module.inputs[0][0][:, 1] = 0


@pytest.mark.parametrize("write", [_in_place, _through_0_0, _replaced, _inputs])
def test_a_written_input_changes_what_the_module_receives_and_nothing_else(
    gpt2: LanguageModel, write: Callable[[Any], None]
) -> None:
    with gpt2.trace(PROMPTS):
        write(gpt2.transformer.h[2].ln_2)
        logits = gpt2.output.save()

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = args[0].clone()
        value[:, 1] = 0
        return (value, *args[1:])

    with gpt2._model.transformer.h[2].ln_2.register_forward_pre_hook(hook):
        expected, _ = run(gpt2._model, ids(PROMPTS))
    assert not torch.allclose(expected, run(gpt2._model, ids(PROMPTS))[0])
    close(logits, expected)


def test_a_keyword_input_can_be_written(llama: LanguageModel) -> None:
    with llama.trace(PROMPTS):
        llama.model.layers[1].self_attn.input[:] = 0
        logits = llama.output.save()

    def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "hidden_states": torch.zeros_like(kwargs["hidden_states"])}

    with llama._model.model.layers[1].self_attn.register_forward_pre_hook(hook, with_kwargs=True):
        expected, _ = run(llama._model, ids(PROMPTS))
    close(logits, expected)


def test_the_models_own_inputs_are_the_ids(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPTS):
        tokens = gpt2.inputs[1]["input_ids"].save()
        embedded = gpt2.transformer.wte.input.save()
    assert torch.equal(tokens.value, ids(PROMPTS))
    assert torch.equal(embedded.value, ids(PROMPTS))


def test_input_of_a_plain_module(net: Model) -> None:
    with net.trace(rows()):
        given = net.input.save()
        net.first.input[:, 0] = 5
        first = net.first.output.save()

    changed = rows()
    changed[:, 0] = 5
    assert torch.equal(given.value, rows())
    close(first, net._model.first(changed).detach())
