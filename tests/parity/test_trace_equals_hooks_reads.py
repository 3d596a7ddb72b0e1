"""Every value that a trace reads is the value that a plain hook sees, on every architecture.

Alone, bit for bit: the trace runs the same kernels. Among several prompts of unequal lengths, each equals its own
unpadded forward: 1e-12 of the largest number.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import hooks
from tests.parity.subjects import NAMES, UNPADDED, WITH_HEADS, error, subject
from tracing.errors import PromptError

TOLERANCE = 1e-12


def everything(module: torch.nn.Module, inputs: dict[str, Any]) -> tuple[dict[tuple[str, str], Any], Tensor]:
    """What every module that the forward calls gets and returns at its first call, by plain hooks."""
    seen: dict[tuple[str, str], Any] = {}
    handles = []

    def before(path: str) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            seen.setdefault((path, "inputs"), copied((args, kwargs)))

        return hook

    def after(path: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            seen.setdefault((path, "output"), copied(output))

        return hook

    for path, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(part.register_forward_hook(after(path)))
    with torch.no_grad():
        result = hooks.logits(module, inputs)
    for handle in handles:
        handle.remove()
    return seen, result.clone()


def copied(value: Any) -> Any:
    """The tensors of a nest, in memory of their own; anything else is left out."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, (tuple, list)) else None


def same(found: Any, expected: Any, what: str) -> int:
    """Compare nests bit for bit; returns the number of tensors compared."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor), what
        assert torch.equal(found, expected), what
        return 1
    if isinstance(expected, dict):
        return sum(same(found[key], item, f"{what}[{key!r}]") for key, item in expected.items())
    if isinstance(expected, list):
        assert len(found) == len(expected), what
        return sum(same(*pair, what) for pair in zip(found, expected, strict=True))
    return 0


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_inputs_of_every_module(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(1)
    expected, logits = everything(one.module, one.plain(prompt))
    saved: dict[tuple[str, str], Any] = {}
    with one.model.trace(*one.arguments(prompt)):
        for path, kind in reversed(expected):  # in any order
            envoy = one.model.get(path) if path else one.model
            saved[path, kind] = envoy.inputs.save() if kind == "inputs" else envoy.output.save()
    count = 0
    for (path, kind), value in expected.items():
        found = saved[path, kind].value
        if not path and kind == "output":
            assert torch.equal(found, logits)
            continue
        if kind == "output" and isinstance(found, Tensor) and isinstance(value, list):
            value = value[0]  # a block's output is its hidden state
        count += same(found, value, f"{path}.{kind}")
    assert count > 2 * one.layers


@pytest.mark.parametrize("name", NAMES)
def test_every_standard_site_of_one_prompt(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(1)
    places = one.places()
    expected, _ = hooks.reads(one.module, one.plain(prompt), [place for *_, place in places])
    with one.model.trace(*one.arguments(prompt)):
        saved = [one.site(site, layer).save() for site, layer, _ in places]
        whole = one.model.output.save()
    for (site, layer, _), found, value in zip(places, saved, expected, strict=True):
        assert torch.equal(found.value, value), (site, layer)
    assert torch.equal(whole.value, hooks.logits(one.module, one.plain(prompt)))


@pytest.mark.parametrize("name", NAMES)
def test_every_standard_site_of_two_prompts(name: str) -> None:
    one = subject(name)
    prompts, places = one.two(), one.places()
    saved: list[list[Any]] = []
    with one.model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(*one.arguments(prompt)):
                saved.append([one.site(site, layer).save() for site, layer, _ in places])
    for prompt, values in zip(prompts, saved, strict=True):
        expected, _ = hooks.reads(one.module, one.plain(prompt), [place for *_, place in places])
        for (site, layer, _), found, value in zip(places, values, expected, strict=True):
            assert error(found, value) < TOLERANCE, (site, layer)


@pytest.mark.parametrize("name", UNPADDED)
def test_unequal_prompts_that_padding_would_change_are_refused(name: str) -> None:
    one = subject(name)
    short = {key: value[:, :3] for key, value in one.prompt(0).items()}
    with pytest.raises(PromptError), one.model.trace() as tracer:
        for prompt in (short, one.prompt(1)):
            with tracer.invoke(*one.arguments(prompt)):
                one.model.output.save()


@pytest.mark.parametrize("name", WITH_HEADS)
def test_what_a_head_writes(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    for layer in range(one.layers):
        with one.model.trace(*one.arguments(prompt)):
            found = one.model.sites.head_out[layer].save()
        ((z,), _) = hooks.reads(one.module, one.plain(prompt), [one.where.place("z", layer)])
        out = one.module.get_submodule(f"{one.where.blocks}.{layer}.{one.where.out}")
        weight = out.weight.T if isinstance(out, torch.nn.Linear) else out.weight  # [in, out]
        d = one.where.d
        for head in range(one.where.heads):
            expected = z[:, :, head] @ weight[head * d : (head + 1) * d]
            assert error(found.value[:, :, head], expected.detach()) < TOLERANCE, (layer, head)


def test_an_invoke_without_a_prompt_sees_the_padded_batch() -> None:
    one = subject("llama")
    prompts = one.two()
    with one.model.trace() as tracer:
        parts = []
        for prompt in prompts:
            with tracer.invoke(*one.arguments(prompt)):
                parts.append(one.model.sites.resid_post[1].save())
        with tracer.invoke():
            whole = one.model.sites.resid_post[1].save()
    assert whole.shape[0] == 2
    for row, part in enumerate(parts):
        assert torch.equal(whole.value[row : row + 1, -part.shape[1] :], part.value)


def test_a_prompt_of_several_rows_equals_its_rows_one_by_one() -> None:
    for one in map(subject, ("gpt2", "qwen3", "bert", "falcon")):
        rows = torch.cat([one.prompt(n)["input_ids"] for n in range(3)])
        with one.model.trace({"input_ids": rows}):
            found = one.model.sites.z[1].save()
        for row in range(3):
            ((expected,), _) = hooks.reads(one.module, one.plain(one.prompt(row)), [one.where.place("z", 1)])
            assert error(found.value[row : row + 1], expected) < TOLERANCE


def test_an_argument_that_is_none_is_none() -> None:
    one = subject("bert")
    with one.model.trace(*one.arguments(one.prompt(0))):
        inputs = one.model.bert.encoder.layer[1].inputs
        mask, hidden = inputs[0][1].save(), inputs[0][0].save()
    assert mask.value is None
    assert hidden.shape[-1] == 32
