"""Cuts a sweep into tiles, bundles and batches; `make_plan` is where a plan comes from. Torch-free.

The order of tiles is coarse first (every fourth layer, those halfway between, the rest), and what a reader marked
(`first`) before everything else. The cut never depends on that order.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tracing.errors import SpecError
from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts
from tracing.families.registry import adapter_of
from tracing.patching.cells import Cells, cells_of
from tracing.patching.costs import Costs, counted, key_of
from tracing.patching.flops import BlockFlops
from tracing.patching.plan import (
    LOGITS_A_BATCH,
    MOST_TILES,
    TILE_FLOPS,
    TOKENS_A_BATCH,
    Chunk,
    Group,
    Lengths,
    Optimise,
    Plan,
    PlannedTile,
    groups_of,
)

Region = tuple[Collection[int] | None, Collection[int] | None]
"""Layers × columns of a map; None means all of them."""

CAUSAL_ROWS: Final = ("mamba",)
"""Families whose rows run whole, although a position never sees later ones."""


def make_plan(
    facts: ModelFacts,
    pairs: Sequence[Lengths],
    *,
    sites: Sequence[str],
    over: Sequence[str] = ("layer", "position"),
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    spans: str | Sequence[str] | None = None,
    source: str = "interchange",
    by_span: bool = False,
    first: Region | None = None,
    from_end: bool = True,
    optimise: Optimise | None = None,
    batch_rows: int | None = None,
    targets_only: bool = False,
    tokens_a_batch: int = TOKENS_A_BATCH,
    adapter: Adapter | None = None,
    walk: str = "",
) -> Plan:
    """Plan a sweep. `targets_only`: the metric reads only the answers' and foils' logits; `source` is a name;
    `walk` is how the model at hand runs rows, where that is not what its adapter says.

    Raises `SiteError` for a family or site that cannot be patched, or not on these axes, `SpecError` where there are
    no pairs, or axes contradict each other.
    """
    adapter = adapter or adapter_of(facts.family)
    axes = cells_of(facts, sites, over, layers=layers, heads=heads, spans=spans, adapter=adapter)
    if not pairs:
        raise SpecError("There are no prompt pairs to patch.", remedy="Add at least one clean/corrupted pair.")
    if len(set(sites)) != len(sites):
        raise SpecError("A site is named twice.", remedy="Name each site once.")
    axes = _with_spans(axes, pairs)
    optimise = optimise or Optimise()
    causal = adapter.walk == "packed" or facts.family in CAUSAL_ROWS
    several = axes.joint and len(axes.layers) > 1
    empty = Plan(
        facts=facts,
        adapter=adapter,
        sites=tuple(sites),
        axes=axes,
        from_end=from_end,
        optimise=optimise,
        source=source,
        walk="hooks" if several or not optimise.suffix else walk or adapter.walk,
        causal=causal,
        places=_places(axes, pairs),
        pairs=len(pairs),
        groups=groups_of(pairs, by_first=causal and source == "interchange", by_span=by_span or bool(axes.spans)),
        tokens_a_batch=tokens_a_batch,
        batch_rows=batch_rows,
        targets_only=targets_only,
    )
    cost = Costs(empty, BlockFlops.of(facts))
    planned = replace(
        empty,
        baseline_flops=2 * sum(cost.block.forward(facts, pair.length) for pair in pairs),
        naive_flops=cost.naive(pairs),
        floor_flops=cost.floor(),
    )
    return _cut(planned, cost, first, max(pair.length for pair in pairs))


def _with_spans(axes: Cells, pairs: Sequence[Lengths]) -> Cells:
    """The axes with their spans' names, all of them where none is chosen. Raises `SpecError` for an unknown one."""
    if not axes.spans and not axes.has("span"):
        return axes
    known = list(dict.fromkeys(name for pair in pairs for name, _, _ in pair.spans))
    missing = [name for name in axes.spans if name not in known]
    if missing or not known:
        raise SpecError(
            f"No prompt pair has a span {missing[0]!r}." if missing else "The prompt pairs have no named spans.",
            remedy=f"Spans of the pairs: {', '.join(known)}."
            if known
            else 'Name them in each pair: PromptPair(..., spans={"subject": "Mary", "END": -1}).',
        )
    return replace(axes, spans=axes.spans or tuple(known))


def _places(axes: Cells, pairs: Sequence[Lengths]) -> int:
    if axes.places == "position":
        return max(pair.length for pair in pairs)
    return len(axes.spans) if axes.places == "span" else 1


def coarse_first(count: int) -> tuple[tuple[int, ...], ...]:
    """Every fourth layer, then the ones halfway between, then the rest: a map is readable early."""
    return tuple(range(0, count, 4)), tuple(range(2, count, 4)), tuple(range(1, count, 2))


def _cut(plan: Plan, cost: Costs, first: Region | None, longest: int) -> Plan:
    steps = len(plan.axes.steps())
    total = sum(
        cost.layer(site, layers, group) for site in plan.sites for layers in plan.axes.steps() for group in plan.groups
    )
    # A device that takes larger batches is faster, too: there a tile is as much more work.
    faster = max(1.0, plan.tokens_a_batch / TOKENS_A_BATCH)
    budget = max(TILE_FLOPS * faster, 8 * cost.block.forward(plan.facts, longest), total / MOST_TILES)
    builder = Builder(plan, cost, budget)
    tiles = tuple(
        tile
        for blocks in coarse_first(steps)
        for panel in range(len(plan.sites))
        for block in blocks
        for tile in builder.tiles(panel, block)
    )
    bundles = tuple(builder.bundles(tiles))
    return replace(plan, tiles=tuple(_wanted_first(plan, tiles, first)), bundles=bundles)


def _wanted_first(plan: Plan, tiles: Sequence[PlannedTile], first: Region | None) -> Iterable[PlannedTile]:
    """The tiles that show a marked cell before the others, else in their order."""
    if first is None:
        return tiles
    layers, columns = first

    def others(tile: PlannedTile) -> bool:
        inside = layers is None or bool(set(tile.layers) & set(layers))
        return not (inside and (columns is None or any(tile.c0 <= c < tile.c0 + tile.columns for c in columns)))

    return sorted(tiles, key=others)


@dataclass(frozen=True, slots=True)
class Builder:
    """Cuts one layer of one panel into tiles, and a tile into batches."""

    plan: Plan
    cost: Costs
    budget: float

    def tiles(self, panel: int, block: int) -> Iterable[PlannedTile]:
        """The tiles of one block of rows of a panel, from its first cell to its last."""
        plan, site, layers = self.plan, self.plan.sites[panel], self.plan.axes.steps()[block]
        rows, columns = plan.axes.shape(site, plan.facts, plan.places)
        for first, end in self._cuts(site, layers, rows, columns):
            shape = (1, end - first) if end - first < columns else ((end - first) // columns, columns)
            chunks = tuple(
                chunk for number in range(len(plan.groups)) for chunk in self._chunks(number, site, layers, first, end)
            )
            flops = sum(
                len(group.pairs) * number * self.cost.cell(group, site, layers, place)
                for group in plan.groups
                for place, number in counted(plan.slots[site][first:end]).items()
            )
            r0, c0 = block * rows + first // columns, first % columns
            place = _shown(plan, r0, c0, shape)
            key = (*key_of(plan, site, layers), first, end)
            yield PlannedTile(panel, site, layers, first, end, shape, *place, key, chunks, flops)

    def bundles(self, tiles: Sequence[PlannedTile]) -> Iterable[tuple[PlannedTile, ...]]:
        """Neighbouring tiles that fit into one batch and one tile's work, later layers joining on the way."""
        bundle: list[PlannedTile] = []
        unique: dict[object, PlannedTile] = {}
        for tile in tiles:
            unique.setdefault(tile.key, tile)
        for tile in unique.values():
            if bundle and not self._joins(bundle, tile):
                yield tuple(bundle)
                bundle = []
            bundle.append(tile)
        yield tuple(bundle)

    def _joins(self, bundle: Sequence[PlannedTile], tile: PlannedTile) -> bool:
        plan, last = self.plan, bundle[-1]
        if plan.walk == "hooks" or not plan.optimise.batching:
            return False
        if len(tile.chunks) != 1 or tile.chunks != last.chunks:
            return False
        chunk, group = tile.chunks[0], plan.groups[tile.chunks[0].group]
        rows = (len(bundle) + 1) * (chunk.hi - chunk.lo)
        tokens = rows * max(sum(self._tokens(group, one, slot) for slot in chunk.slots) for one in (last, tile))
        fits = tokens <= plan.tokens_a_batch and rows * len(chunk.slots) <= (plan.batch_rows or self._most_rows())
        return fits and sum(one.flops for one in bundle) + tile.flops <= 2 * self.budget

    def _tokens(self, group: Group, tile: PlannedTile, slot: int) -> int:
        place = self.plan.slots[tile.site][slot].place
        return group.length - self.plan.start(group, tile.site, tile.layers, place)

    def _cuts(self, site: str, layers: tuple[int, ...], rows: int, columns: int) -> Iterable[tuple[int, int]]:
        """Runs of whole rows, or of columns of one row where a row is too much work."""
        slots = self.plan.slots[site]
        price = {
            place: sum(len(group.pairs) * self.cost.cell(group, site, layers, place) for group in self.plan.groups)
            for place in counted(slots)
        }
        work = [price[slot.place] for slot in slots]
        first = 0
        while first < rows * columns:
            end = first + columns
            if sum(work[first:end]) > self.budget:
                yield from self._columns(work, first, end)
                first = end
                continue
            while end < rows * columns and sum(work[first : end + columns]) <= self.budget:
                end += columns
            yield first, end
            first = end

    def _columns(self, work: Sequence[float], first: int, end: int) -> Iterable[tuple[int, int]]:
        flops = 0.0
        for slot in range(first, end):
            if slot > first and flops + work[slot] > self.budget:
                yield first, slot
                first, flops = slot, 0.0
            flops += work[slot]
        yield first, end

    def _chunks(self, number: int, site: str, layers: tuple[int, ...], first: int, end: int) -> Iterable[Chunk]:
        plan, group = self.plan, self.plan.groups[number]
        cells = plan.slots[site]
        runs = {place: self.cost.runs(group, site, layers, place) for place in counted(cells[first:end])}
        slots = [slot for slot in range(first, end) if runs[cells[slot].place]]
        if not slots:
            return
        sizes = {
            place: group.length - plan.start(group, site, layers, place) for place, wanted in runs.items() if wanted
        }
        tokens = {slot: sizes[cells[slot].place] for slot in slots}
        if not plan.optimise.batching:
            yield from (Chunk(number, n, n + 1, (slot,)) for n in range(len(group.pairs)) for slot in slots)
            return
        at_once = plan.batch_rows or max(1, min(plan.tokens_a_batch // max(tokens.values()), self._most_rows()))
        for lo in range(0, len(group.pairs), at_once):
            hi = min(lo + at_once, len(group.pairs))
            for packed in self._packs(slots, tokens, hi - lo):
                yield Chunk(number, lo, hi, packed)

    def _most_rows(self) -> int:
        plan = self.plan
        return plan.tokens_a_batch if plan.targets_only else max(1, LOGITS_A_BATCH // plan.facts.vocab_size)

    def _packs(self, slots: list[int], tokens: dict[int, int], pairs: int) -> Iterable[tuple[int, ...]]:
        plan = self.plan
        pack: list[int] = []
        size = 0
        for slot in slots:
            rows = (len(pack) + 1) * pairs
            full = (
                rows > plan.batch_rows
                if plan.batch_rows is not None
                else (size + tokens[slot]) * pairs > plan.tokens_a_batch or rows > self._most_rows()
            )
            if pack and full:
                yield tuple(pack)
                pack, size = [], 0
            pack.append(slot)
            size += tokens[slot]
        if pack:
            yield tuple(pack)


def _shown(plan: Plan, r0: int, c0: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a rectangle of cells is in the map, in which pairs may have rows of their own."""
    rows, width = shape
    if not plan.axes.has("example"):
        return r0, c0, rows, width
    if not plan.axes.axes:  # a row a pair: what were rows are columns
        return 0, r0, plan.pairs, rows
    return r0 * plan.pairs, c0, rows * plan.pairs, width
