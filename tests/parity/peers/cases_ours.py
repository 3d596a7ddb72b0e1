"""The same traces in our words, where a peer's own cannot be ours: unpacking of values, its package's functions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

Given = Mapping[str, Tensor]
Values = dict[str, Any]


def case_keyword_arguments(model: Any, at: Layout, given: Given) -> Values:
    block = at.blocks[1]
    with model.trace(given["clean"]):
        norm = block.inputs[0][0].norm().save()
    return {"norm": norm}


def case_replaced_tuple(model: Any, at: Layout, given: Given) -> Values:
    attention = at.attentions[1]
    with model.trace(given["clean"]):
        attention.output = (attention.output[0] * 0.5, attention.output[1])
        logits = model.output.logits.save()
    return {"logits": logits}


def case_generation(model: Any, at: Layout, given: Given) -> Values:
    found = []
    with model.generate(given["clean"], max_new_tokens=4, min_new_tokens=4) as tracer:
        for _ in tracer.iter[:4]:
            found.append(at.blocks[1].output[:, -1].save())
        ids = tracer.result.save()
    return {"ids": ids, "step": found}


def case_edit(model: Any, at: Layout, given: Given) -> Values:
    with model.edit() as edited:
        Layout(edited, at.family).mlps[1].output[:] = 0
    with edited.trace(given["clean"]):
        changed = edited.output.logits.save()
    with model.trace(given["clean"]):
        unchanged = model.output.logits.save()
    return {"edited": changed, "unedited": unchanged}


def case_scan(model: Any, at: Layout, given: Given) -> Values:
    with model.scan(given["clean"]):
        shape = tuple(at.blocks[1].output.shape)
    return {"shape": torch.Size(shape)}


def case_list(model: Any, at: Layout, given: Given) -> Values:
    with model.generate(given["clean"], max_new_tokens=3, min_new_tokens=3) as tracer:
        found = tracer.list().save()
        with tracer.all():
            found.append(at.blocks[1].output[:, -1])
    return {"found": list(found)}


def case_steps(model: Any, at: Layout, given: Given) -> Values:
    with model.generate(given["clean"], max_new_tokens=4, min_new_tokens=4) as tracer:
        with tracer.iter[1:3]:
            at.mlps[1].output[:] = 0
        ids = tracer.result.save()
    return {"ids": ids}


def case_apply(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]) as tracer:
        total = tracer.apply(lambda value: value.sum(), at.blocks[1].output).save()
    return {"total": total}
