"""Activation-patching sweeps: every cell of layer × head × position × neuron × span × pair, exactly.

`sweep` gives whole grids, `prepare` + `tiles` the same piece by piece (what the experiment streams). Steps:
1. tokenise, plan (`tracing.patching.plan`), run clean and corrupted once a group of pairs, and make what is patched in
   (`tracing.patching.sources`);
2. a bundle of tiles: for each batch of its plan run the patched rows (`tracing.patching.rows`, or whole forwards with
   hooks where that short cut is off), read the metric of every pair and patch;
3. aggregate over pairs (`tracing.patching.axes`).
Sources: Zhang & Nanda 2023 (arXiv 2309.16042), Wang et al. 2022 (arXiv 2211.00593).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray

from tracing.errors import OutOfMemoryError, SpecError
from tracing.events import Panel, Tile
from tracing.metrics import Metric, get
from tracing.models import LanguageModel, VisionModel
from tracing.patching.axes import aggregate, panel, shown
from tracing.patching.baselines import Baselines, run_baselines
from tracing.patching.batches import run_bundle
from tracing.patching.budget import tokens_for
from tracing.patching.cells import cells_of
from tracing.patching.footprint import REMEDY, kept_bytes, too_large
from tracing.patching.inputs import ImagePair, Pairs, ready
from tracing.patching.memory import Room, device_bytes
from tracing.patching.packing import Region, make_plan
from tracing.patching.plan import Lengths, Optimise, Plan, PlannedTile
from tracing.patching.rows import walk_of
from tracing.patching.source_values import check_source
from tracing.patching.sources import Interchange, Mean, Source, as_source
from tracing.patching.spans import span_warnings
from tracing.prompts import TokenizedPair, require_usable
from tracing.results import Grid

__all__ = ["Grid", "ImagePair", "Pairs", "Sweep", "grids", "place", "prepare", "sweep", "tiles"]

Direction = Literal["denoising", "noising"]
Place = tuple[int, int, int, int, int]
Numbers = int | Sequence[int] | None
Names = str | Sequence[str] | None
AnyModel = LanguageModel | VisionModel
Over = str | Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A sweep ready to run: baselines known, no cell computed yet."""

    model: LanguageModel
    pairs: tuple[TokenizedPair, ...]
    metric: Metric
    direction: Direction
    plan: Plan
    baselines: Baselines
    panels: tuple[Panel, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the maps should know."""
        plan, columns = self.plan, self.panels[0].columns.ticks
        has = np.ones((len(self.pairs), 1), bool)
        labels = ["all"]
        if plan.axes.places and plan.axes.axes[-1] == plan.axes.places and not plan.axes.has("example"):
            labels = [tick.label for tick in columns]
            has = np.zeros((len(self.pairs), len(columns)), bool)
            for group in plan.groups:
                has[list(group.pairs)] = [bool(plan.positions(group, place)) for place in range(plan.places)]
        return span_warnings(
            self.metric.facts.name,
            labels,
            self.baselines.clean,
            self.baselines.corrupted,
            has,
            float(torch.finfo(self.model.dtype).eps),
        )


def place(tile: Tile | PlannedTile) -> Place:
    """The whole rectangle of a tile: (panel, first row, first column, rows, columns)."""
    if isinstance(tile, PlannedTile):
        return tile.panel, tile.r0, tile.c0, tile.rows, tile.columns
    return tile.panel, tile.r0, tile.c0, *tile.values.shape[1:]


def prepare(
    model: AnyModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    sites: str | Sequence[str] = "resid_pre",
    over: Over = ("layer", "position"),
    direction: Direction = "denoising",
    *,
    source: str | Source = "interchange",
    positions: Literal["start", "end"] = "end",
    layers: Numbers = None,
    heads: Numbers = None,
    spans: Names = None,
    first: Region | None = None,
    batch: int | Literal["auto"] = "auto",
    optimise: bool | Optimise = True,
    max_bytes: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Sweep:
    """Tokenise, plan and run the baselines; see `sweep` for the arguments and errors."""
    _check_options(direction, positions, batch)
    model = cast(LanguageModel, model)
    chosen, named = as_source(source), (sites,) if isinstance(sites, str) else tuple(sites)
    axes = (over,) if isinstance(over, str) else tuple(over)
    check_source(chosen, named)
    cells_of(model.facts, named, axes, layers=layers, heads=heads, spans=spans, adapter=model.adapter)
    tokenized = ready(model, pairs)
    measure = get(metric)
    if measure.facts.needs_foil:
        require_usable(tokenized, measure.facts.name)
    plan = make_plan(
        model.facts,
        [Lengths.of(pair) for pair in tokenized],
        sites=named,
        over=axes,
        layers=layers,
        heads=heads,
        spans=spans,
        source=chosen.name,
        by_span=isinstance(chosen, Mean) and chosen.over == "span",
        first=first,
        from_end=positions == "end",
        optimise=Optimise.of(optimise),
        batch_rows=None if batch == "auto" else batch,
        targets_only=measure.facts.targets_only,
        tokens_a_batch=tokens_for(model),
        adapter=model.adapter,
        walk=walk_of(model),
    )
    _check_memory(model, plan, max_bytes)
    put_in = None if isinstance(chosen, Interchange) and (heads is None or plan.per_head) else chosen
    baselines = run_baselines(model, tokenized, measure, plan, direction, should_stop or (lambda: False), put_in)
    panels = tuple(
        panel(
            plan, site, tokenized, measure.facts, direction=direction, source=str(chosen),
            clean=baselines.clean, corrupted=baselines.corrupted,
        )
        for site in plan.sites
    )  # fmt: skip
    return Sweep(model, tokenized, measure, direction, plan, baselines, panels)


def tiles(
    prepared: Sweep,
    *,
    done: Collection[Place] = (),
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Tile]:
    """Compute the tiles of a sweep in plan order; ends early, between two batches, once `should_stop()` is true.

    `done` holds the rectangles (`place`) that need not be computed again. A planned tile is skipped only where its
    very rectangle is done: tiles of another cut count for nothing. The same bits come out whatever is done, as long as
    no batch had to be halved for want of memory.
    Raises `MetricError` where the metric is not a number, `OutOfMemoryError` where one row does not fit.
    """
    planned = [tile for tile in prepared.plan.tiles if place(tile) not in done]
    uses = Counter(tile.key for tile in planned)
    bundle_of = {tile.key: bundle for bundle in prepared.plan.bundles for tile in bundle}
    ready_now: dict[Any, NDArray[Any]] = {}
    room = Room()
    for tile in planned:
        if tile.key not in ready_now:
            bundle = bundle_of[tile.key]
            found = run_bundle(
                prepared.model, prepared.pairs, prepared.metric, prepared.plan, prepared.baselines, bundle,
                should_stop or (lambda: False), room,
            )  # fmt: skip
            if found is None:
                return
            ready_now.update((one.key, own) for one, own in zip(bundle, found, strict=True) if uses[one.key])
        examples = shown(prepared.plan, ready_now[tile.key])
        uses[tile.key] -= 1
        if not uses[tile.key]:
            del ready_now[tile.key]
        recovery, raw = aggregate(examples, prepared.baselines.clean, prepared.baselines.corrupted)
        values = np.stack([recovery, raw]).astype(np.float32)
        yield Tile(tile.panel, tile.r0, tile.c0, values, examples)


def grids(prepared: Sweep, computed: Sequence[Tile]) -> tuple[Grid, ...]:
    """One grid a site from tiles; cells without a tile are NaN."""
    found = []
    for number, described in enumerate(prepared.panels):
        mine = [tile for tile in computed if tile.panel == number]
        grid = Grid.from_tiles(described, mine, prepared.baselines.clean, prepared.baselines.corrupted)
        if all(tile.examples is not None for tile in mine) and grid.examples is not None:
            # Tiles travel as float32; with every pair's value at hand the planes keep the model's full precision.
            recovery, raw = aggregate(grid.examples, prepared.baselines.clean, prepared.baselines.corrupted)
            kind = prepared.baselines.clean.dtype
            grid = replace(grid, planes={"recovery": recovery.astype(kind), "raw": raw.astype(kind)})
        found.append(grid)
    return tuple(found)


@overload
def sweep(
    model: AnyModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = ...,
    sites: str = ...,
    over: Over = ...,
    direction: Direction = ...,
    *,
    source: str | Source = ...,
    positions: Literal["start", "end"] = ...,
    layers: Numbers = ...,
    heads: Numbers = ...,
    spans: Names = ...,
    first: Region | None = ...,
    batch: int | Literal["auto"] = ...,
    optimise: bool | Optimise = ...,
    max_bytes: int | None = ...,
    should_stop: Callable[[], bool] | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> Grid: ...
@overload
def sweep(
    model: AnyModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = ...,
    sites: tuple[str, ...] | list[str] = ...,
    over: Over = ...,
    direction: Direction = ...,
    *,
    source: str | Source = ...,
    positions: Literal["start", "end"] = ...,
    layers: Numbers = ...,
    heads: Numbers = ...,
    spans: Names = ...,
    first: Region | None = ...,
    batch: int | Literal["auto"] = ...,
    optimise: bool | Optimise = ...,
    max_bytes: int | None = ...,
    should_stop: Callable[[], bool] | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> dict[str, Grid]: ...
def sweep(
    model: AnyModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    sites: str | tuple[str, ...] | list[str] = "resid_pre",
    over: Over = ("layer", "position"),
    direction: Direction = "denoising",
    *,
    source: str | Source = "interchange",
    positions: Literal["start", "end"] = "end",
    layers: Numbers = None,
    heads: Numbers = None,
    spans: Names = None,
    first: Region | None = None,
    batch: int | Literal["auto"] = "auto",
    optimise: bool | Optimise = True,
    max_bytes: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Grid | dict[str, Grid]:
    """Patch every cell; a `Grid` for one site's name, a dict of them for several.

    `pairs` are one pair or a list of them: `PromptPair`, `TokenizedPair`, or `ImagePair` for a `VisionModel`.
    `metric` is a name of `tracing.metric_facts.METRICS` or a function of logits `[row, vocab]` (and `Targets`).
    `over` are the axes of the map, any of "example", "layer", "head", "position" or "span", "neuron", in this order:
    the last one is the columns, the others the rows. What is no axis is patched together: all positions, all heads.
    `direction`: "denoising" puts clean activations into the corrupted run, "noising" the reverse.
    `source` is what is put in: "interchange" (the other run's activation), "zero", "mean", "resample", "noise", or one
    of `tracing.patching.sources` with options. `positions` says where prompts of different lengths line up.
    `layers` are those of the map (negative: from the end); without the axis "layer" they are patched at once. `heads`
    are those of the axis "head", or without it patched together. `spans` are the named spans of the axis "span", or
    without it the only tokens that are patched.
    `first` (layers, columns) is computed first; that changes no number. `batch` is the number of patched prompts that
    run together. A sweep that would keep more than `max_bytes` (by default: more than the device has) is refused.
    `progress(done, total)` is called after every tile with the number of cells. Once `should_stop()`, cells that are
    not computed stay NaN; before the baselines are known, `Stopped` is raised.
    Raises `PromptError` for pairs that do not align or lack a foil the metric needs, `SiteError`, `MetricError`,
    `SpecError`, `OutOfMemoryError` (before anything runs, where the activations to keep exceed the device's memory).
    """
    prepared = prepare(
        model, pairs, metric, sites, over, direction, source=source, positions=positions, layers=layers, heads=heads,
        spans=spans, first=first, batch=batch, optimise=optimise, max_bytes=max_bytes, should_stop=should_stop,
    )  # fmt: skip
    computed, done = [], 0
    for tile in tiles(prepared, should_stop=should_stop):
        computed.append(tile)
        done += tile.values[0].size
        if progress is not None:
            progress(done, prepared.plan.cells)
    found = grids(prepared, computed)
    return found[0] if isinstance(sites, str) else dict(zip(prepared.plan.sites, found, strict=True))


def _check_options(direction: str, positions: str, batch: int | str) -> None:
    if direction not in ("denoising", "noising"):
        raise SpecError(f"Unknown direction {direction!r}.", remedy='Use "denoising" or "noising".')
    if positions not in ("start", "end"):
        raise SpecError(f"Positions cannot be counted from {positions!r}.", remedy='Use "start" or "end".')
    if batch != "auto" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise SpecError(f"{batch!r} is no batch size.", remedy='Use "auto" or a number of rows from 1 up.')


def _check_memory(model: LanguageModel, plan: Plan, max_bytes: int | None) -> None:
    """What a sweep keeps must fit before the first forward: on the CPU there is no second chance."""
    limit = device_bytes(model.device) if max_bytes is None else max_bytes
    size = kept_bytes(plan, model.dtype.itemsize)
    if limit is not None and size > limit:
        where = f"the memory of {model.device} has" if max_bytes is None else "the limit is"
        raise OutOfMemoryError(
            too_large(size, limit, plan.pairs, max(group.length for group in plan.groups), where),
            remedy=REMEDY,
            where={"bytes": size, "limit": limit, "pairs": plan.pairs},
        )
