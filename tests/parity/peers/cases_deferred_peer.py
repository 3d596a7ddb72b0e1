"""Traces of nnsight 0.4.11 whose words are its own: functions of its package, a tracer that an edit's `with` gives."""

from collections.abc import Mapping
from typing import Any

import nnsight
from torch import Tensor

from tests.parity.peers.layout import Layout

Given = Mapping[str, Tensor]
Values = dict[str, Any]


def case_list(model: Any, at: Layout, given: Given) -> Values:
    with model.generate(given["clean"], max_new_tokens=3, min_new_tokens=3):
        found = nnsight.list().save()
        with at.blocks[1].all():
            found.append(at.blocks[1].output[:, -1])
    return {"found": list(found)}


def case_steps(model: Any, at: Layout, given: Given) -> Values:
    with model.generate(given["clean"], max_new_tokens=4, min_new_tokens=4):
        with at.mlps[1].iter[1:3]:
            at.mlps[1].output[:] = 0
        ids = model.generator.output.save()
    return {"ids": ids}


def case_condition(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]) as tracer:
        large = at.blocks[0].output.norm() > 0
        with tracer.cond(large):
            at.blocks[1].output[:, 1] = 0
        logits = model.output.logits.save()
    return {"logits": logits}


def case_edit(model: Any, at: Layout, given: Given) -> Values:
    with model.edit() as edited:
        Layout(edited, at.family).mlps[1].output[:] = 0
    with edited.trace(given["clean"]):
        changed = edited.output.logits.save()
    with model.trace(given["clean"]):
        unchanged = model.output.logits.save()
    return {"edited": changed, "unedited": unchanged}


def case_apply(model: Any, at: Layout, given: Given) -> Values:
    with model.trace(given["clean"]):
        total = nnsight.apply(lambda value: value.sum(), at.blocks[1].output).save()
    return {"total": total}


def case_first_row(model: Any, at: Layout, given: Given) -> Values:
    """What `output[0]` of a block is there."""
    with model.trace(given["clean"]):
        hidden = at.blocks[1].output[0].save()
    return {"hidden": hidden}
