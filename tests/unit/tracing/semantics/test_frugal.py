"""Semantics 13: few hooks, an early stop, values freed at their last use, nothing kept after a trace or an error."""

import gc
import tracemalloc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import calls, hooks_in, ids, outputs, rows
from tracing import LanguageModel, Model

PROMPT = "The capital of France is"


def test_only_the_modules_that_are_named_are_hooked(gpt2: LanguageModel) -> None:
    seen: list[tuple[int, list[str]]] = []

    def look(_: nn.Module, __: Any) -> None:
        named = [
            path
            for path, part in gpt2._model.named_modules()
            if (hooks_in(part) - sum(hooks_in(child) for child in part.children())) and path != "transformer.h.0.ln_1"
        ]
        seen.append((hooks_in(gpt2._model) - 1, named))

    with gpt2._model.transformer.h[0].ln_1.register_forward_pre_hook(look), gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output.save()
        gpt2.transformer.h[2].mlp.output[:] = 0
        gpt2.transformer.h[2].mlp.input.save()
        gpt2.transformer.h[3].output.save()
    assert seen[-1] == (4, ["transformer.h.1", "transformer.h.2.mlp", "transformer.h.3"])


def test_many_values_of_one_site_take_one_hook(net: Model) -> None:
    seen: list[int] = []
    hook = net._model.second.register_forward_pre_hook(lambda *_: seen.append(hooks_in(net._model) - 1))
    with hook, net.trace(rows()):
        for column in range(6):
            net.third.output[:, column].save()
            net.third.output[:, column] = 0
    assert seen == [1]


def test_the_forward_stops_after_the_last_needed_site(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output.save()
    assert "transformer.h.1" in called
    assert "transformer.h.2" not in called
    assert "lm_head" not in called


def test_the_forward_runs_on_where_a_later_site_is_needed(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace(PROMPT):
        gpt2.transformer.h[0].output[:] = 0
        gpt2.output.save()
    assert "lm_head" in called


def test_a_stop_of_one_prompts_sites_waits_for_those_of_the_others(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace() as tracer:
        with tracer.invoke(PROMPT):
            gpt2.transformer.h[0].output.save()
        with tracer.invoke("Hello world"):
            late = gpt2.transformer.h[2].output.save()
    assert tuple(late.shape) == (1, 2, 32)
    assert "transformer.h.3" not in called


def test_generation_stops_after_the_last_needed_step(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.generate(PROMPT, max_new_tokens=8, do_sample=False, pad_token_id=0) as tracer:
        for _ in tracer.iter[:3]:
            gpt2.transformer.h[1].output.save()
    assert called.count("transformer.h.0") == 3


class Watch(nn.Module):
    """Doubles its input, and keeps a weak reference to every tensor it made and the mode it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []
        self.inference: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        out = x * 2
        self.alive.append(sum(ref() is not None for ref in self.made))
        self.made.append(weakref.ref(out))
        self.inference.append(torch.is_inference_mode_enabled())
        return out


def chain(count: int = 8) -> tuple[Model, list[Watch]]:
    """A chain of watched modules."""
    parts = [Watch() for _ in range(count)]
    return Model(nn.Sequential(*parts)), parts


def alive(parts: list[Watch]) -> int:
    """How many tensors of all parts exist."""
    gc.collect()
    return sum(ref() is not None for part in parts for ref in part.made)


def test_values_that_were_read_and_not_saved_are_freed_at_their_last_use() -> None:
    model, parts = chain()
    watched: list[weakref.ref[Tensor]] = []
    alive_at_end: list[int] = []

    def measure(value: Tensor) -> Tensor:
        watched.append(weakref.ref(value))
        return value.sum()

    def count(value: Tensor) -> Tensor:
        alive_at_end.append(sum(ref() is not None for ref in watched))
        return value

    with model.trace(rows()) as tracer:
        sums = [tracer.apply(measure, model[n].output * 1).save() for n in range(7)]
        tracer.apply(count, model[7].output).save()
    assert len(sums) == 7
    assert alive_at_end == [0]
    assert alive(parts) == 0


def test_nothing_but_what_was_saved_is_alive_after_a_trace() -> None:
    model, parts = chain()
    with model.trace(rows()) as tracer:
        hidden = [model[n].output for n in range(8)]
        kept = hidden[2].save()
        (hidden[4] + hidden[5]).sum().save()
    assert alive(parts) == 0
    assert tuple(kept.shape) == (2, 4)
    del tracer


@pytest.mark.parametrize("kind", ["operation", "module", "block", "interrupt"])
def test_nothing_is_alive_after_an_exception(kind: str) -> None:
    model, parts = chain()
    if kind == "module":
        parts[6].forward = lambda x: x.view(99)  # type: ignore[method-assign]

    def fail(value: Tensor) -> Tensor:
        raise KeyboardInterrupt

    def attempt() -> None:
        with model.trace(rows()) as tracer:
            saved = [model[n].output.save() for n in range(8)]
            if kind == "operation":
                (saved[5] * 2).view(99).save()
            elif kind == "interrupt":
                tracer.apply(fail, saved[5]).save()
            elif kind == "block":
                raise ValueError

    with pytest.raises((RuntimeError, ValueError, KeyboardInterrupt)):
        attempt()
    assert alive(parts) == 0
    assert hooks_in(model._model) == 0
    if kind != "module":
        with model.trace(rows()):
            out = model.output.save()
        assert torch.equal(out.value, rows() * 2**8)


def test_the_error_that_a_user_keeps_does_not_keep_activations() -> None:
    model, parts = chain()
    kept: list[BaseException] = []
    try:
        with model.trace(rows()):
            [model[n].output.save() for n in range(8)]
            (model[5].output * 2).view(99).save()
    except RuntimeError as error:
        kept.append(error.with_traceback(None))
    assert kept
    assert alive(parts) == 0


def test_a_proxy_that_a_user_keeps_does_not_keep_the_run() -> None:
    model, parts = chain()
    with model.trace(rows()) as tracer:
        unsaved = model[1].output * 2
        saved = unsaved.sum().save()
        everything = [model[n].output for n in range(8)]
        (everything[3] + everything[6]).save()
    assert alive(parts) == 0
    assert tracer.graph.nodes
    assert float(saved) == pytest.approx(float((rows() * 8).sum()))


def test_inference_mode_unless_a_gradient_is_asked_for() -> None:
    model, parts = chain(2)
    with model.trace(rows()):
        model.output.save()
    assert parts[0].inference[-1]
    with model.trace(rows().requires_grad_()):
        hidden = model[0].output
        model.output.sum().backward()
        hidden.grad.save()
    assert not parts[0].inference[-1]


def test_a_thousand_traces_hold_memory_flat(net: Model) -> None:
    def trace() -> None:
        with net.trace() as tracer:
            with tracer.invoke(rows()):
                clean = net.first.output
                net.output.save()
            with tracer.invoke(rows(seed=1)):
                net.first.output[:, 0] = clean[:, 0]
                net.output.save()

    for _ in range(100):
        trace()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(100):
            trace()
        gc.collect()
        before, objects = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
        for _ in range(900):
            trace()
        gc.collect()
        grown, more = tracemalloc.get_traced_memory()[0] - before, len(gc.get_objects()) - objects
    finally:
        tracemalloc.stop()
    assert grown < 64 * 1024
    assert more < 200


def test_failing_and_differentiating_traces_hold_memory_flat(net: Model) -> None:
    def trace() -> None:
        with net.trace(rows()):
            first = net.first.output
            net.output.sum().backward()
            first.grad.save()
        with pytest.raises(RuntimeError), net.trace(rows()):
            net.first.output.view(99).save()

    for _ in range(20):
        trace()
    gc.collect()
    tensors = sum(type(one) is Tensor for one in gc.get_objects())
    objects = len(gc.get_objects())
    for _ in range(100):
        trace()
    gc.collect()
    assert sum(type(one) is Tensor for one in gc.get_objects()) <= tensors + 2
    assert len(gc.get_objects()) - objects < 200


def test_a_model_that_is_let_go_is_freed() -> None:
    module = support.Net()
    model = Model(module)
    with model.trace(rows()):
        out = model.output.save()
    expected = outputs(module, rows())[""]
    gone = weakref.ref(module)
    del model, module
    gc.collect()
    assert gone() is None
    assert torch.allclose(out.value, expected)


def test_the_plan_names_the_sites_and_estimates_bytes(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        gpt2.transformer.h[1].output.save()
        gpt2.transformer.h[2].mlp.output[:] = 0
        plan = str(tracer.plan())
    assert "transformer.h.1" in plan
    assert "transformer.h.2.mlp" in plan
    assert any(character.isdigit() for character in plan)


def test_a_saved_row_does_not_keep_the_whole_activation(gpt2: LanguageModel) -> None:
    with gpt2.trace([PROMPT, "The cat sat on the"]):
        row = gpt2.transformer.h[1].output[0, 0].save()
    assert row.value.untyped_storage().nbytes() == 32 * 8
    assert ids(PROMPT).shape[1] == 5
