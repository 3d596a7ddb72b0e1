"""Runs the batches of one tile: patched activations in, one metric value a pair and cell out.

A batch that does not fit in memory is halved, again and again, until one patch of one pair fails too.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracing.errors import OutOfMemoryError
from tracing.metrics import Metric, Targets, require_numbers
from tracing.models import LanguageModel
from tracing.patching.baselines import Baselines, GroupRuns, to_numpy
from tracing.patching.hooked import run_hooked
from tracing.patching.plan import Chunk, Group, Plan, PlannedTile, cannot_matter
from tracing.patching.suffix import Layout, positionwise, read_logits, run_suffix
from tracing.prompts import TokenizedPair


def run_tile(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    baselines: Baselines,
    tile: PlannedTile,
    should_stop: Callable[[], bool],
) -> NDArray[Any] | None:
    """The metric of every pair, `[pair, 1, column]` (NaN where a pair has no such position); None where stopped."""
    examples = np.full((len(pairs), 1, tile.c1 - tile.c0), np.nan, baselines.clean.dtype)
    waiting = list(tile.chunks)
    while waiting:
        if should_stop():
            return None
        chunk = waiting.pop(0)
        values = _try(model, pairs, metric, plan, baselines, tile, chunk)
        if values is None:
            # Outside the except clause the failed batch's tensors are gone, so there is room for its halves.
            _free(model.device)
            waiting[:0] = _halves(chunk, plan, model)
            continue
        numbers = plan.groups[chunk.group].pairs[chunk.lo : chunk.hi]
        columns = [column - tile.c0 for column in chunk.columns]
        examples[np.ix_(numbers, [0], columns)] = values[:, None, :]
    _fill_known(examples, pairs, plan, baselines, tile)
    return examples


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
    tile: PlannedTile,
    chunk: Chunk,
) -> NDArray[Any] | None:
    """One batch's values `[pair, column]`, or None where memory ran out."""
    group = plan.groups[chunk.group]
    members = [pairs[number] for number in group.pairs[chunk.lo : chunk.hi]]
    runs = baselines.groups[chunk.group]
    try:
        with torch.inference_mode():
            run = _suffix_batch if plan.optimise.suffix else _hooked_batch
            final = run(model, plan, group, runs, tile, chunk)
            values = _measure(model, metric, plan, runs.targets, final, chunk)
            require_numbers(values, members, metric, f"{plan.sites[tile.panel]}, layer {tile.layer}")
            return to_numpy(values)
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        return None


def _suffix_batch(
    model: LanguageModel, plan: Plan, group: Group, runs: GroupRuns, tile: PlannedTile, chunk: Chunk
) -> Tensor:
    """Final residuals `[pair, column, d_model]` of a batch by the suffix engine."""
    batch = slice(chunk.lo, chunk.hi)
    starts = [plan.start(group, tile.boundary, column) for column in chunk.columns]
    layout = Layout.of(starts, group.length, model.dtype, model.device)
    hidden = runs.destination.boundary(tile.boundary)[batch][:, layout.positions].clone()
    columns = torch.tensor(chunk.columns, device=model.device)
    if plan.per_head:
        inside = layout.positions >= group.first
        heads = columns[layout.rows[inside]]
        hidden[:, inside] = _head_patches(model, runs, tile.layer, batch, heads, layout.positions[inside])
    else:
        positions = torch.tensor([plan.position(group, c) for c in chunk.columns], device=model.device)
        inside = layout.positions == positions[layout.rows]
        hidden[:, inside] = _position_patches(model, runs, tile, batch, layout.positions[inside])
    return run_suffix(
        model, tile.boundary, hidden, layout, runs.destination, batch, last_token=plan.optimise.last_token
    )


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
    z = runs.destination.sites["z"][layer][batch][:, positions]
    other = runs.source.sites["z"][layer][batch][:, positions]
    owner = torch.arange(z.shape[-1], device=z.device) // model.facts.d_head
    mixed = torch.where(heads[:, None] == owner[None, :], other, z)
    attn_out = model.blocks[layer].get_submodule(model.adapter.out_proj)(mixed)
    return positionwise(model, layer, runs.destination.boundary(layer)[batch][:, positions] + attn_out)


def _hooked_batch(
    model: LanguageModel, plan: Plan, group: Group, runs: GroupRuns, tile: PlannedTile, chunk: Chunk
) -> Tensor:
    """Final residuals `[pair, column, d_model]` of a batch by full forwards with a hook at the site."""
    batch, patches = slice(chunk.lo, chunk.hi), len(chunk.columns)
    site = plan.sites[tile.panel]
    ids = runs.destination_ids[batch].repeat_interleave(patches, 0)
    source = runs.source.sites[site][tile.layer][batch].repeat_interleave(patches, 0)
    if plan.per_head:
        index = torch.tensor(chunk.columns, device=model.device).repeat(chunk.hi - chunk.lo)
        final = run_hooked(model, ids, site, tile.layer, source, heads=index)
    else:
        where = [plan.position(group, column) for column in chunk.columns]
        index = torch.tensor(where, device=model.device).repeat(chunk.hi - chunk.lo)
        final = run_hooked(model, ids, site, tile.layer, source, positions=index)
    return final.reshape(chunk.hi - chunk.lo, patches, -1)


def _measure(model: LanguageModel, metric: Metric, plan: Plan, targets: Targets, final: Tensor, chunk: Chunk) -> Tensor:
    """The metric of final residuals `[pair, column, d_model]`, `[pair, column]`."""
    mine = targets.rows(chunk.lo, chunk.hi)
    columns = None
    plain = type(model.part(model.adapter.unembed)) is nn.Linear
    if plan.optimise.columns and metric.facts.targets_only and plain:
        columns = mine.columns()
        mine = mine.within(columns)
    logits = read_logits(model, final, columns)
    values = metric(logits.flatten(0, 1), mine.repeated(final.shape[1]))
    return values.reshape(final.shape[:2])


def _halves(chunk: Chunk, plan: Plan, model: LanguageModel) -> list[Chunk]:
    """A batch in two. Raises `OutOfMemoryError` for one patch of one pair."""
    if chunk.hi - chunk.lo > 1:
        middle = (chunk.lo + chunk.hi) // 2
        return [replace(chunk, hi=middle), replace(chunk, lo=middle)]
    if len(chunk.columns) > 1:
        middle = len(chunk.columns) // 2
        return [replace(chunk, columns=chunk.columns[:middle]), replace(chunk, columns=chunk.columns[middle:])]
    length = plan.groups[chunk.group].length
    size = model.facts.n_params * model.dtype.itemsize
    raise OutOfMemoryError(
        f"One patched prompt of {length} tokens does not fit in the memory of {model.device} beside the model "
        f"({size / 2**30:.2f} GiB of weights).",
        remedy="Use fewer or shorter prompts, a smaller precision, or a device with more memory.",
        where={"tokens": length, "weight_bytes": size, "device": str(model.device)},
    )


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
