"""Semantics 9: gradients are those of torch, of any value, in any order; one that cannot be reached is an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, ids, rows, run
from tracing import LanguageModel, Model
from tracing.errors import CausalityError, GradientError

PROMPT = "The quick brown fox"
LAYERS = [f"transformer.h.{n}" for n in range(4)]


def reference(
    loss: Callable[[Tensor], Tensor],
    paths: list[str],
    *,
    writes: dict[str, Callable[[Tensor], Tensor]] | None = None,
    prompt: Any = PROMPT,
) -> list[Tensor]:
    """Gradients of a loss of the logits with respect to outputs of modules, by plain torch."""
    logits, found = run(support.gpt2().double(), ids(prompt), reads=paths, writes=writes, grad=True)
    return list(torch.autograd.grad(loss(logits), [found[path] for path in paths]))


def last(logits: Any) -> Any:
    """A loss."""
    return logits[0, -1, 7] - logits[0, -1, 3]


def test_retain_grad_then_backward_then_grad(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output[0].save()
        hidden.retain_grad()
        last(gpt2.output).backward()
        grad = hidden.grad.save()

    (expected,) = reference(last, LAYERS[1:2])
    assert expected.abs().sum() > 0
    close(grad, expected)
    close(hidden.grad, expected)


def test_grad_is_read_without_retain_grad_before_and_after_the_backward_in_any_order(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        before = gpt2.transformer.h[1].output.grad.save()
        last(gpt2.output).backward()
        later = {n: gpt2.transformer.h[n].output.grad.save() for n in (0, 3, 2)}

    expected = reference(last, LAYERS)
    close(before, expected[1])
    for n, grad in later.items():
        close(grad, expected[n])


def test_several_backwards_accumulate_as_in_torch(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output
        logits = gpt2.output
        last(logits).backward(retain_graph=True)
        first = hidden.grad.save()
        logits[0, -1, 5].backward()
        both = hidden.grad.save()

    (one,) = reference(last, LAYERS[1:2])
    (two,) = reference(lambda logits: logits[0, -1, 5], LAYERS[1:2])
    close(first, one)
    close(both, one + two)


def test_a_backward_block_has_its_own_gradient(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output
        logits = gpt2.output
        with last(logits).backward(retain_graph=True):
            one = hidden.grad.save()
        with logits[0, -1, 5].backward():
            two = hidden.grad.save()

    close(one, reference(last, LAYERS[1:2])[0])
    close(two, reference(lambda logits: logits[0, -1, 5], LAYERS[1:2])[0])


def test_a_gradient_given_to_backward(gpt2: LanguageModel) -> None:
    weights = torch.linspace(-1, 1, 4, dtype=torch.float64)
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output
        gpt2.output[0, :, 7].backward(gradient=weights)
        grad = hidden.grad.save()
    close(grad, reference(lambda logits: (logits[0, :, 7] * weights).sum(), LAYERS[1:2])[0])


def test_gradients_of_a_batch_are_those_of_each_prompt_alone(gpt2: LanguageModel) -> None:
    prompts = (PROMPT, "The Eiffel Tower is in", "Hello world")
    with gpt2.trace() as tracer:
        grads = []
        for prompt in prompts:
            with tracer.invoke(prompt):
                hidden = gpt2.transformer.h[1].output
                with last(gpt2.output).backward(retain_graph=True):
                    grads.append(hidden.grad.save())

    for prompt, grad in zip(prompts, grads, strict=True):
        (expected,) = reference(last, LAYERS[1:2], prompt=prompt)
        assert tuple(grad.shape) == tuple(expected.shape)
        close(grad, expected)


def test_the_loss_of_one_prompt_reaches_another_through_a_patch(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke("The cat sat on the"):
            source = gpt2.transformer.h[0].output
            patch = gpt2.transformer.h[1].output
        with tracer.invoke("The dog ran through the"):
            gpt2.transformer.h[1].output = patch
            last(gpt2.output).backward()
        grad = source.grad.save()

    module = support.gpt2().double()
    _, found = run(module, ids("The cat sat on the"), reads=LAYERS[:2], grad=True)
    logits, _ = run(module, ids("The dog ran through the"), writes={LAYERS[1]: lambda _: found[LAYERS[1]]}, grad=True)
    close(grad, torch.autograd.grad(last(logits), found[LAYERS[0]])[0])


def test_the_gradient_of_a_computed_value(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        scaled = gpt2.transformer.h[1].output * 3
        gpt2.transformer.h[1].output = scaled
        last(gpt2.output).backward()
        grad = scaled.grad.save()
        upstream = gpt2.transformer.h[0].output.grad.save()

    writes: dict[str, Callable[[Tensor], Tensor]] = {LAYERS[1]: lambda value: value * 3}
    wanted, above = reference(last, [LAYERS[1], LAYERS[0]], writes=writes)
    close(grad, wanted)
    close(upstream, above)


def test_the_gradient_of_a_part_of_a_site(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        part = gpt2.transformer.h[1].output[:, -1, :4]
        last(gpt2.output).backward()
        grad = part.grad.save()
    close(grad, reference(last, LAYERS[1:2])[0][:, -1, :4])


def test_gradients_flow_through_in_place_edits(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        early = gpt2.transformer.h[0].output
        hidden = gpt2.transformer.h[1].output
        hidden[:, 1] = 0
        hidden[:, 2] *= 2
        last(gpt2.output).backward()
        grad = early.grad.save()

    def write(value: Tensor) -> Tensor:
        mask = torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=torch.float64)[:, None]
        return value * mask

    close(grad, reference(last, LAYERS[:1], writes={LAYERS[1]: write})[0])


def _assign(hidden: Any) -> None:
    hidden.grad = hidden.grad * 2


def _augment(hidden: Any) -> None:
    hidden.grad *= 2


def _slice(hidden: Any) -> None:
    hidden.grad[:] = hidden.grad * 2


@pytest.mark.parametrize("edit", [_assign, _augment, _slice])
@pytest.mark.parametrize("block", [True, False])
def test_an_edited_gradient_flows_on(gpt2: LanguageModel, edit: Callable[[Any], None], block: bool) -> None:
    with gpt2.trace(PROMPT):
        hidden, early = gpt2.transformer.h[2].output, gpt2.transformer.h[0].output
        loss = last(gpt2.output)
        if block:
            with loss.backward():
                before = hidden.grad.save()
                edit(hidden)
                grad = early.grad.save()
        else:
            before = hidden.grad.save()
            edit(hidden)
            loss.backward()
            grad = early.grad.save()

    above, below = reference(last, [LAYERS[2], LAYERS[0]])
    close(before, above)
    close(grad, below * 2)


def test_a_gradient_edited_at_one_position_flows_on_from_the_others(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden, early = gpt2.transformer.h[1].output, gpt2.transformer.h[0].output
        with last(gpt2.output).backward():
            hidden.grad[:, -1] = 0
            grad = early.grad.save()

    module = support.gpt2().double()

    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        def zero(gradient: Tensor) -> Tensor:
            changed = gradient.clone()
            changed[:, -1] = 0
            return changed

        output.register_hook(zero)

    with module.get_submodule(LAYERS[1]).register_forward_hook(hook):
        logits, found = run(module, ids(PROMPT), reads=LAYERS[:1], grad=True)
    close(grad, torch.autograd.grad(last(logits), found[LAYERS[0]])[0])


def test_attribution_is_one_expression(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = [block.output for block in gpt2.transformer.h]
        last(gpt2.output).backward()
        scores = torch.stack([(h * h.grad).sum(-1) for h in hidden]).save()

    _, values = run(gpt2._model, ids(PROMPT), reads=LAYERS)
    grads = reference(last, LAYERS)
    expected = torch.stack([(values[p] * g).sum(-1) for p, g in zip(LAYERS, grads, strict=True)])
    close(scores, expected)


def test_a_gradient_that_the_loss_does_not_depend_on_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(GradientError), gpt2.trace(PROMPT):
        early = gpt2.transformer.h[0].output.sum()
        late = gpt2.transformer.h[2].output
        early.backward()
        late.grad.save()


def test_a_backward_through_a_value_without_gradient_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises((GradientError, RuntimeError)), gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[0].output
        gpt2.output.argmax().backward()
        hidden.grad.save()


def test_a_second_backward_needs_no_retain_graph_or_is_torchs_error_at_the_line(gpt2: LanguageModel) -> None:
    grad: Any = None
    try:
        with gpt2.trace(PROMPT):
            hidden = gpt2.transformer.h[0].output
            last(gpt2.output).backward()
            gpt2.output[0, -1, 5].backward()
            grad = hidden.grad.save()
    except RuntimeError as error:
        assert "second time" in str(error)  # noqa: PT017
        assert "test_gradients.py" in "".join(getattr(error, "__notes__", []))  # noqa: PT017
    else:
        (one,) = reference(last, LAYERS[:1])
        (two,) = reference(lambda logits: logits[0, -1, 5], LAYERS[:1])
        close(grad, one + two)


def test_a_loss_that_is_no_number_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(RuntimeError, match=r"scalar|single number"), gpt2.trace(PROMPT):
        gpt2.output.backward()
        gpt2.transformer.h[0].output.grad.save()


def test_gradients_work_inside_no_grad_and_leave_the_mode_as_it_was(gpt2: LanguageModel) -> None:
    with torch.no_grad():
        with gpt2.trace(PROMPT):
            hidden = gpt2.transformer.h[1].output
            last(gpt2.output).backward()
            grad = hidden.grad.save()
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    close(grad, reference(last, LAYERS[1:2])[0])


def test_a_module_whose_parameters_take_part_keeps_their_requires_grad() -> None:
    net = Model(support.Net())
    before = [parameter.requires_grad for parameter in net._model.parameters()]
    with net.trace(rows()):
        first = net.first.output
        net.output.sum().backward()
        grad = first.grad.save()
        value = net.output.save()

    assert [parameter.requires_grad for parameter in net._model.parameters()] == before
    assert not value.value.requires_grad
    assert not grad.value.requires_grad
    hidden: list[Tensor] = []
    with net._model.first.register_forward_hook(lambda _, __, out: hidden.append(out)):
        out = net._model(rows())
    close(grad, torch.autograd.grad(out.sum(), hidden[0])[0])


def test_gradients_of_a_steering_vector_made_by_the_user(gpt2: LanguageModel) -> None:
    vector = torch.full((32,), 0.1, dtype=torch.float64)
    with gpt2.trace(PROMPT):
        steer = gpt2.transformer.h[1].output[0, 0] * 0 + vector
        gpt2.transformer.h[1].output[:, -1] += steer
        last(gpt2.output).backward()
        grad = steer.grad.save()

    module = support.gpt2().double()
    leaf = vector.clone().requires_grad_()

    def write(value: Tensor) -> Tensor:
        return torch.cat([value[:, :-1], value[:, -1:] + leaf], dim=1)

    logits, _ = run(module, ids(PROMPT), writes={LAYERS[1]: write}, grad=True)
    close(grad, torch.autograd.grad(last(logits), leaf)[0])


class Modes(nn.Module):
    """Notes the autograd mode of each of its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).double()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        out: Tensor = self.layer(x)
        return out


def test_no_autograd_graph_is_built_unless_a_gradient_is_asked_for() -> None:
    net = Model(Modes())
    with net.trace(rows()):
        out = net.output.save()
    assert net._model.seen == [(False, True)]
    assert out.value.grad_fn is None
    net._model.seen.clear()
    with net.trace(rows()):
        net.output.sum().backward()
        net.layer.output.grad.save()
    assert net._model.seen[-1] == (True, False)


@pytest.mark.parametrize("doubled", [False, True])
def test_a_loss_of_its_own_gradient_is_refused_at_its_line(gpt2: LanguageModel, doubled: bool) -> None:
    refused = pytest.raises(CausalityError, match=r"of that same backward \(asked for at test_gradients.py:\d+")
    with refused, gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output[0]
        gradient = hidden.grad * 2 if doubled else hidden.grad
        (gpt2.output * gradient.norm()).sum().backward()


def test_a_loss_of_an_earlier_backwards_gradient_is_computed(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output[0]
        logits = gpt2.output
        with logits[0, -1].sum().backward(retain_graph=True):
            factor = hidden.grad.norm()
        with (logits[0, -1].sum() * factor).backward():
            grad = hidden.grad.save()
        factor = factor.save()
    (expected,) = reference(lambda out: out[0, -1].sum(), LAYERS[1:2])
    close(grad, expected * factor)
