"""Sweeps in the words of nnsight 0.8.1: one trace a cell, clean values into the corrupted run.

The metric is logit 5 minus logit 6 at the last position.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

Given = Mapping[str, Tensor]


def _tensor(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def case_resid_post(model: Any, at: Layout, given: Given) -> dict[str, Any]:
    cells = []
    for layer in range(3):
        with model.trace(given["clean"]):
            clean = at.blocks[layer].output.save()
        clean = _tensor(clean)
        for position in range(clean.shape[1]):
            with model.trace(given["corrupted"]):
                out = at.blocks[layer].output
                hidden = out[0] if isinstance(out, tuple) else out
                hidden[:, position] = clean[:, position]
                logits = model.lm_head.output[0, -1].save()
            cells.append(logits[5] - logits[6])
    return {"resid_post": torch.stack(cells).reshape(3, -1)}


def case_mlp_out(model: Any, at: Layout, given: Given) -> dict[str, Any]:
    cells = []
    for layer in range(3):
        with model.trace(given["clean"]):
            clean = at.mlps[layer].output.save()
        for position in range(clean.shape[1]):
            with model.trace(given["corrupted"]):
                at.mlps[layer].output[:, position] = clean[:, position]
                logits = model.lm_head.output[0, -1].save()
            cells.append(logits[5] - logits[6])
    return {"mlp_out": torch.stack(cells).reshape(3, -1)}


def case_attn_out(model: Any, at: Layout, given: Given) -> dict[str, Any]:
    cells = []
    for layer in range(3):
        with model.trace(given["clean"]):
            clean = at.attentions[layer].output[0].save()
        for position in range(clean.shape[1]):
            with model.trace(given["corrupted"]):
                at.attentions[layer].output[0][:, position] = clean[:, position]
                logits = model.lm_head.output[0, -1].save()
            cells.append(logits[5] - logits[6])
    return {"attn_out": torch.stack(cells).reshape(3, -1)}
