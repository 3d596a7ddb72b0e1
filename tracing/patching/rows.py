"""Patched rows in, final residuals out: the fast engine behind every sweep.

A row is one patched run of one prompt pair: the destination's run with the source's activation at one site of one
layer, at some positions, of one head (or neuron) or all. `run_rows` computes only what a row changes; a full forward
with a hook at the site (`tracing.patching.hooked`) is the definition that it must equal.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from tracing.models import LanguageModel
from tracing.patching.boundary import Patched, Stream
from tracing.patching.capture import Activations
from tracing.patching.flops import BlockFlops
from tracing.patching.inside import Inside
from tracing.patching.layout import Layout, packed, whole
from tracing.patching.plan import Optimise
from tracing.patching.walk import Entrance, walk

Source = Mapping[str, Sequence[Tensor]]
"""What is patched in: `source[site][layer]`, each with an entry for every pair of the group.

Residual sites, attn_out and mlp_out `[pair, position, d_model]`; q, z `[pair, position, head, d_head]`, k, v
`[pair, position, kv_head, d_head]` (before rotation, as `model.sites`); head_out `[pair, position, head, d_model]`;
pattern `[pair, head, query, key]`; neurons `[pair, position, d_mlp]`.
"""


WIDEST: Final = 4096
"""A bin of packed tokens has at most as many places."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows that are patched at one site of one layer."""

    site: str
    layer: int
    positions: Tensor
    """Where each row is patched, bool `[row, position]`, on the CPU. For pattern: the patched queries."""
    units: Tensor | None = None
    """The head (of k and v: the key-value head) or neuron that each row patches, `[row]`, on the CPU; None: all."""


def walk_of(model: LanguageModel) -> str:
    """How this model's rows are run, "packed" or "rows": attention that ignores additive masks cannot be packed."""
    packs = model.adapter.walk == "packed" and model.attention in ("eager", "sdpa", "")
    return "packed" if packs else "rows"


def is_inside(model: LanguageModel, site: str) -> bool:
    """Whether a patch at the site needs its own block to run: q, k, v, and parts of blocks that are not taken apart."""
    return site in ("q", "k", "v") or ("z" not in model.adapter.sites and site not in ("resid_pre", "resid_post"))


def boundary_of(model: LanguageModel, entry: Rows) -> int:
    """The first block that has to run for an entry; the number of layers where none has."""
    return entry.layer + (0 if entry.site == "resid_pre" or is_inside(model, entry.site) else 1)


def run_rows(
    model: LanguageModel,
    base: Activations,
    source: Source,
    entries: Sequence[Rows],
    pairs: slice,
    options: Optimise,
) -> Tensor:
    """The residual stream behind the last block at the answer position, `[entry, pair, row, d_model]`.

    `base` is the destination's run of a group of pairs (`capture`, with what `footprint.kept_for` says the sites need),
    `source` what is patched in; `pairs` selects the pairs of this batch. Every entry has as many rows; entries whose
    rows start at the same positions share one walk, whatever their sites and layers.
    """
    length = base.boundary(0).shape[1]
    answer = base.answer % length
    finals: dict[int, Tensor] = {}
    walks: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    packs = walk_of(model) == "packed"
    for number, entry in enumerate(entries):
        if boundary_of(model, entry) == model.facts.n_layers:
            finals[number] = _behind_last(model, base, source, entry, pairs, answer)
        else:
            walks[_starts(entry, answer, options) if packs else ()].append(number)
    for starts, numbers in walks.items():
        numbers.sort(key=lambda number: boundary_of(model, entries[number]))
        if packs:
            cost = BlockFlops.of(model.facts)
            layout = packed(starts, answer, cost.token(0), cost.per_key, WIDEST)
        else:
            layout = whole(len(entries[numbers[0]].positions), length, answer)
        entrances = [_entrance(model, base, source, entries[number], pairs, layout) for number in numbers]
        found = walk(model, base, pairs, layout, entrances, packed=packs, last_token=options.last_token)
        finals.update(zip(numbers, found, strict=True))
    return torch.stack([finals[number] for number in range(len(entries))])


def _starts(entry: Rows, answer: int, options: Optimise) -> tuple[int, ...]:
    """The first position of each row that has to run: none before the first patched one, the answer's always."""
    if not options.causal:
        return (0,) * len(entry.positions)
    first = torch.where(entry.positions.any(1), entry.positions.int().argmax(1), answer)
    return tuple(first.clamp_max(answer).tolist())


def _entrance(
    model: LanguageModel, base: Activations, source: Source, entry: Rows, pairs: slice, layout: Layout
) -> Entrance:
    """Where an entry joins the walk, and with what."""
    boundary, device = boundary_of(model, entry), base.final.device
    places = layout.places(entry.positions)
    positions = layout.positions[places]
    units = None if entry.units is None else entry.units[layout.rows[places]]
    values = source[entry.site][entry.layer]
    if not is_inside(model, entry.site):
        patch = Patched.of(entry.site, entry.layer, positions, units, device)
        return Entrance(boundary, partial(_stream, model, base, pairs, boundary, layout, places, patch, values))
    given = values[pairs]
    chosen = given[:, positions.to(device)] if units is None else given[:, positions.to(device), units.to(device)]
    inside = Inside(entry.site, places.to(device), chosen, None if units is None else units.to(device))
    return Entrance(boundary, partial(_stream, model, base, pairs, boundary, layout), inside)


def _stream(
    model: LanguageModel,
    base: Activations,
    pairs: slice,
    boundary: int,
    layout: Layout,
    places: Tensor | None = None,
    patch: Patched | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """The residual stream of an entry's tokens at the boundary, `[pair, B · C, d_model]`, patched or not yet."""
    device = base.final.device
    hidden = base.boundary(boundary)[pairs][:, layout.positions.to(device)]
    if patch is not None and values is not None and places is not None:
        hidden[:, places.to(device)] = Stream(model, base, pairs).patched(patch, values).to(hidden.dtype)
    return hidden


def _behind_last(
    model: LanguageModel, base: Activations, source: Source, entry: Rows, pairs: slice, answer: int
) -> Tensor:
    """Patches behind the last block: only those of the answer token can be read, and no block runs."""
    device = base.final.device
    final = base.final[pairs][:, None].repeat(1, len(entry.positions), 1)
    rows = entry.positions[:, answer].nonzero()[:, 0]
    if len(rows):
        units = None if entry.units is None else entry.units[rows]
        patch = Patched.of(entry.site, entry.layer, torch.full_like(rows, answer), units, device)
        new = Stream(model, base, pairs).patched(patch, source[entry.site][entry.layer])
        final[:, rows.to(device)] = new.to(final.dtype)
    return final
