"""One walk through the blocks for rows that enter at several layers.

Packed walk (causal attention that takes a cache and a mask), for P pairs:
1. the tokens of the rows lie in B bins of C places (`tracing.patching.layout`); E entries of P pairs make a batch
   `[E · P · B, C, d_model]`, which grows where an entry joins;
2. the model's own blocks run on it. A stand-in cache puts the keys and values of the unpatched run before those of a
   bin; the mask lets place (row r, position t) see what position t sees in the model's own mask (sliding windows and
   ALiBi included): unpatched positions before the row's start, and the row's own tokens;
3. of the last block, whole attention runs, and everything behind it only on each row's answer token.
Whole rows (bidirectional or recurrent blocks, attention that ignores masks): the same with each row a bin of its own
and the block's own arguments repeated over rows.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tracing.engines.hooks import Hooks, first_argument, hooks, main_output
from tracing.models import LanguageModel
from tracing.patching import halves
from tracing.patching.capture import Activations, cache_name
from tracing.patching.inside import Inside, override
from tracing.patching.layout import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Entrance:
    """Where an entry joins: a block, what makes its stream `[pair, B · C, d_model]` there, what it replaces inside."""

    boundary: int
    stream: Callable[[], Tensor]
    inside: Inside | None = None


class _Answered(Exception):
    """No error: it ends a block's forward where nothing more of it is needed."""


class PrefixCache:
    """Stands in for a transformers cache in one block: prefixes keys and values that need not be computed again."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self._keys, keys], 2), torch.cat([self._values, values], 2)


@dataclass
class Walk:
    """The arguments of every block for the batches of a walk, of which `n` sequences are in use at a time."""

    model: LanguageModel
    base: Activations
    layout: Layout
    pairs: slice
    entries: int
    """How many entries the walk has at its end."""
    packed: bool
    _made: dict[tuple[str, int], Any] = field(default_factory=dict)

    def arguments(self, layer: int, block: nn.Module, n: int) -> dict[str, Any]:
        """What a block is called with besides `n` sequences."""
        given = self.base.arguments[layer]
        if not self.packed:
            return {name: self._once("rows", value, self._repeated, n) for name, value in given.items()}
        adapter = self.model.adapter
        made = dict(given)
        for name in (*adapter.positional, "position_ids"):
            if given.get(name) is not None:
                made[name] = self._once("positions", given[name], self._at_positions, n)
        if adapter.key_bias and given.get(adapter.key_bias) is not None:
            made[adapter.key_bias] = self._once("keys", given[adapter.key_bias], self._at_keys, n)
        made["attention_mask"] = self._once("mask", given.get("attention_mask"), self._mask, n)
        made[cache_name(block)] = self._cache(layer, n)
        return made

    def _once(self, kind: str, value: Any, make: Any, n: int) -> Any:
        """`make(value)`, made once for each distinct argument, as far as `n` sequences need it."""
        key = kind, id(value)
        if key not in self._made:
            self._made[key] = make(value)
        return _first(self._made[key], n, self.entries * self.sequences)

    @property
    def sequences(self) -> int:
        """Sequences of one entry."""
        return len(self.base.final[self.pairs]) * self.layout.bins

    @cached_property
    def positions(self) -> Tensor:
        """The position of each place, `[B · C]`."""
        return self.layout.positions.to(self.base.final.device)

    @cached_property
    def keys(self) -> Tensor:
        """The position of each key, `[B, prefix + C]`."""
        prefix = torch.arange(self.layout.prefix, device=self.base.final.device).expand(self.layout.bins, -1)
        return torch.cat([prefix, torch.unflatten(self.positions, 0, (self.layout.bins, -1))], 1)

    def at_answers(self, hidden: Tensor) -> Tensor:
        """`[E · P · B, C, …]` at each row's answer token, `[E, P, R, …]`."""
        mine = torch.unflatten(hidden, 0, (self.entries, -1, self.layout.bins)).flatten(2, 3)
        return mine[:, :, self.layout.answers.to(hidden.device)]

    # -- packed ---------------------------------------------------------------------------------------------------
    def _over_batch(self, value: Tensor) -> Tensor:
        """`[B, …]` as `[E · P · B, …]`; where there is one bin, one entry serves all."""
        if self.layout.bins == 1:
            return value
        return value.repeat(self.entries * self.sequences // self.layout.bins, *(1,) * (value.dim() - 1))

    def _at_positions(self, value: Any) -> Any:
        """`[1, position, …]` at the packed positions."""
        if isinstance(value, tuple):
            return tuple(self._at_positions(part) for part in value)
        picked = value[0][self.positions]
        return self._over_batch(torch.unflatten(picked, 0, (self.layout.bins, -1)))

    def _at_keys(self, value: Tensor) -> Tensor:
        """A bias for each key `[batch · head, 1, key]` or `[batch, head, 1, key]` at the keys of each bin."""
        heads = self.model.facts.n_heads
        one = value.reshape(-1, heads, 1, value.shape[-1])[0]  # [head, 1, key], equal for all prompts of one length
        made = one[:, :, self.keys].permute(2, 0, 1, 3)  # [B, head, 1, prefix + C]
        made = made.repeat(self.entries * self.sequences // self.layout.bins, 1, 1, 1)
        return made if value.dim() == 4 else made.flatten(0, 1)

    def _mask(self, value: Tensor | None) -> Tensor:
        """The block's own mask between packed places, −∞ where a key belongs to another row."""
        seen = self.layout.seen.to(self.base.final.device)[:, None]
        if value is None:  # plain causal attention
            made = torch.zeros(seen.shape, dtype=self.base.keys[0].dtype, device=self.base.final.device)
        else:
            queries = torch.unflatten(self.positions, 0, (self.layout.bins, -1))
            made = value[0][:, queries[:, :, None], self.keys[:, None, :]].transpose(0, 1)
            if made.dtype == torch.bool:
                seen, made = seen & made, torch.zeros_like(made, dtype=self.base.keys[0].dtype)
        return self._over_batch(made.masked_fill(~seen, -torch.inf))

    def _cache(self, layer: int, n: int) -> PrefixCache:
        # [P, head, prefix, d] to [E · P · B, …]
        joined = n // self.sequences
        keys, values = (
            kept[layer][self.pairs, :, : self.layout.prefix]
            .repeat_interleave(self.layout.bins, 0)
            .repeat(joined, 1, 1, 1)
            for kept in (self.base.keys, self.base.values)
        )
        return PrefixCache(keys, values)

    # -- whole rows -----------------------------------------------------------------------------------------------
    def _repeated(self, value: Any) -> Any:
        """An argument with entries for pairs, over entries and rows; others as they are."""
        if isinstance(value, tuple):
            return tuple(self._repeated(part) for part in value)
        total = len(self.base.final)
        if not isinstance(value, Tensor) or value.dim() < 3 or (value.shape[0] > 1 and value.shape[0] % total):
            return value
        if value.shape[0] == 1:
            return value.expand(self.entries * self.sequences, *value.shape[1:])
        mine = torch.unflatten(value, 0, (total, -1))[self.pairs].repeat_interleave(self.layout.bins, 0)
        return mine.repeat(self.entries, *(1,) * (mine.dim() - 1)).flatten(0, 1)


def _first(value: Any, n: int, full: int) -> Any:
    """The part of an argument that `n` of the `full` sequences of a walk use."""
    if isinstance(value, tuple):
        return tuple(_first(part, n, full) for part in value)
    if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] % full:
        return value
    return value[: value.shape[0] // full * n]


def walk(
    model: LanguageModel,
    base: Activations,
    pairs: slice,
    layout: Layout,
    entrances: Sequence[Entrance],
    *,
    packed: bool,
    last_token: bool,
) -> Tensor:
    """The residual behind the last block at each row's answer, `[entrance, pair, row, d_model]`.

    `entrances` come in rising order of their boundaries.
    """
    state = Walk(model, base, layout, pairs, len(entrances), packed)
    blocks, joined = model.block_modules, 0
    hidden = torch.empty(0)
    for layer in range(entrances[0].boundary, len(blocks)):
        new = [one for one in entrances[joined:] if one.boundary == layer]
        if new:
            streams = [torch.unflatten(one.stream(), 1, (layout.bins, -1)).flatten(0, 1) for one in new]
            hidden = torch.cat([hidden, *streams] if joined else streams)
        arguments = state.arguments(layer, blocks[layer], len(hidden))
        with hooks() as registered:
            for number, one in enumerate(new, joined):
                if one.inside is not None:
                    first = number * state.sequences
                    override(registered, model, layer, one.inside, slice(first, first + state.sequences))
            if last_token and layer == len(blocks) - 1 and "z" in model.adapter.sites:
                return _answers(registered, model, layer, hidden, arguments, state)
            hidden = main_output(blocks[layer](hidden, **arguments))
        joined += len(new)
    return state.at_answers(hidden)


def _answers(
    registered: Hooks, model: LanguageModel, layer: int, hidden: Tensor, arguments: Mapping[str, Any], state: Walk
) -> Tensor:
    """The last block: attention as a whole, what comes behind z only for each row's answer token."""
    seen: list[Tensor] = []

    def stop(args: Any, kwargs: Any) -> None:
        if not seen:  # the same module is called again below, on the answer tokens
            seen.append(first_argument(args, kwargs))
            raise _Answered

    block = model.block_modules[layer]
    registered.before(block.get_submodule(model.adapter.out_proj), stop)
    with suppress(_Answered):
        block(hidden, **arguments)
    z, pre = state.at_answers(seen[0]).flatten(0, 1), state.at_answers(hidden).flatten(0, 1)
    final = halves.after_attention(model, layer, pre, halves.attn_out(model, layer, z))
    return torch.unflatten(final, 0, (state.entries, -1))
