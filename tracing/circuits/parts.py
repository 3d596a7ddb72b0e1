"""Where the edges of a model attach: the modules and weight slices that a source writes by and a reader reads by.

A reader's own copy of the residual stream reaches only that reader. For a head's q, k or v the projection runs once
more on the copy, with that head's columns of the weight alone; for an MLP the copy is what its norm is called with (or
the MLP, where it shares attention's norm or has none); for the logits, what the final norm is called with.
Sources: the token embedding, each head's write z·W_O without bias, each MLP's write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tracing.circuits.layout import LETTERS, refuse_without_edges
from tracing.engines.hooks import main_output
from tracing.errors import ModelError
from tracing.families.adapter import Adapter
from tracing.families.identities import output_weight
from tracing.families.sites import HeadSlice
from tracing.graph.heads import get_heads
from tracing.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Projection:
    """The linear map of one of q, k, v, and which of its output columns each head has, `[head, d_head]`."""

    module: nn.Module
    columns: Tensor

    def of_head(self, normed: Tensor, head: int) -> Tensor:
        """The projection of one head alone: `[…, d_model]` to `[…, d_head]`."""
        columns, module = self.columns[head], self.module
        if type(module) is nn.Linear:
            bias: Tensor | None = getattr(module, "bias", None)
            return nn.functional.linear(normed, module.weight[columns], None if bias is None else bias[columns])
        if type(module) is Conv1D:
            return normed @ module.weight[:, columns] + module.bias[columns]
        # Quantised or wrapped: its own forward (which no hook sees), of which the head's columns are kept.
        return main_output(module.forward(normed))[..., columns]


@dataclass(frozen=True)
class Block:
    """One block's parts. A norm that the family does not have is None."""

    module: nn.Module
    adapter: Adapter
    projections: dict[str, Projection]

    def part(self, path: str) -> nn.Module | None:
        """A module of the block; None for no path."""
        return self.module.get_submodule(path) if path else None

    @cached_property
    def norm_attn(self) -> nn.Module | None:
        """The norm of queries, keys and values."""
        return self.part(self.adapter.norm_attn)

    @cached_property
    def norm_mlp(self) -> nn.Module | None:
        """The MLP's own norm, whose input is the MLP's copy of the residual stream."""
        return self.part(self.adapter.norm_mlp)

    @cached_property
    def shared_norm(self) -> nn.Module | None:
        """The norm that MLP and attention share, where they do (parallel blocks without a second norm)."""
        parallel = self.adapter.residual == "parallel" and not self.adapter.norm_mlp
        return self.norm_attn if parallel else None

    @cached_property
    def mlp_entrance(self) -> nn.Module:
        """The module whose input is replaced for the MLP as a reader."""
        return self.norm_mlp or self.module.get_submodule(self.adapter.mlp)

    @cached_property
    def attn_exit(self) -> nn.Module:
        """Its output is what attention adds to the residual stream."""
        return self.module.get_submodule(self.adapter.attn_out_path)

    @cached_property
    def mlp_exit(self) -> nn.Module:
        """Its output is what the MLP adds to the residual stream."""
        return self.module.get_submodule(self.adapter.mlp_out_path)

    @cached_property
    def out_proj(self) -> nn.Module:
        """W_O."""
        return self.module.get_submodule(self.adapter.out_proj)

    @cached_property
    def post_norm(self) -> nn.Module | None:
        """The norm that the heads' sum passes before it is added (sandwich norms); None where there is none."""
        apart = self.adapter.attn_out not in ("", self.adapter.out_proj)
        return self.attn_exit if apart else None

    def adapter_path(self, letter: str) -> str:
        """Where q, k or v is projected, from the block; fused projections have one path."""
        where: HeadSlice = getattr(self.adapter, letter)
        return where.path

    def head_writes(self, z: Tensor) -> Tensor:
        """What heads write, before bias and post norm: `[…, head, d_head]` to `[…, head, d_model]`."""
        weight = output_weight(self.out_proj).reshape(*z.shape[-2:], -1)
        return torch.einsum("...hd,hdm->...hm", z, weight)


def blocks_of(model: LanguageModel) -> list[Block]:
    """Every block's parts.

    Raises `SiteError` for a family that has no edges, `ModelError` for weights unreadable and for a norm that two
    readers have in common.
    """
    adapter, facts = model.adapter, model.facts
    refuse_without_edges(adapter)
    found = []
    for module in model.block_modules:
        made: dict[str, Projection] = {}
        for letter in LETTERS:
            slices: HeadSlice = getattr(adapter, letter)
            projection = module.get_submodule(slices.path)
            columns = torch.arange(_width(projection), device=model.device)
            for step in slices.steps(facts.n_heads, facts.n_kv_heads, facts.d_head):
                columns = columns[step[1]] if step[0] == "index" else get_heads(columns, step)
            made[letter] = Projection(projection, columns)
        block = Block(module, adapter, made)
        _require_readable(block.out_proj, adapter.out_proj)
        found.append(block)
    _require_own_norms(found)
    return found


def _require_own_norms(blocks: Sequence[Block]) -> None:
    """Raises `ModelError` where one module object is the norm of two readers: a hook on it cannot tell them apart."""
    seen: set[int] = set()
    for layer, block in enumerate(blocks):
        for path in filter(None, (block.adapter.norm_attn, block.adapter.norm_mlp)):
            norm = id(block.module.get_submodule(path))
            if norm in seen:
                raise ModelError(
                    f"The norm {path} of layer {layer} is the very module that another part of the model calls, so "
                    "what one of them reads cannot be patched alone.",
                    remedy="Give each a copy of its own: copy.deepcopy(norm) computes the same.",
                    where={"layer": layer, "module": path},
                )
            seen.add(norm)


def _width(projection: nn.Module) -> int:
    if isinstance(projection, Conv1D):
        return int(projection.nf)
    width: Any = getattr(projection, "out_features", None)
    if width is None:
        raise _unreadable(projection, "query, key or value projection")
    return int(width)


def _require_readable(out_proj: nn.Module, path: str) -> None:
    weight = getattr(out_proj, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        raise _unreadable(out_proj, path)


def _unreadable(module: nn.Module, name: str) -> ModelError:
    return ModelError(
        f"The weight of {name} ({type(module).__name__}) cannot be read head by head.",
        remedy="Load the model without quantisation or adapters around its projections.",
    )
