"""More traces that are exported: gradients and generations. See `export_cases`."""

from typing import Any

import torch

from tests.parity.export_cases import LONG, MIDDLE, SHORT, TWO, Given
from tests.parity.peers.layout import Layout


# -- gradients --------------------------------------------------------------------------------------------------------
def case_gradients(model: Any, at: Layout, given: Given) -> None:
    with model.trace(TWO):
        hidden = at.blocks[0].output[0]
        hidden.retain_grad()
        added = at.mlps[1].output
        entering = at.blocks[2].input
        at.norm.output = at.norm.output * 2
        normed = at.norm.output
        logits = model.output
        loss = (logits[:, -1, 5] - logits[:, -1, 7]).mean()
        loss.backward()
        hidden.grad.save()
        hidden.grad[:, -1].norm().save()
        added.grad.save()
        entering.grad.save()
        normed.grad.save()
        logits.grad.save()
        loss.save()


def case_gradients_of_parts(model: Any, at: Layout, given: Given) -> None:
    with model.trace(TWO):
        at.blocks[1].output[0][:, 1].grad.save()
        model.sites.z[1][:, :, 2].grad.save()
        model.sites.q[0].grad.save()
        model.sites.resid_mid[1].grad.save()
        at.attentions[0].output[0].grad.save()
        model.output[0, -1].logsumexp(-1).backward()


def case_several_backwards(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        hidden, logits = at.blocks[0].output, model.output
        with logits[0, -1, 5].backward(retain_graph=True):
            hidden.grad.save()
        with logits[0, -2, 6].backward():
            hidden.grad.save()


def case_backwards_accumulate(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        hidden, logits = at.blocks[0].output, model.output
        logits[0, -1, 5].backward(retain_graph=True)
        logits[0, -2].backward(gradient=torch.ones_like(logits[0, -2]))
        hidden.grad.save()


def case_gradients_are_written(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        first, middle = at.blocks[0].output, at.blocks[1].output
        loss = model.output[0, -1, 5]
        with loss.backward():
            middle.grad[:, 1] = 0
            middle.grad *= given["direction"]
            middle.grad.save()
            first.grad.save()


def case_gradients_of_several_prompts(model: Any, at: Layout, given: Given) -> None:
    with model.trace() as tracer:
        with tracer.invoke(LONG):
            one = at.blocks[1].output[0]
            first = model.output[0, -1, 5]
        with tracer.invoke(SHORT):
            two = at.blocks[1].output[0]
            (first + model.output[0, -1, 6] * 2).backward()
            one.grad.save()
            two.grad.save()


def case_gradients_after_a_write(model: Any, at: Layout, given: Given) -> None:
    with model.trace(MIDDLE):
        hidden = at.blocks[0].output
        hidden[:, 1] = 0
        at.blocks[1].output = at.blocks[1].output * 2
        later = at.blocks[1].output
        model.output[0, -1, 3].backward()
        hidden.grad.save()
        later.grad.save()


def case_attribution(model: Any, at: Layout, given: Given) -> None:
    """The difference of two prompts' activations along the gradient, as attribution patching computes it."""
    with model.session():
        with model.trace(given["clean"]):
            clean = [block.output for block in at.blocks]
        with model.trace(given["corrupted"]):
            corrupted = [block.output for block in at.blocks]
            logits = model.output[0, -1]
            (logits[5] - logits[7]).backward()
            for one, other in zip(clean, corrupted, strict=True):
                ((one - other) * other.grad).sum(-1).save()


# -- generation -------------------------------------------------------------------------------------------------------
def case_generation(model: Any, at: Layout, given: Given) -> None:
    with model.generate(MIDDLE, max_new_tokens=4, min_new_tokens=4) as tracer:
        for step in tracer.iter[:3]:
            at.blocks[1].output[0][:, -1] += step
            model.output[:, -1].argmax(-1).save()
        at.blocks[0].output.save()
        tracer.result.save()


def case_generation_of_unequal_prompts(model: Any, at: Layout, given: Given) -> None:
    with model.generate(max_new_tokens=3, min_new_tokens=3) as tracer:
        with tracer.invoke(LONG):
            with tracer.iter[1:]:
                at.mlps[1].output[:] *= 0.5
            tracer.result.save()
        with tracer.invoke(SHORT):
            with tracer.all():
                at.blocks[1].output[0].save()
                model.output[0, -1].save()
            tracer.result.save()


def case_generation_with_values_between_steps(model: Any, at: Layout, given: Given) -> None:
    with model.generate(MIDDLE, max_new_tokens=4, min_new_tokens=4) as tracer:
        found = tracer.list().save()
        first = at.blocks[0].output[:, -1]
        total = first.sum()
        for _ in tracer.iter[1:3]:
            at.blocks[1].output[:, -1] += first
            total = total + at.blocks[2].output.sum()
            found.append(model.output[:, -1].argmax(-1))
        total.save()
        tracer.result.save()


def case_generation_with_conditions(model: Any, at: Layout, given: Given) -> None:
    with model.generate(MIDDLE, max_new_tokens=3, min_new_tokens=3) as tracer:
        with tracer.iter[:]:
            hidden = at.blocks[1].output
            with tracer.cond(hidden[:, -1].sum() > 0):
                hidden[:, -1] = 0
        tracer.result.save()


def case_generation_at_some_steps(model: Any, at: Layout, given: Given) -> None:
    with model.generate(MIDDLE, max_new_tokens=4, min_new_tokens=4) as tracer:
        for step in tracer.iter[[0, 2]]:
            at.mlps[1].output[:, -1] *= step
            at.blocks[2].output[:, -1].save()
        at.blocks[0].next().output.save()
        tracer.result.save()


def case_generation_ends_early(model: Any, at: Layout, given: Given) -> None:
    with model.generate(MIDDLE, max_new_tokens=6, eos_token_id=list(range(0, 369, 3))) as tracer:
        found = tracer.list().save()
        with tracer.all():
            found.append(model.output[:, -1].argmax(-1))
        tracer.result.save()


def case_values_cross_prompts_of_a_generation(model: Any, at: Layout, given: Given) -> None:
    with model.generate(max_new_tokens=3, min_new_tokens=3) as tracer:
        with tracer.invoke(LONG):
            for _ in tracer.iter[:2]:
                late = at.blocks[1].output[:, -1]
        with tracer.invoke(SHORT):
            for _ in tracer.iter[1:2]:
                at.blocks[1].output[:, -1] = late
            tracer.result.save()
