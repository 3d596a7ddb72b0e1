"""Hooks of TransformerLens 4.3.0: its names for what our standard sites are called."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.parity.peers.layout import Layout

NAMES = {
    "resid_pre": "blocks.{}.hook_resid_pre", "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out", "mlp_out": "blocks.{}.hook_mlp_out",
    "q": "blocks.{}.attn.hook_q", "k": "blocks.{}.attn.hook_k", "v": "blocks.{}.attn.hook_v",
    "z": "blocks.{}.attn.hook_z", "pattern": "blocks.{}.attn.hook_pattern",
}  # fmt: skip


def case_sites(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    logits, cache = model.run_with_cache(given["clean"])
    found = {name: cache[pattern.format(1)] for name, pattern in NAMES.items() if pattern.format(1) in cache}
    return {"logits": logits, **found}


def case_zeroed_head(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    def zero(value: Tensor, hook: Any) -> Tensor:
        value[:, :, 2] = 0
        return value

    return {"logits": model.run_with_hooks(given["clean"], fwd_hooks=[("blocks.1.attn.hook_z", zero)])}


def case_patched_residual(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    _, cache = model.run_with_cache(given["clean"])
    clean = cache["blocks.1.hook_resid_post"]

    def patch(value: Tensor, hook: Any) -> Tensor:
        value[:, 3] = clean[:, 3]
        return value

    return {"logits": model.run_with_hooks(given["corrupted"], fwd_hooks=[("blocks.1.hook_resid_post", patch)])}
