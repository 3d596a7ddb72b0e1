"""What a patch is, written the plain way: one hooked forward of the transformers model a cell and pair.

Independent of `tracing`: module paths are spelled out here, nothing is batched, cached or skipped.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracing.prompts import TokenizedPair

Read = Callable[[Tensor, TokenizedPair], Tensor]
POSITION_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@dataclass(frozen=True)
class Paths:
    """Where one architecture keeps its parts, relative to a block."""

    blocks: str
    attention: str
    out: str
    mlp: str


PATHS = {
    "gpt2": Paths("transformer.h", "attn", "attn.c_proj", "mlp"),
    "llama": Paths("model.layers", "self_attn", "self_attn.o_proj", "mlp"),
}


def logit_diff(logits: Tensor, pair: TokenizedPair) -> Tensor:
    return logits[list(pair.answer_ids)].mean() - logits[list(pair.foil_ids)].mean()


def cells(
    network: Any,
    pair: TokenizedPair,
    site: str,
    *,
    direction: str = "denoising",
    heads: int | None = None,
    read: Read = logit_diff,
) -> Tensor:
    """The metric of every cell of one pair: `[layer, position]`, or `[layer, head]` where `heads` says how many."""
    paths = PATHS[network.config.model_type]
    blocks = list(network.get_submodule(paths.blocks))
    source, destination = pair.clean_ids, pair.corrupted_ids
    if direction == "noising":
        source, destination = destination, source
    columns = pair.length if heads is None else heads
    values = torch.zeros(len(blocks), columns, dtype=next(network.parameters()).dtype)
    for layer, block in enumerate(blocks):
        replacement = _activation(network, block, paths, site, source)
        for column in range(columns):
            chosen = (slice(None), column) if heads is None else _head(column, heads, replacement.shape[-1])
            with _patched(block, paths, site, replacement, chosen):
                values[layer, column] = read(_logits(network, destination), pair)
    return values


def metric(network: Any, ids: tuple[int, ...], pair: TokenizedPair, read: Read = logit_diff) -> Tensor:
    """The metric of an unpatched run."""
    return read(_logits(network, ids), pair)


def _head(head: int, heads: int, width: int) -> tuple[Any, ...]:
    size = width // heads
    return (slice(None), slice(None), slice(head * size, (head + 1) * size))


@torch.no_grad()
def _logits(network: Any, ids: tuple[int, ...]) -> Tensor:
    logits: Tensor = network(torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _activation(network: Any, block: Any, paths: Paths, site: str, ids: tuple[int, ...]) -> Tensor:
    """The source run's activation at a site of one block."""
    seen: dict[str, Tensor] = {}
    handles = [
        block.register_forward_pre_hook(lambda _, args: seen.update(resid_pre=args[0])),
        block.register_forward_hook(lambda _, args, out: seen.update(resid_post=_tensor(out))),
        block.get_submodule(paths.attention).register_forward_hook(
            lambda _, args, out: seen.update(attn_out=_tensor(out))
        ),
        block.get_submodule(paths.mlp).register_forward_hook(lambda _, args, out: seen.update(mlp_out=_tensor(out))),
        block.get_submodule(paths.out).register_forward_pre_hook(lambda _, args: seen.update(z=args[0])),
    ]
    _logits(network, ids)
    for handle in handles:
        handle.remove()
    seen["resid_mid"] = seen["resid_pre"] + seen["attn_out"]
    return seen[site].clone()


@contextmanager
def _patched(block: Any, paths: Paths, site: str, source: Tensor, chosen: tuple[Any, ...]) -> Iterator[None]:
    """A hook that puts `source[chosen]` at the site."""
    before: dict[str, Tensor] = {}

    def mixed(live: Tensor) -> Tensor:
        live = live.clone()
        live[chosen] = source[chosen]
        return live

    def replace_input(_: Any, args: Any) -> Any:
        return (mixed(args[0]), *args[1:])

    def replace_output(_: Any, args: Any, out: Any) -> Any:
        return (mixed(out[0]), *out[1:]) if isinstance(out, tuple) else mixed(out)

    def replace_middle(_: Any, args: Any, out: Any) -> Any:
        # resid_mid = resid_pre + attn_out: give attention the output that makes the sum what it has to be.
        return (mixed(before["resid_pre"] + out[0]) - before["resid_pre"], *out[1:])

    attention = block.get_submodule(paths.attention)
    if site == "resid_pre":
        handles = [block.register_forward_pre_hook(replace_input)]
    elif site == "resid_post":
        handles = [block.register_forward_hook(replace_output)]
    elif site == "resid_mid":
        handles = [
            block.register_forward_pre_hook(lambda _, args: before.update(resid_pre=args[0])),
            attention.register_forward_hook(replace_middle),
        ]
    elif site == "attn_out":
        handles = [attention.register_forward_hook(replace_output)]
    elif site == "mlp_out":
        handles = [block.get_submodule(paths.mlp).register_forward_hook(replace_output)]
    else:
        handles = [block.get_submodule(paths.out).register_forward_pre_hook(replace_input)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
