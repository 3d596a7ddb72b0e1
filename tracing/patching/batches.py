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
from tracing.patching.plan import Chunk, Plan, PlannedTile, cannot_matter
from tracing.patching.readout import measure
from tracing.patching.rows import Rows, run_rows
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
    """The metric of every pair for each tile, `[pair, *tile.shape]` (NaN: no such cell); None where stopped.

    `room` is the sweep's: what one bundle learns of the memory, the next ones know.
    """
    found = [np.full((len(pairs), tile.end - tile.first), np.nan, baselines.clean.dtype) for tile in bundle]
    # Tiles of a bundle have equal batches; beyond that each entry is a range of tiles that still fits in memory.
    waiting = [(0, len(bundle), chunk) for chunk in bundle[0].chunks]
    while waiting:
        if should_stop():
            return None
        first, end, chunk = waiting.pop(0)
        size = _size(metric, plan, bundle[first:end], chunk)
        if size >= room.failed and (end - first) * (chunk.hi - chunk.lo) * len(chunk.slots) > 1:
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
            examples[np.ix_(numbers, [slot - tile.first for slot in chunk.slots])] = own
    for examples, tile in zip(found, bundle, strict=True):
        _fill_known(examples, pairs, plan, baselines, tile)
    return [examples.reshape(len(pairs), *tile.shape) for examples, tile in zip(found, bundle, strict=True)]


def _fill_known(
    examples: NDArray[Any], pairs: Sequence[TokenizedPair], plan: Plan, baselines: Baselines, tile: PlannedTile
) -> None:
    """Write the destination's metric where a patch cannot change it, exactly."""
    if not plan.optimise.known:
        return
    by_place: dict[int | None, list[int]] = {}
    for slot in range(tile.first, tile.end):
        by_place.setdefault(plan.slots[tile.site][slot].place, []).append(slot - tile.first)
    for group in plan.groups:
        for place, columns in by_place.items():
            positions = plan.positions(group, place)
            for number in group.pairs if positions else ():
                if cannot_matter(
                    plan.facts.n_layers, pairs[number].differs, group.answer_position, tile.site, tile.layers,
                    positions, causal=plan.causal, interchange=plan.source == "interchange",
                ):  # fmt: skip
                    examples[number, columns] = baselines.destination[number]


def _try(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    baselines: Baselines,
    bundle: Bundle,
    chunk: Chunk,
) -> list[NDArray[Any]] | None:
    """One batch's values `[pair, slot]` for each tile, or None where memory ran out."""
    group = plan.groups[chunk.group]
    members = [pairs[number] for number in group.pairs[chunk.lo : chunk.hi]]
    runs = baselines.groups[chunk.group]
    try:
        with torch.inference_mode():
            finals = _finals(model, plan, runs, bundle, chunk)
            targets, clean = runs.targets.rows(chunk.lo, chunk.hi), runs.clean[chunk.lo : chunk.hi]
            narrow = plan.optimise.columns
            found = [measure(model, metric, targets, clean, final, narrow=narrow) for final in finals]
            for values, tile in zip(found, bundle, strict=True):
                layers = ", ".join(map(str, tile.layers))
                require_numbers(values, members, metric, f"{tile.site}, layer {layers}")
            return [to_numpy(values) for values in found]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _finals(model: LanguageModel, plan: Plan, runs: GroupRuns, bundle: Bundle, chunk: Chunk) -> Tensor:
    """Final residuals of a batch, `[tile, pair, slot, d_model]`."""
    batch, answer = slice(chunk.lo, chunk.hi), plan.groups[chunk.group].answer
    entries = [_rows(plan, tile, chunk) for tile in bundle]
    if plan.walk == "hooks":
        return run_hooked(model, runs.inputs, runs.source, entries, batch, answer=answer)
    singles = [one for rows in entries for one in rows]
    return run_rows(model, runs.destination, runs.source, singles, batch, plan.optimise)


def _rows(plan: Plan, tile: PlannedTile, chunk: Chunk) -> list[Rows]:
    """What a tile's cells patch, for each of its layers."""
    group = plan.groups[chunk.group]
    slots = [plan.slots[tile.site][slot] for slot in chunk.slots]
    positions = torch.zeros(len(slots), group.length, dtype=torch.bool)
    for row, slot in enumerate(slots):
        positions[row, list(plan.patched(group, slot.place))] = True
    units = None if slots[0].unit is None else torch.tensor([slot.unit for slot in slots])
    return [Rows(tile.site, layer, positions, units) for layer in tile.layers]


def _size(metric: Metric, plan: Plan, bundle: Bundle, chunk: Chunk) -> float:
    """About how many numbers a batch has in memory at once: compares batches, promises nothing."""
    facts, group = plan.facts, plan.groups[chunk.group]
    pairs, patches = chunk.hi - chunk.lo, len(chunk.slots)
    tile = bundle[0]
    places = [plan.slots[tile.site][slot].place for slot in chunk.slots]
    tokens = sum(group.length - plan.start(group, tile.site, tile.layers, place) for place in places)
    scores = facts.n_heads * tokens * group.length
    logits = 0 if metric.facts.targets_only and plan.optimise.columns else patches * facts.vocab_size
    return float(len(bundle) * pairs * (tokens * (4 * facts.d_model + 2 * facts.d_mlp) + scores) + pairs * logits)


def _halves(first: int, end: int, chunk: Chunk, plan: Plan, model: LanguageModel) -> list[tuple[int, int, Chunk]]:
    """A batch in two: by tiles, by pairs, then by cells. Raises `OutOfMemoryError` for one patch of one pair."""
    if end - first > 1:
        middle = (first + end) // 2
        return [(first, middle, chunk), (middle, end, chunk)]
    if chunk.hi - chunk.lo > 1:
        middle = (chunk.lo + chunk.hi) // 2
        return [(first, end, replace(chunk, hi=middle)), (first, end, replace(chunk, lo=middle))]
    if len(chunk.slots) > 1:
        middle = len(chunk.slots) // 2
        halves = chunk.slots[:middle], chunk.slots[middle:]
        return [(first, end, replace(chunk, slots=half)) for half in halves]
    length = plan.groups[chunk.group].length
    size = model.facts.n_params * model.dtype.itemsize
    raise OutOfMemoryError(
        f"One patched prompt of {length} tokens does not fit in the memory of {model.device} beside the model "
        f"({size / 2**30:.2f} GiB of weights).",
        remedy="Use fewer or shorter prompts, a smaller precision, or a device with more memory.",
        where={"tokens": length, "weight_bytes": size, "device": str(model.device)},
    )
