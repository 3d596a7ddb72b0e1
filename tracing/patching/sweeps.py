"""Activation-patching sweeps: every cell of layer × position or layer × head, exactly.

`sweep` gives whole grids, `prepare` + `tiles` the same piece by piece (what the experiment streams). Steps:
1. tokenise, plan (`tracing.patching.plan`), run clean and corrupted once a group of equally long pairs and keep what
   the plan needs;
2. a bundle of tiles: for each batch of its plan make the patched activations, run the suffix (or the whole model
   where that short cut is off), read the metric of every pair and patch;
3. aggregate over pairs (`tracing.patching.axes`).
Sources: Zhang & Nanda 2023 (arXiv 2309.16042), Wang et al. 2022 (arXiv 2211.00593).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from tracing.errors import ModelError, OutOfMemoryError, SpecError
from tracing.experiments.events import Panel, Tile
from tracing.metrics import Metric, get
from tracing.models import LanguageModel
from tracing.patching.axes import aggregate, head_axis, layer_axis, panel, position_axis
from tracing.patching.baselines import Baselines, run_baselines
from tracing.patching.batches import run_bundle
from tracing.patching.footprint import REMEDY, kept_bytes, too_large
from tracing.patching.memory import Room, device_bytes
from tracing.patching.plan import Lengths, Optimise, Plan, PlannedTile, make_plan
from tracing.patching.spans import span_warnings
from tracing.prompts import PromptPair, TokenizedPair, require_usable, tokenize_all
from tracing.results import Grid

Direction = Literal["denoising", "noising"]
Pairs = PromptPair | TokenizedPair | Sequence[PromptPair] | Sequence[TokenizedPair]
Place = tuple[int, int, int, int, int]


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
        positions = np.arange(self.plan.n_columns)
        lengths = np.array([pair.length for pair in self.pairs])[:, None]
        shift = self.plan.n_columns - lengths if self.plan.from_end else 0
        has = (positions - shift >= 0) & (positions - shift < lengths) | self.plan.per_head
        return span_warnings(
            self.metric.facts.name,
            [tick.label for tick in self.panels[0].columns.ticks],
            self.baselines.clean,
            self.baselines.corrupted,
            has,
            float(torch.finfo(self.model.dtype).eps),
        )


def place(tile: Tile | PlannedTile) -> Place:
    """The whole rectangle of a tile: (panel, first row, first column, rows, columns)."""
    if isinstance(tile, PlannedTile):
        return tile.panel, tile.layer, tile.c0, 1, tile.c1 - tile.c0
    return tile.panel, tile.r0, tile.c0, *tile.values.shape[1:]


def prepare(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    sites: str | Sequence[str] = "resid_pre",
    over: Sequence[str] = ("layer", "position"),
    direction: Direction = "denoising",
    *,
    positions: Literal["start", "end"] = "end",
    batch: int | Literal["auto"] = "auto",
    optimise: bool | Optimise = True,
    max_bytes: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Sweep:
    """Tokenise, plan and run the baselines; see `sweep` for the arguments and errors.

    A sweep that would keep more than `max_bytes` (by default: more than the device has) is refused before it starts.
    """
    _check_options(over, direction, positions, batch)
    tokenized = _tokenized(model, pairs)
    measure = get(metric)
    if measure.facts.needs_foil:
        require_usable(tokenized, measure.facts.name)
    plan = make_plan(
        model.facts,
        [Lengths(pair.length, pair.differs) for pair in tokenized],
        sites=(sites,) if isinstance(sites, str) else sites,
        per_head=over[1] == "head",
        from_end=positions == "end",
        optimise=Optimise.of(optimise),
        batch_rows=None if batch == "auto" else batch,
        targets_only=measure.facts.targets_only,
    )
    _check_attention(model, plan)
    _check_memory(model, plan, max_bytes)
    baselines = run_baselines(model, tokenized, measure, plan, direction, should_stop or (lambda: False))
    columns = head_axis(model.facts.n_heads) if plan.per_head else position_axis(tokenized, from_end=plan.from_end)
    panels = tuple(
        panel(
            site, layer_axis(model.facts.n_layers), columns, measure.facts,
            direction=direction, clean=baselines.clean, corrupted=baselines.corrupted,
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
    ready: dict[Any, NDArray[Any]] = {}
    room = Room()
    for tile in planned:
        if tile.key not in ready:
            bundle = bundle_of[tile.key]
            found = run_bundle(
                prepared.model, prepared.pairs, prepared.metric, prepared.plan, prepared.baselines, bundle,
                should_stop or (lambda: False), room,
            )  # fmt: skip
            if found is None:
                return
            ready.update((one.key, examples) for one, examples in zip(bundle, found, strict=True) if uses[one.key])
        examples = ready[tile.key]
        uses[tile.key] -= 1
        if not uses[tile.key]:
            del ready[tile.key]
        recovery, raw = aggregate(examples, prepared.baselines.clean, prepared.baselines.corrupted)
        values = np.stack([recovery, raw]).astype(np.float32)
        yield Tile(tile.panel, tile.layer, tile.c0, values, examples)


def grids(prepared: Sweep, computed: Sequence[Tile]) -> tuple[Grid, ...]:
    """One grid a site from tiles; cells without a tile are NaN."""
    found = []
    for number, described in enumerate(prepared.panels):
        mine = [tile for tile in computed if tile.panel == number]
        grid = Grid.from_tiles(described, mine, prepared.baselines.clean, prepared.baselines.corrupted)
        if all(tile.examples is not None for tile in mine):
            # Tiles travel as float32; with every pair's value at hand the planes keep the model's full precision.
            recovery, raw = aggregate(grid.examples, grid.clean, grid.corrupted)
            kind = grid.clean.dtype
            grid = replace(grid, planes={"recovery": recovery.astype(kind), "raw": raw.astype(kind)})
        found.append(grid)
    return tuple(found)


@overload
def sweep(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = ...,
    sites: str = ...,
    over: Sequence[str] = ...,
    direction: Direction = ...,
    *,
    positions: Literal["start", "end"] = ...,
    batch: int | Literal["auto"] = ...,
    optimise: bool | Optimise = ...,
    should_stop: Callable[[], bool] | None = ...,
) -> Grid: ...
@overload
def sweep(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = ...,
    sites: tuple[str, ...] | list[str] = ...,
    over: Sequence[str] = ...,
    direction: Direction = ...,
    *,
    positions: Literal["start", "end"] = ...,
    batch: int | Literal["auto"] = ...,
    optimise: bool | Optimise = ...,
    should_stop: Callable[[], bool] | None = ...,
) -> dict[str, Grid]: ...
def sweep(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    sites: str | tuple[str, ...] | list[str] = "resid_pre",
    over: Sequence[str] = ("layer", "position"),
    direction: Direction = "denoising",
    *,
    positions: Literal["start", "end"] = "end",
    batch: int | Literal["auto"] = "auto",
    optimise: bool | Optimise = True,
    should_stop: Callable[[], bool] | None = None,
) -> Grid | dict[str, Grid]:
    """Patch every cell; a `Grid` for one site's name, a dict of them for several.

    `pairs` are one pair or a list of them.
    `metric` is a name of `tracing.metric_facts.METRICS` or a function of logits `[row, vocab]` (and `Targets`).
    `over` is ("layer", "position"), or ("layer", "head") with the site z, which patches one head at every position.
    `direction`: "denoising" puts clean activations into the corrupted run, "noising" the reverse. `positions` says
    where prompts of different lengths line up. `batch` is the number of patched prompts that run together.
    Once `should_stop()`, cells that are not computed stay NaN; before the baselines are known, `Stopped` is raised.
    Raises `PromptError` for pairs that do not align or lack a foil the metric needs, `SiteError`, `MetricError`,
    `SpecError`, `OutOfMemoryError` (before anything runs, where the activations to keep exceed the device's memory).
    """
    prepared = prepare(
        model, pairs, metric, sites, over, direction,
        positions=positions, batch=batch, optimise=optimise, should_stop=should_stop,
    )  # fmt: skip
    found = grids(prepared, list(tiles(prepared, should_stop=should_stop)))
    return found[0] if isinstance(sites, str) else dict(zip(prepared.plan.sites, found, strict=True))


def _check_options(over: Sequence[str], direction: str, positions: str, batch: int | str) -> None:
    if tuple(over) not in (("layer", "position"), ("layer", "head")):
        raise SpecError(
            f"A map cannot be over {tuple(over)}.", remedy='Use ("layer", "position") or ("layer", "head").'
        )
    if direction not in ("denoising", "noising"):
        raise SpecError(f"Unknown direction {direction!r}.", remedy='Use "denoising" or "noising".')
    if positions not in ("start", "end"):
        raise SpecError(f"Positions cannot be counted from {positions!r}.", remedy='Use "start" or "end".')
    if batch != "auto" and (not isinstance(batch, int) or batch < 1):
        raise SpecError(f"{batch!r} is no batch size.", remedy='Use "auto" or a number of rows from 1 up.')


def _check_attention(model: LanguageModel, plan: Plan) -> None:
    """The suffix engine masks packed rows, which only these attention implementations honour."""
    used = model.attention
    if plan.optimise.suffix and used not in ("eager", "sdpa"):
        raise ModelError(
            f"The model runs attention by {used!r}, which ignores the masks that packed patches need.",
            remedy='Call model.module.set_attn_implementation("sdpa"), or sweep with Optimise(suffix=False).',
        )


def _check_memory(model: LanguageModel, plan: Plan, max_bytes: int | None) -> None:
    """What a sweep keeps must fit before the first forward: on the CPU there is no second chance."""
    limit = device_bytes(model.device) if max_bytes is None else max_bytes
    size = kept_bytes(plan, model.dtype.itemsize)
    if limit is not None and size > limit:
        place = f"the memory of {model.device} has" if max_bytes is None else "the limit is"
        raise OutOfMemoryError(
            too_large(size, limit, plan.pairs, max(group.length for group in plan.groups), place),
            remedy=REMEDY,
            where={"bytes": size, "limit": limit, "pairs": plan.pairs},
        )


def _tokenized(model: LanguageModel, pairs: Pairs) -> tuple[TokenizedPair, ...]:
    if isinstance(pairs, TokenizedPair):
        pairs = (pairs,)
    if isinstance(pairs, PromptPair):
        pairs = (pairs,)
    ready = [pair for pair in pairs if isinstance(pair, TokenizedPair)]
    if ready and len(ready) == len(pairs):
        require_usable(ready)
        return tuple(ready)
    texts = [pair for pair in pairs if isinstance(pair, PromptPair)]
    if len(texts) != len(pairs):
        raise SpecError("The pairs are neither all texts nor all tokenized.", remedy="Pass PromptPair objects.")
    return tuple(tokenize_all(texts, model.tokens, model.facts.max_positions))
