"""Traces that nnsight 0.8.1 runs without an error and gets wrong, in its own words."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.parity.peers.layout import Layout

Given = Mapping[str, Tensor]
Values = dict[str, Any]


def case_first_row(model: Any, at: Layout, given: Given) -> Values:
    """What `output[0]` of a block is there."""
    block = at.blocks[1]
    with model.trace(given["clean"]):
        hidden = block.output[0].save()
    return {"hidden": hidden}


def case_zeroing_two_prompts(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["both"]):
        block.output[0][:] = 0
        hidden = block.output.save()
    return {"hidden": hidden}


def case_misspelt_option(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"], remot=True):
        logits = model.output.logits.save()
    return {"logits": logits}


def case_bare_backward(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        hidden = block.output
        part = hidden[0]
        model.output.logits[0, -1, 5].backward()
        missing = part.grad is None
        nothing = missing.save()
    return {"is None": nothing}


def case_out_of_order(model: Any, at: Layout, given: Given) -> Values:
    late, early = at.blocks[2], at.blocks[0]
    with model.trace(given["clean"]):
        last = late.output.save()
        first = early.output.save()
    return {"last": last, "first": first}


def case_crossing_without_a_barrier(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace() as tracer:
        with tracer.invoke(given["clean"]):
            clean = block.output
        with tracer.invoke(given["corrupted"]):
            block.output[:] = clean
            logits = model.output.logits.save()
    return {"logits": logits}
