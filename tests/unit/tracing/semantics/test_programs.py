"""Random programs of reads, writes and patches in any order, over several prompts, give what plain hooks give."""

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.seed.support import close, hidden, ids
from tracing import LanguageModel

PROMPTS = (
    "Hello world",
    "The capital of France is",
    "The Eiffel Tower is in the city of Paris and",
    ["The cat sat on the", "The dog ran through the"],
)
ATTENTION = ("attn", "self_attn")
PARTS = {
    "gpt2": ("transformer.h", 4, ("", "attn", "mlp", "ln_1", "attn.c_attn", "mlp.c_fc")),
    "llama": ("model.layers", 3, ("", "self_attn", "mlp", "self_attn.q_proj", "self_attn.k_proj", "input_layernorm")),
}


def _position(x: Any, n: float) -> None:
    x[:, 0] = n


def _last(x: Any, n: float) -> None:
    x[:, -1] = x[:, -1] * n


def _dimensions(x: Any, n: float) -> None:
    x[..., :4] = x[..., 4:8] + n


def _add(x: Any, n: float) -> None:
    x += n


def _row(x: Any, n: float) -> None:
    x[0:1][:, 1] = x[0:1, 1] * n


def _view(x: Any, n: float) -> None:
    x.transpose(1, 2)[:, 2:5].mul_(n)


def _zero(x: Any, n: float) -> None:
    x[:, :, ::3].zero_()


def _mask(x: Any, n: float) -> None:
    x[x > n] = 0.1


WRITES: tuple[Callable[[Any, float], None], ...] = (_position, _last, _dimensions, _add, _row, _view, _zero, _mask)


@dataclass
class Step:
    """One line of a program: what it does at a module's output or input."""

    path: str
    side: str
    layer: int
    kind: str
    write: Callable[[Any, float], None]
    number: float
    source: tuple[int, int] | None = None
    """Prompt and line of the read that a patch takes its value from."""

    @property
    def attention(self) -> bool:
        """Whether the module returns a tuple."""
        return self.path.rpartition(".")[2] in ATTENTION


def program(family: str, seed: int) -> tuple[list[Any], list[list[Step]]]:
    """Prompts, and the lines written for each. A patch takes what its past, or a prompt before, has read."""
    chance = random.Random(seed)
    layers, count, parts = PARTS[family]
    prompts = [chance.choice(PROMPTS) for _ in range(chance.choice((1, 2, 3, 3)))]
    written: list[list[Step]] = []
    for number in range(len(prompts)):
        steps: list[Step] = []
        written.append(steps)
        for _ in range(chance.randint(2, 7)):
            layer, part = chance.randrange(count), chance.choice(parts)
            kind = chance.choice(("read", "read", "write", "assign", "patch", "patch"))
            side = chance.choice(("output", "output", "input"))
            path = f"{layers}.{layer}.{part}".rstrip(".")
            sources = [
                (prompt, line)
                for prompt, lines in enumerate(written)
                for line, step in enumerate(lines)
                if step.kind == "read" and (prompt < number or step.layer < layer)
            ]
            if kind == "patch" and not sources:
                kind = "write"
            source = chance.choice(sources) if kind == "patch" else None
            steps.append(Step(path, side, layer, kind, chance.choice(WRITES), chance.uniform(-1.5, 1.5), source))
    return prompts, written


def traced(model: LanguageModel, prompts: list[Any], written: list[list[Step]]) -> list[tuple[dict[int, Any], Any]]:
    """Reads and logits of each prompt, by one trace."""
    found: list[tuple[dict[int, Any], Any]] = []
    values: list[dict[int, Any]] = []
    with model.trace() as tracer:
        for prompt, steps in zip(prompts, written, strict=True):
            with tracer.invoke(prompt):
                reads: dict[int, Any] = {}
                values.append({})
                for line, step in enumerate(steps):
                    module = model.get(step.path)
                    site = module.input if step.side == "input" else module.output
                    if step.side == "output" and step.attention:
                        site = site[0]
                    if step.kind == "read":
                        values[-1][line] = site[0:1, -1, :4].clone()
                        reads[line] = site.save()
                    elif step.kind == "patch" and step.source is not None:
                        site[:, -1, :4] = values[step.source[0]][step.source[1]] * step.number
                    elif step.kind == "assign" and not step.attention:
                        setattr(module, step.side, site * step.number)
                    else:
                        step.write(site, step.number)
                found.append((reads, model.output.save()))
    return found


def hooked(
    model: LanguageModel, prompts: list[Any], written: list[list[Step]]
) -> list[tuple[dict[int, Tensor], Tensor]]:
    """The same prompt by prompt, with hooks."""
    found: list[tuple[dict[int, Tensor], Tensor]] = []
    values: list[dict[int, Tensor]] = []

    def passed(steps: list[Step], path: str, side: str, value: Tensor) -> Tensor:
        value = value.clone()
        for line, step in enumerate(steps):
            if (step.path, step.side) != (path, side):
                continue
            if step.kind == "read":
                found[-1][0][line] = value.clone()
                values[-1][line] = value.clone()
            elif step.kind == "patch" and step.source is not None:
                value[:, -1, :4] = values[step.source[0]][step.source[1]][0:1, -1, :4] * step.number
            elif step.kind == "assign" and not step.attention:
                value = value * step.number
            else:
                step.write(value, step.number)
        return value

    for prompt, steps in zip(prompts, written, strict=True):
        found.append(({}, torch.empty(0)))
        values.append({})
        with ExitStack() as stack, torch.no_grad():
            for path in {step.path for step in steps}:
                _hook(stack, model._model.get_submodule(path), lambda side, x, s=steps, p=path: passed(s, p, side, x))
            found[-1] = (found[-1][0], model._model(input_ids=ids(prompt), use_cache=False).logits)
    return found


def _hook(stack: ExitStack, module: Any, passed: Callable[[str, Tensor], Tensor]) -> None:
    def before(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (passed("input", args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": passed("input", kwargs["hidden_states"])}

    def after(_: Any, __: Any, output: Any) -> Any:
        new = passed("output", hidden(output))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
    stack.enter_context(module.register_forward_hook(after))


@pytest.mark.filterwarnings("ignore::tracing.errors.UnusedValueWarning")
@pytest.mark.parametrize("family", PARTS)
@pytest.mark.parametrize("seed", range(20))
def test_a_random_program_gives_what_hooks_give(family: str, seed: int, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    prompts, written = program(family, seed)

    found, expected = traced(model, prompts, written), hooked(model, prompts, written)

    for (reads, logits), (plain_reads, plain_logits) in zip(found, expected, strict=True):
        assert reads.keys() == plain_reads.keys()
        for line, value in plain_reads.items():
            torch.testing.assert_close(reads[line].value, value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logits.value, plain_logits, rtol=1e-9, atol=1e-9)


def test_the_programs_are_no_empty_ones(gpt2: LanguageModel) -> None:
    """What the programs above do: among them patches from a later layer of another prompt, and all kinds of writes."""
    steps = [
        (step, None if step.source is None else written[step.source[0]][step.source[1]])
        for seed in range(20)
        for written in [program("gpt2", seed)[1]]
        for lines in written
        for step in lines
    ]
    assert {step.kind for step, _ in steps} == {"read", "write", "assign", "patch"}
    assert {step.write for step, _ in steps} == set(WRITES)
    assert sum(source is not None and source.layer > step.layer for step, source in steps) >= 3
    prompts, written = program("gpt2", 3)
    clean = [[step for step in lines if step.kind == "read"] for lines in written]
    assert any(
        not torch.allclose(changed, plain)
        for (_, changed), (_, plain) in zip(hooked(gpt2, prompts, written), hooked(gpt2, prompts, clean), strict=True)
    )
    close(hooked(gpt2, ["Hello world"], [[]])[0][1], gpt2._model(input_ids=ids("Hello world")).logits.detach())
