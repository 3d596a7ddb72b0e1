"""Sweeps of TransformerLens 4.3.0: its own generic patching, clean values into the corrupted run, cell by cell.

The metric is logit 5 minus logit 6 at the last position.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

RESIDUALS = {
    "resid_pre": "hook_resid_pre", "resid_post": "hook_resid_post", "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
}  # fmt: skip
HEADS = {"q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "z": "attn.hook_z"}


def _sweep(model: Any, given: Mapping[str, Tensor], hook: str, columns: int, index: Any) -> Tensor:
    _, cache = model.run_with_cache(given["clean"])
    rows = []
    for layer in range(3):
        name = f"blocks.{layer}.{hook}"
        row = []
        for column in range(columns):

            def patch(value: Tensor, hook: Any, name: str = name, column: int = column) -> Tensor:
                value[index(column)] = cache[name][index(column)]
                return value

            logits = model.run_with_hooks(given["corrupted"], fwd_hooks=[(name, patch)])[0, -1]
            row.append(logits[5] - logits[6])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def case_positions(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    length = given["clean"].shape[1]
    return {site: _sweep(model, given, hook, length, lambda c: (slice(None), c)) for site, hook in RESIDUALS.items()}


def case_heads(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    _, cache = model.run_with_cache(given["clean"])
    return {
        site: _sweep(model, given, hook, cache[f"blocks.0.{hook}"].shape[2], lambda c: (slice(None), slice(None), c))
        for site, hook in HEADS.items()
    }


def case_zeroed_heads(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    rows = []
    for layer in range(3):
        row = []
        for head in range(4):

            def zero(value: Tensor, hook: Any, head: int = head) -> Tensor:
                value[:, :, head] = 0
                return value

            logits = model.run_with_hooks(given["clean"], fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])[0, -1]
            row.append(logits[5] - logits[6])
        rows.append(torch.stack(row))
    return {"z": torch.stack(rows)}
