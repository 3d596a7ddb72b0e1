"""Patches written by hand on a GPT-2 of transformers: hooks on named modules, one forward a cell. No `tracing` here."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

HEADS, WIDTH = 4, 32
SIZE = WIDTH // HEADS
EVERY = slice(None)
Change = Callable[[Tensor], Tensor]


def _place(module: Any, site: str, layer: int) -> tuple[Any, str]:
    block = module.transformer.h[layer]
    return {
        "resid_pre": (block, "in"),
        "resid_post": (block, "out"),
        "attn_out": (block.attn, "out"),
        "z": (block.attn.c_proj, "in"),
        "q": (block.attn.c_attn, "out"),
        "k": (block.attn.c_attn, "out"),
        "v": (block.attn.c_attn, "out"),
        "neurons": (block.mlp.c_proj, "in"),
    }[site]


def _columns(site: str) -> slice:
    if site in ("q", "k", "v"):
        start = "qkv".index(site) * WIDTH
        return slice(start, start + WIDTH)
    return slice(None)


def view(site: str, value: Tensor) -> Tensor:
    """`[1, position, head, d_head]` of sites with heads, else `[1, position, width]`."""
    part = value[..., _columns(site)]
    return part.unflatten(-1, (HEADS, SIZE)) if site in ("q", "k", "v", "z") else part


@torch.no_grad()
def run(module: Any, ids: Any, changes: Mapping[tuple[str, int], Change] | None = None) -> Tensor:
    """Logits of the last position, with the activation at each (site, layer) replaced by what its function returns."""
    handles = []
    for (site, layer), change in (changes or {}).items():
        part, side = _place(module, site, layer)

        def changed(value: Tensor, site: str = site, change: Change = change) -> Tensor:
            value = value.clone()
            view(site, value).copy_(change(view(site, value).clone()))
            return value

        if side == "in":
            handles.append(
                part.register_forward_pre_hook(lambda _, args, changed=changed: (changed(args[0]), *args[1:]))
            )
        else:
            handles.append(
                part.register_forward_hook(
                    lambda _, args, out, changed=changed: (
                        (changed(out[0]), *out[1:]) if isinstance(out, tuple) else changed(out)
                    )
                )
            )
    try:
        logits: Tensor = module(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits


def read(module: Any, ids: Any, site: str, layer: int) -> Tensor:
    """The activation at a site, `[1, position, …]`."""
    seen: list[Tensor] = []

    def keep(live: Tensor) -> Tensor:
        seen.append(live.clone())
        return live

    run(module, ids, {(site, layer): keep})
    return seen[0]


def metric(logits: Tensor, pair: Any) -> float:
    """The logit difference."""
    return float(logits[list(pair.answer_ids)].mean() - logits[list(pair.foil_ids)].mean())


def patch(module: Any, pair: Any, new: Mapping[tuple[str, int], Tensor], chosen: tuple[Any, ...] = (EVERY,)) -> float:
    """The metric of the corrupted run with `new[site, layer][chosen]` put in at each (site, layer)."""

    def change(value: Tensor) -> Change:
        def mixed(live: Tensor) -> Tensor:
            live[chosen] = value[chosen]
            return live

        return mixed

    return metric(run(module, pair.corrupted_ids, {key: change(value) for key, value in new.items()}), pair)
