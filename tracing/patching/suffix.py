"""The suffix engine: runs patched residual streams from a block to the end, only at positions that change.

Steps, for one batch of P pairs and R patches (rows), patch r changing positions s_r … T−1:
1. pack: the T − s_r tokens of every row lie side by side in one sequence of N = Σ(T − s_r) tokens, for each pair;
2. run blocks m … L−1 (the model's own modules) on `[P, N, d_model]`. A stand-in cache puts the keys and values of the
   unpatched run before those of the packed tokens; the mask lets token (r, t) see unpatched positions < s_r and the
   tokens (r, u) of its own row with u ≤ t. So each row attends to exactly what it would attend to in a full run;
3. rows that are patched at a later block join the batch there, so one walk serves several boundaries;
4. of the last block's output, only each row's last token is needed: only it goes through the MLP, the final norm and
   the unembedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracing.engines.hooks import main_output
from tracing.models import LanguageModel
from tracing.patching.capture import Activations


class PrefixCache:
    """Stands in for a transformers cache in one block: prefixes keys and values that need not be computed again."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self._keys, keys], 2), torch.cat([self._values, values], 2)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a batch are packed into one sequence of N tokens."""

    positions: Tensor
    """Token position of each packed token, `[N]`."""
    rows: Tensor
    """Row of each packed token, `[N]`."""
    last: Tensor
    """Where each row's last token lies, `[R]`."""
    prefix: int
    """How many unpatched positions stand before the packed tokens as keys."""
    mask: Tensor
    """Additive, `[1, 1, N, prefix + N]`: 0 where a token may look, −∞ elsewhere."""

    @classmethod
    def of(cls, starts: Sequence[int], length: int, dtype: torch.dtype, device: torch.device) -> "Layout":
        """Pack rows that start at `starts` of a prompt of `length` tokens."""
        sizes = torch.tensor([length - start for start in starts])
        first = torch.tensor(list(starts))
        ends = sizes.cumsum(0)
        rows = torch.repeat_interleave(torch.arange(len(starts)), sizes)
        positions = torch.arange(int(ends[-1])) - (ends - sizes)[rows] + first[rows]
        prefix = int(first.max())
        before = torch.arange(prefix)[None, :] < first[rows][:, None]
        own = (rows[:, None] == rows[None, :]) & (positions[None, :] <= positions[:, None])
        seen = torch.cat([before, own], 1)
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
        return cls(positions.to(device), rows.to(device), (ends - 1).to(device), prefix, mask[None, None].to(device))


def positionwise(model: LanguageModel, layer: int, mid: Tensor) -> Tensor:
    """The second half of a sequential block: resid_post from resid_mid, any positions, `[…, d_model]`."""
    block, adapter = model.block_modules[layer], model.adapter
    normed = block.get_submodule(adapter.norm_mlp)(mid)
    return mid + main_output(block.get_submodule(adapter.mlp)(normed))


def run_suffix(
    model: LanguageModel,
    entries: Sequence[tuple[int, Tensor]],
    layout: Layout,
    base: Activations,
    pairs: slice,
    *,
    last_token: bool,
) -> Tensor:
    """Residual stream `[entry, pair, row, d_model]` of each row's last token behind the last block.

    `entries` are boundaries in rising order, each with the patched stream `[pair, N, d_model]` at its entrance; `base`
    holds the unpatched run of the group, of which `pairs` selects the batch.
    """
    final = _walk(model, entries, layout, base, pairs, last_token)
    return final.reshape(len(entries), -1, *final.shape[1:])


def _walk(
    model: LanguageModel,
    entries: Sequence[tuple[int, Tensor]],
    layout: Layout,
    base: Activations,
    pairs: slice,
    last_token: bool,
) -> Tensor:
    waiting, blocks = dict(entries), model.block_modules
    first = entries[0][0]
    hidden, joined = waiting.pop(first), 1
    for layer in range(first, len(blocks)):
        if layer in waiting:
            hidden, joined = torch.cat([hidden, waiting.pop(layer)]), joined + 1
        arguments = _arguments(model, base, layer, layout, pairs, joined)
        if last_token and layer == len(blocks) - 1:
            mid = hidden + _attention(model, blocks[layer], hidden, arguments)
            return positionwise(model, layer, mid[:, layout.last])
        hidden = main_output(blocks[layer](hidden, **arguments))
    return hidden[:, layout.last]


def _arguments(
    model: LanguageModel, base: Activations, layer: int, layout: Layout, pairs: slice, joined: int
) -> dict[str, Any]:
    given = base.arguments[layer]
    positional = {name: _pick(given[name], layout.positions) for name in model.adapter.positional}
    keys, values = (kept[layer][pairs, :, : layout.prefix].repeat(joined, 1, 1, 1) for kept in (base.keys, base.values))
    return {**positional, "attention_mask": layout.mask, "past_key_values": PrefixCache(keys, values)}


def _pick(value: Any, positions: Tensor) -> Any:
    """The entries of a block's positional argument at `positions`; the batch axis holds one shared entry."""
    if isinstance(value, tuple):
        return tuple(_pick(part, positions) for part in value)
    return value[:1, positions]


def _attention(model: LanguageModel, block: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
    adapter = model.adapter
    normed = block.get_submodule(adapter.norm_attn)(hidden)
    return main_output(block.get_submodule(adapter.attn)(hidden_states=normed, **arguments))


def read_logits(model: LanguageModel, final: Tensor, columns: Sequence[int] | None = None) -> Tensor:
    """Logits of final residuals `[…, d_model]`, float32 or wider; with `columns`, only those of the vocabulary."""
    normed = model.part(model.adapter.final_norm)(final)
    unembed = model.part(model.adapter.unembed)
    if columns is None:
        return _wide(main_output(unembed(normed)))
    assert isinstance(unembed, nn.Linear)
    index = torch.tensor(list(columns), device=normed.device)
    bias = getattr(unembed, "bias", None)
    return _wide(nn.functional.linear(normed, unembed.weight[index], None if bias is None else bias[index]))


def _wide(logits: Tensor) -> Tensor:
    # Differences of bfloat16 logits would lose most of their digits once more in the metric.
    return logits if logits.dtype == torch.float64 else logits.float()
