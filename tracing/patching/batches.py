"""Runs the batches of a bundle of tiles: patched activations in, one metric value a pair and cell out.

A batch that does not fit in memory is halved, again and again, until one patch of one pair fails too. The rest of the
sweep then halves batches of that size before it tries them. How a batch is cut changes the rounding of its numbers, so
a resumed sweep gives the same bits only where memory sufficed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.errors import OutOfMemoryError
from tracing.metrics import Metric, require_numbers
from tracing.models import LanguageModel
from tracing.patching.baselines import Baselines, GroupRuns, to_numpy
from tracing.patching.hooked import run_hooked
from tracing.patching.memory import Room, free, is_out_of_memory
from tracing.patching.plan import Chunk, Group, Plan, PlannedTile, cannot_matter
from tracing.patching.readout import measure
from tracing.patching.suffix import Layout, positionwise, run_suffix
from tracing.prompts import TokenizedPair

Bundle = Sequence[PlannedTile]


def run_bundle(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    baselines: Baselines,
    bundle: Bundle,
    should_stop: Callable[[], bool],
    room: Room,
) -> list[NDArray[Any]] | None:
    """The metric of every pair for each tile, `[pair, 1, column]` (NaN: no such position); None where stopped.

    `room` is the sweep's: what one bundle learns of the memory, the next ones know.
    """
    found = [np.full((len(pairs), 1, tile.c1 - tile.c0), np.nan, baselines.clean.dtype) for tile in bundle]
    # Tiles of a bundle have equal batches; beyond that each entry is a range of tiles that still fits in memory.
    waiting = [(0, len(bundle), chunk) for chunk in bundle[0].chunks]
    while waiting:
        if should_stop():
            return None
        first, end, chunk = waiting.pop(0)
        size = _size(metric, plan, bundle[first:end], chunk)
        if size >= room.failed and (end - first) * (chunk.hi - chunk.lo) * len(chunk.columns) > 1:
            waiting[:0] = _halves(first, end, chunk, plan, model)
            continue
        values = _try(model, pairs, metric, plan, baselines, bundle[first:end], chunk)
        if values is None:
            # Outside the except clause the failed batch's tensors are gone, so there is room for its halves.
            free(model.device)
            room.failed = min(room.failed, size)
            waiting[:0] = _halves(first, end, chunk, plan, model)
            continue
        numbers = plan.groups[chunk.group].pairs[chunk.lo : chunk.hi]
        for examples, tile, own in zip(found[first:end], bundle[first:end], values, strict=True):
            examples[np.ix_(numbers, [0], [column - tile.c0 for column in chunk.columns])] = own[:, None, :]
    for examples, tile in zip(found, bundle, strict=True):
        _fill_known(examples, pairs, plan, baselines, tile)
    return found


def _fill_known(
    examples: NDArray[Any], pairs: Sequence[TokenizedPair], plan: Plan, baselines: Baselines, tile: PlannedTile
) -> None:
    """Write the destination's metric where a patch cannot change it, exactly."""
    if plan.per_head or not plan.optimise.known:
        return
    for number, pair in enumerate(pairs):
        shift = plan.n_columns - pair.length if plan.from_end else 0
        for column in range(tile.c0, tile.c1):
            position = column - shift
            if 0 <= position < pair.length and cannot_matter(
                plan.facts.n_layers, pair.differs, tile.kind, tile.boundary, position
            ):
                examples[number, 0, column - tile.c0] = baselines.destination[number]


def _try(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    baselines: Baselines,
    bundle: Bundle,
    chunk: Chunk,
) -> list[NDArray[Any]] | None:
    """One batch's values `[pair, column]` for each tile, or None where memory ran out."""
    group = plan.groups[chunk.group]
    members = [pairs[number] for number in group.pairs[chunk.lo : chunk.hi]]
    runs = baselines.groups[chunk.group]
    try:
        with torch.inference_mode():
            if plan.optimise.suffix:
                finals = _suffix_batch(model, plan, group, runs, bundle, chunk)
            else:
                finals = torch.stack([_hooked_batch(model, plan, group, runs, tile, chunk) for tile in bundle])
            targets, clean = runs.targets.rows(chunk.lo, chunk.hi), runs.clean[chunk.lo : chunk.hi]
            narrow = plan.optimise.columns
            found = [measure(model, metric, targets, clean, final, narrow=narrow) for final in finals]
            for values, tile in zip(found, bundle, strict=True):
                require_numbers(values, members, metric, f"{plan.sites[tile.panel]}, layer {tile.layer}")
            return [to_numpy(values) for values in found]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _suffix_batch(
    model: LanguageModel, plan: Plan, group: Group, runs: GroupRuns, bundle: Bundle, chunk: Chunk
) -> Tensor:
    """Final residuals `[tile, pair, column, d_model]` of a batch by the suffix engine."""
    batch = slice(chunk.lo, chunk.hi)
    starts = [plan.start(group, bundle[0].boundary, column) for column in chunk.columns]
    layout = Layout.of(starts, group.length, model.dtype, model.device)
    if plan.per_head:
        inside = layout.positions >= group.first
        patched = torch.tensor(chunk.columns, device=model.device)[layout.rows[inside]]
    else:
        patched = torch.tensor([plan.position(group, c) for c in chunk.columns], device=model.device)
        inside = layout.positions == patched[layout.rows]
    entries = []
    for tile in bundle:
        hidden = runs.destination.boundary(tile.boundary)[batch][:, layout.positions]
        if plan.per_head:
            hidden[:, inside] = _head_patches(model, runs, tile.layer, batch, patched, layout.positions[inside])
        else:
            hidden[:, inside] = _position_patches(model, runs, tile, batch, layout.positions[inside])
        entries.append((tile.boundary, hidden))
    return run_suffix(model, entries, layout, runs.destination, batch, last_token=plan.optimise.last_token)


def _position_patches(
    model: LanguageModel, runs: GroupRuns, tile: PlannedTile, batch: slice, positions: Tensor
) -> Tensor:
    """What enters the tile's boundary at patched positions, `[pair, patch, d_model]`."""
    layer, source, destination = tile.boundary - 1, runs.source, runs.destination
    if tile.kind == "resid":
        return source.boundary(tile.boundary)[batch][:, positions]
    if tile.kind == "mlp":
        return (destination.sites["resid_mid"][layer][batch] + source.sites["mlp_out"][layer][batch])[:, positions]
    mid = destination.boundary(layer)[batch][:, positions] + source.sites["attn_out"][layer][batch][:, positions]
    return positionwise(model, layer, mid)


def _head_patches(
    model: LanguageModel, runs: GroupRuns, layer: int, batch: slice, heads: Tensor, positions: Tensor
) -> Tensor:
    """resid_post of a layer where token n has the source's z in head `heads[n]`, `[pair, token, d_model]`."""
    z = runs.destination.sites["z"][layer][batch][:, positions].flatten(2)
    other = runs.source.sites["z"][layer][batch][:, positions].flatten(2)
    owner = torch.arange(z.shape[-1], device=z.device) // model.facts.d_head
    mixed = torch.where(heads[:, None] == owner[None, :], other, z)
    attn_out = model.block_modules[layer].get_submodule(model.adapter.out_proj)(mixed)
    return positionwise(model, layer, runs.destination.boundary(layer)[batch][:, positions] + attn_out)


def _hooked_batch(
    model: LanguageModel, plan: Plan, group: Group, runs: GroupRuns, tile: PlannedTile, chunk: Chunk
) -> Tensor:
    """Final residuals `[pair, column, d_model]` of a batch by full forwards with a hook at the site."""
    batch, patches = slice(chunk.lo, chunk.hi), len(chunk.columns)
    site = plan.sites[tile.panel]
    ids = runs.destination_ids[batch].repeat_interleave(patches, 0)
    source = runs.source.sites[site][tile.layer][batch].repeat_interleave(patches, 0)
    source = source.flatten(2)  # z has its heads apart
    if plan.per_head:
        index = torch.tensor(chunk.columns, device=model.device).repeat(chunk.hi - chunk.lo)
        final = run_hooked(model, ids, site, tile.layer, source, heads=index)
    else:
        where = [plan.position(group, column) for column in chunk.columns]
        index = torch.tensor(where, device=model.device).repeat(chunk.hi - chunk.lo)
        final = run_hooked(model, ids, site, tile.layer, source, positions=index)
    return final.reshape(chunk.hi - chunk.lo, patches, -1)


def _size(metric: Metric, plan: Plan, bundle: Bundle, chunk: Chunk) -> float:
    """About how many numbers a batch has in memory at once: compares batches, promises nothing."""
    facts, group = plan.facts, plan.groups[chunk.group]
    pairs, patches = chunk.hi - chunk.lo, len(chunk.columns)
    starts = [plan.start(group, bundle[0].boundary, column) if plan.optimise.suffix else 0 for column in chunk.columns]
    tokens = sum(group.length - start for start in starts)
    scores = facts.n_heads * tokens * (tokens if plan.optimise.suffix else group.length)
    logits = 0 if metric.facts.targets_only and plan.optimise.columns else patches * facts.vocab_size
    return float(len(bundle) * pairs * (tokens * (4 * facts.d_model + 2 * facts.d_mlp) + scores) + pairs * logits)


def _halves(first: int, end: int, chunk: Chunk, plan: Plan, model: LanguageModel) -> list[tuple[int, int, Chunk]]:
    """A batch in two: by tiles, by pairs, then by columns. Raises `OutOfMemoryError` for one patch of one pair."""
    if end - first > 1:
        middle = (first + end) // 2
        return [(first, middle, chunk), (middle, end, chunk)]
    if chunk.hi - chunk.lo > 1:
        middle = (chunk.lo + chunk.hi) // 2
        return [(first, end, replace(chunk, hi=middle)), (first, end, replace(chunk, lo=middle))]
    if len(chunk.columns) > 1:
        middle = len(chunk.columns) // 2
        halves = chunk.columns[:middle], chunk.columns[middle:]
        return [(first, end, replace(chunk, columns=half)) for half in halves]
    length = plan.groups[chunk.group].length
    size = model.facts.n_params * model.dtype.itemsize
    raise OutOfMemoryError(
        f"One patched prompt of {length} tokens does not fit in the memory of {model.device} beside the model "
        f"({size / 2**30:.2f} GiB of weights).",
        remedy="Use fewer or shorter prompts, a smaller precision, or a device with more memory.",
        where={"tokens": length, "weight_bytes": size, "device": str(model.device)},
    )
