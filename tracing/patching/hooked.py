"""The plain engine: one full forward of the whole model a patch, with a hook at the site.

This is the definition of a patch that the suffix engine must agree with; it is what a sweep without `suffix` runs.
"""

from typing import Any

import torch
from torch import Tensor

from tracing.engines.hooks import Hooks, first_argument, hooks, main_output, with_first_argument, with_main_output
from tracing.models import LanguageModel


def run_hooked(
    model: LanguageModel,
    ids: Tensor,
    site: str,
    layer: int,
    source: Tensor,
    *,
    positions: Tensor | None = None,
    heads: Tensor | None = None,
) -> Tensor:
    """Final hidden states behind the last block, before the final norm, at the last position, `[row, d_model]`.

    `ids` `[row, position]` are the destination's tokens, `source` `[row, position, width]` the source's activation
    at the site. Row n is patched at `positions[n]`, or, where `heads` is given, in head `heads[n]` at every position.
    """
    rows = torch.arange(len(ids), device=ids.device)

    def patched(live: Tensor) -> Tensor:
        if positions is not None:
            live = live.clone()
            live[rows, positions] = source[rows, positions]
            return live
        assert heads is not None
        split = (*live.shape[:2], -1, model.facts.d_head)
        mine = heads[:, None] == torch.arange(model.facts.n_heads, device=ids.device)[None, :]
        return torch.where(mine[:, None, :, None], source.reshape(split), live.reshape(split)).flatten(2)

    final: list[Tensor] = []
    with hooks() as registered:
        _patch(registered, model, site, layer, patched)
        registered.after(model.block_modules[-1], lambda output: final.append(main_output(output)[:, -1]))
        model.part(model.adapter.backbone)(input_ids=ids, use_cache=False)
    return final[0]


def _patch(registered: Hooks, model: LanguageModel, site: str, layer: int, patched: Any) -> None:
    adapter, block = model.adapter, model.block_modules[layer]

    def at_input(args: Any, kwargs: Any) -> Any:
        return with_first_argument(args, kwargs, patched(first_argument(args, kwargs)))

    def at_output(output: Any) -> Any:
        return with_main_output(output, patched(main_output(output)))

    def in_place(args: Any, kwargs: Any) -> None:
        # The block adds the MLP to this very tensor, so it must be changed itself, not replaced for the norm alone.
        hidden = first_argument(args, kwargs)
        hidden.copy_(patched(hidden))

    if site == "resid_pre":
        registered.before(block, at_input)
    elif site == "resid_mid":
        registered.before(block.get_submodule(adapter.norm_mlp), in_place)
    elif site == "z":
        registered.before(block.get_submodule(adapter.out_proj), at_input)
    else:
        path = {"resid_post": "", "attn_out": adapter.attn, "mlp_out": adapter.mlp}[site]
        registered.after(block.get_submodule(path), at_output)
