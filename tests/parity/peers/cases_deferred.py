"""Traces in the words of nnsight 0.4.11, the last deferred one: what is written is recorded, and runs when it ends.

They say what our tracer must accept word for word. Block outputs are used without `[0]`, which is row 0 there.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

CLEAN = "The E iff el Tower is in"
CORRUPTED = "The Colosseum is in the city"
SHORT = "Hello world"
Given = Mapping[str, Tensor]
Values = dict[str, Any]


def case_reads(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        entering = at.blocks[1].input.save()
        attended = at.attentions[1].output[0].save()
        received = at.mlps[1].input.save()
        added = at.mlps[1].output.save()
        leaving = at.blocks[1].output.save()
        logits = model.output.logits.save()
    return {
        "block.input": entering, "attn": attended, "mlp.input": received, "mlp": added, "block": leaving,
        "logits": logits,
    }  # fmt: skip


def case_reads_out_of_order(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        logits = model.output.logits.save()
        last = at.blocks[2].output.save()
        first = at.blocks[0].output.save()
        entering = at.blocks[1].input.save()
        difference = (last - first).norm(dim=-1).save()
    return {"logits": logits, "last": last, "first": first, "input": entering, "difference": difference}


def case_write_after_the_logits(model: Any, at: Layout, given: Given) -> Values:
    """The edit is said after the logits were asked for, and both are of one forward."""
    with model.trace(given["clean"]):
        at.mlps[1].output[:] = 0
        logits = model.output.logits.save()
        hidden = at.blocks[1].output.save()
    return {"logits": logits, "hidden": hidden}


def case_values_after_the_block(model: Any, at: Layout, given: Given) -> Values:
    """`.value`, of proxies kept in a list and a dict."""
    kept: dict[str, Any] = {}
    with model.trace(given["clean"]):
        every = [block.output.save() for block in at.blocks]
        kept["mean"] = at.blocks[1].output.mean(-1).save()
        kept["all"] = [mlp.output[:, -1].save() for mlp in at.mlps]
    return {
        "every": [proxy.value for proxy in every],
        "mean": kept["mean"].value,
        "all": [proxy.value for proxy in kept["all"]],
    }


def case_writes(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        at.mlps[0].output[:] = 0
        at.attentions[1].output[0][:, 2] = given["direction"]
        at.blocks[1].output[:, -1] += given["direction"]
        logits = model.output.logits.save()
    return {"logits": logits}


def case_replaced_block(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        at.blocks[1].output = at.blocks[1].output * 2 + given["direction"]
        logits = model.output.logits.save()
    return {"logits": logits}


def case_replaced_input(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        at.mlps[1].input = at.mlps[1].input * 0.5
        added = at.mlps[1].output.save()
        logits = model.output.logits.save()
    return {"mlp": added, "logits": logits}


def case_saved_before_write(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        before = at.blocks[1].output.clone().save()
        at.blocks[1].output[:, 0] = 0
        after = at.blocks[1].output.save()
    return {"before": before, "after": after}


def case_patch_between_traces(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        clean = at.blocks[1].output.save()
    with model.trace(given["corrupted"]):
        at.blocks[1].output[:, 3] = clean[:, 3]
        logits = model.output.logits.save()
    return {"logits": logits}


def case_session(model: Any, at: Layout, given: Given) -> Values:
    with model.session():
        with model.trace(given["clean"]):
            clean = at.blocks[1].output
        with model.trace(given["corrupted"]):
            at.blocks[1].output[:, 3] = clean[:, 3]
            logits = model.output.logits.save()
    return {"logits": logits}


def case_value_crosses_invokes(model: Any, at: Layout, given: Given) -> Values:
    """The same layer, without a barrier."""
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            clean = at.blocks[1].output
        with tracer.invoke(given["corrupted"]):
            at.blocks[1].output[:, 2:4] = clean[:, 2:4]
            logits = at.unembedding.output.save()
    return {"logits": logits}


def case_value_goes_deeper(model: Any, at: Layout, given: Given) -> Values:
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            clean = at.blocks[0].output
        with tracer.invoke(given["corrupted"]):
            at.blocks[2].output = clean * 0.5
            logits = at.unembedding.output.save()
    return {"logits": logits}


def case_invokes(model: Any, at: Layout, given: Given) -> Values:
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            at.blocks[1].output[:, 1] = 0
            first = at.unembedding.output.save()
        with tracer.invoke(given["corrupted"]):
            hidden = at.blocks[1].output.save()
            second = at.unembedding.output.save()
    return {"first": first, "second": second, "hidden": hidden}


def case_unequal_invokes(model: Any, at: Layout, given: Given) -> Values:
    with model.trace() as tracer:
        with tracer.invoke(CLEAN):
            first = at.unembedding.output[:, -2:].save()
        with tracer.invoke(SHORT):
            second = at.unembedding.output[:, -2:].save()
    return {"first": first, "second": second}


def case_bare_backward(model: Any, at: Layout, given: Given) -> Values:
    """The gradient is asked for before the backward."""
    with model.trace(given["clean"]):
        hidden = at.blocks[0].output
        gradient = hidden.grad.save()
        added = at.mlps[1].output.grad.save()
        loss = model.output.logits[0, -1, 5] - model.output.logits[0, -1, 7]
        loss.backward()
        kept = loss.save()
    return {"gradient": gradient, "mlp": added, "loss": kept}


def case_gradient_edit(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        middle = at.blocks[1].output
        middle.grad = middle.grad * given["direction"]
        gradient = at.blocks[0].output.grad.save()
        model.output.logits[0, -1, 5].backward()
    return {"gradient": gradient}


def case_gradients_of_invokes(model: Any, at: Layout, given: Given) -> Values:
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            first = at.blocks[1].output.grad.save()
            one = at.unembedding.output[0, -1, 5]
        with tracer.invoke(given["corrupted"]):
            second = at.blocks[1].output.grad.save()
            (at.unembedding.output[0, -1, 7] * 2 + one).backward()
    return {"first": first, "second": second}


def case_retained_gradient(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        hidden = at.blocks[1].output.save()
        hidden.retain_grad()
        model.output.logits[0, -1, 5].backward()
    return {"gradient": hidden.grad}


def case_generation_by_next(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.generate(given["clean"], max_new_tokens=3, min_new_tokens=3):
        first = block.output[:, -1].save()
        second = block.next().output[:, -1].save()
        third = block.next().output[:, -1].save()
    return {"first": first, "second": second, "third": third}


def case_logit_lens(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        lens = at.unembedding(at.norm(at.blocks[0].output)).softmax(-1).save()
    return {"lens": lens}


def case_operations(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        hidden, logits = at.blocks[1].output, model.output.logits
        top = logits[0, -1].topk(3).indices.save()
        chosen = torch.where(hidden > 0, hidden, -hidden).mean(-1).save()
        product = torch.einsum("bpd,d->bp", hidden, given["direction"]).save()
        joined = torch.cat([hidden[:, :1], hidden[:, -1:]], dim=1).transpose(1, 2).save()
        reversed_sum = (1 - hidden / 2 + 3**0.5).sum().save()
    return {"top": top, "where": chosen, "einsum": product, "cat": joined, "sum": reversed_sum}


def case_scan_and_validate(model: Any, at: Layout, given: Given) -> Values:
    with model.scan(given["clean"]):
        shape = at.blocks[1].output.shape
    return {"shape": tuple(shape)}
