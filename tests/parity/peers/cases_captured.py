"""Traces in the words of nnsight 0.8.1. It runs a block as it stands, so sites are named in the forward's order."""

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
    block, attention, mlp = at.blocks[1], at.attentions[1], at.mlps[1]
    with model.trace(given["clean"]):
        entering = block.input.save()
        attended = attention.output[0].save()
        received = mlp.input.save()
        added = mlp.output.save()
        leaving = block.output.save()
        logits = model.output.logits.save()
    return {
        "block.input": entering, "attn": attended, "mlp.input": received, "mlp": added, "block": leaving,
        "logits": logits,
    }  # fmt: skip


def case_text_prompt(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(CLEAN):
        logits = model.output.logits.save()
    return {"logits": logits}


def case_keyword_arguments(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        positional, keyword = block.inputs
        norm = (positional[0] if positional else keyword["hidden_states"]).norm().save()
    return {"norm": norm}


def case_zeroed_block(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        block.output[:] = 0
        logits = model.output.logits.save()
    return {"logits": logits}


def case_zeroed_mlp(model: Any, at: Layout, given: Given) -> Values:
    mlp = at.mlps[0]
    with model.trace(given["clean"]):
        mlp.output[:] = 0
        logits = model.output.logits.save()
    return {"logits": logits}


def case_zeroed_attention(model: Any, at: Layout, given: Given) -> Values:
    attention = at.attentions[1]
    with model.trace(given["clean"]):
        attention.output[0][:] = 0
        logits = model.output.logits.save()
    return {"logits": logits}


def case_replaced_tuple(model: Any, at: Layout, given: Given) -> Values:
    attention = at.attentions[1]
    with model.trace(given["clean"]):
        attention.output = (attention.output[0] * 0.5, *attention.output[1:])
        logits = model.output.logits.save()
    return {"logits": logits}


def case_replaced_block(model: Any, at: Layout, given: Given) -> Values:
    block, after = at.blocks[1], at.blocks[2]
    with model.trace(given["clean"]):
        block.output = block.output * 2 + given["direction"]
        entering = after.input.save()
        logits = model.output.logits.save()
    return {"after": entering, "logits": logits}


def case_one_position(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[0]
    with model.trace(given["clean"]):
        block.output[:, -2] += given["direction"]
        block.output[:, 1, 3:9] = 0.25
        logits = model.output.logits.save()
    return {"logits": logits}


def case_replaced_input(model: Any, at: Layout, given: Given) -> Values:
    mlp, block = at.mlps[1], at.blocks[2]
    with model.trace(given["clean"]):
        mlp.input = mlp.input * 0.5
        added = mlp.output.save()
        block.input = block.input + given["direction"]
        logits = model.output.logits.save()
    return {"mlp": added, "logits": logits}


def case_replaced_logits(model: Any, at: Layout, given: Given) -> Values:
    unembedding = at.unembedding
    with model.trace(given["clean"]):
        unembedding.output = unembedding.output * 2
        logits = model.output.logits.save()
    return {"logits": logits}


def case_saved_before_write(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        before = block.output.clone().save()
        block.output[:, 0] = 0
        after = block.output.save()
    return {"before": before, "after": after}


def case_patch_between_traces(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        clean = block.output.save()
    with model.trace(given["corrupted"]):
        block.output[:, 3] = clean[:, 3]
        logits = model.output.logits.save()
    return {"logits": logits}


def case_patch_in_a_session(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.session():
        with model.trace(given["clean"]):
            clean = block.output.save()
        with model.trace(given["corrupted"]):
            block.output[:, 3] = clean[:, 3]
            logits = model.output.logits.save()
    return {"logits": logits}


def case_invokes(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            block.output[:, 1] = 0
            first = model.output.logits.save()
        with tracer.invoke(given["corrupted"]):
            hidden = block.output.save()
            second = model.output.logits.save()
    return {"first": first, "second": second, "hidden": hidden}


def case_unequal_invokes(model: Any, at: Layout, given: Given) -> Values:
    """Last positions only: here a shorter prompt's values have padding before them."""
    block = at.blocks[1]
    with model.trace() as tracer:
        with tracer.invoke(CLEAN):
            first = model.output.logits[:, -2:].save()
        with tracer.invoke(SHORT):
            hidden = block.output[:, -2:].clone().save()
            block.output[:, -1] *= 2
            second = model.output.logits[:, -2:].save()
    return {"first": first, "hidden": hidden, "second": second}


def case_list_of_prompts(model: Any, at: Layout, given: Given) -> Values:
    with model.trace([CLEAN, SHORT]):
        last = model.output.logits[:, -1].save()
    return {"last": last}


def case_empty_invoke(model: Any, at: Layout, given: Given) -> Values:
    """The invoke without a prompt exchanges the two prompts' hidden states."""
    block = at.blocks[1]
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            first = model.output.logits.save()
        with tracer.invoke(given["corrupted"]):
            second = model.output.logits.save()
        with tracer.invoke():
            block.output = block.output.flip(0)
            every = model.output.logits.save()
    return {"first": first, "second": second, "all": every}


def case_value_crosses_invokes(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(given["clean"]):
            clean = block.output
            barrier()
        with tracer.invoke(given["corrupted"]):
            barrier()
            block.output[:, 2:4] = clean[:, 2:4]
            logits = model.output.logits.save()
    return {"logits": logits}


def case_value_goes_deeper(model: Any, at: Layout, given: Given) -> Values:
    early, late = at.blocks[0], at.blocks[2]
    with model.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(given["clean"]):
            clean = early.output
            barrier()
        with tracer.invoke(given["corrupted"]):
            barrier()
            late.output = clean * 0.5
            logits = model.output.logits.save()
    return {"logits": logits}


def case_skip(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        block.skip(block.input)
        logits = model.output.logits.save()
    return {"logits": logits}


def case_gradients(model: Any, at: Layout, given: Given) -> Values:
    first, last, mlp = at.blocks[0], at.blocks[2], at.mlps[1]
    with model.trace(given["clean"]):
        h0 = first.output
        added = mlp.output
        h2 = last.output
        logits = model.output.logits
        loss = (logits[0, -1, 5] - logits[0, -1, 7]).save()
        with loss.backward():
            g2 = h2.grad.save()
            g1 = added.grad.save()
            g0 = h0.grad.save()
    return {"loss": loss, "first": g0, "mlp": g1, "last": g2}


def case_gradient_edit(model: Any, at: Layout, given: Given) -> Values:
    first, middle = at.blocks[0], at.blocks[1]
    with model.trace(given["clean"]):
        h0 = first.output
        h1 = middle.output
        loss = model.output.logits[0, -1, 5]
        with loss.backward():
            h1.grad = h1.grad * given["direction"]
            g0 = h0.grad.save()
    return {"first": g0}


def case_two_backwards(model: Any, at: Layout, given: Given) -> Values:
    first = at.blocks[0]
    with model.trace(given["clean"]):
        h0 = first.output
        logits = model.output.logits
        one = logits[0, -1, 5]
        two = logits[0, -2, 6]
        with one.backward(retain_graph=True):
            g1 = h0.grad.clone().save()
        with two.backward():
            g2 = h0.grad.clone().save()
    return {"one": g1, "two": g2}


def case_generation(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    found = []
    with model.generate(given["clean"], max_new_tokens=4, min_new_tokens=4) as tracer:
        steps = found.save()
        for _ in tracer.iter[:4]:
            steps.append(block.output[:, -1])
        ids = tracer.result.save()
    return {"ids": ids, "step": list(steps)}


def case_generation_with_writes(model: Any, at: Layout, given: Given) -> Values:
    mlp = at.mlps[1]
    with model.generate(given["clean"], max_new_tokens=4, min_new_tokens=4) as tracer:
        for _ in tracer.iter[1:3]:
            mlp.output[:] = 0
        ids = tracer.result.save()
    return {"ids": ids}


def case_logit_lens(model: Any, at: Layout, given: Given) -> Values:
    block, norm, unembedding = at.blocks[0], at.norm, at.unembedding
    with model.trace(given["clean"]):
        lens = unembedding(norm(block.output)).softmax(-1).save()
    return {"lens": lens}


def case_edit(model: Any, at: Layout, given: Given) -> Values:
    with model.edit() as (_, edited):
        Layout(edited, at.family).mlps[1].output[:] = 0
    with edited.trace(given["clean"]):
        changed = edited.output.logits.save()
    with model.trace(given["clean"]):
        unchanged = model.output.logits.save()
    return {"edited": changed, "unedited": unchanged}


def case_cache(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]) as tracer:
        cache = tracer.cache(modules=[at.mlps[0], at.blocks[1]])
    start = "model." if f"model.{at.path(1)}" in cache else ""
    return {"mlp": cache[start + at.path(0, "mlp")].output, "block": cache[start + at.path(1)].output}


def case_stop(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]) as tracer:
        hidden = block.output.save()
        tracer.stop()
    return {"hidden": hidden}


def case_operations(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        hidden = block.output
        logits = model.output.logits
        top = logits[0, -1].topk(3).indices.save()
        probability = torch.softmax(logits[:, -1], dim=-1).save()
        chosen = torch.where(hidden > 0, hidden, -hidden).mean(-1).save()
        product = torch.einsum("bpd,d->bp", hidden, given["direction"]).save()
        joined = torch.cat([hidden[:, :1], hidden[:, -1:]], dim=1).transpose(1, 2).save()
        entropy = -(probability * probability.log()).sum(-1)
        total = entropy.save()
    return {"top": top, "p": probability, "where": chosen, "einsum": product, "cat": joined, "entropy": total}


def case_scan(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.scan(given["clean"]):
        shape = block.output.shape.save()
    return {"shape": shape}
