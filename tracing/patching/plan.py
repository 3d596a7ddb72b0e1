"""The plan of a sweep: which tiles, in which order, made of which batches, at what cost. Torch-free.

What need not run, for a patch in layer l that starts at position p:
1. *suffix*: blocks before l (their activations are cached); off, every patch is a full forward with a hook.
2. *causal*: positions before p keep their residuals, keys and values. Not where attention looks both ways, and only
   where the adapter says that rows can be packed.
3. *known*: a patch that cannot be read (behind the last attention, anywhere but at the answer position), and with the
   source "interchange" one where source and destination cannot differ (before the first differing token; at the
   entrance of block 0, at equal tokens) leaves the destination's metric. Other sources change those activations too.
4. *last_token*: behind the last attention only the answer position is needed. *columns*: of the unembedding, only the
   answers' and foils' columns where the metric reads nothing else.
5. *batching*: many patches of many pairs are rows of one batch. Where a tile alone is a small batch, tiles of several
   layers form a bundle: one batch, which the rows of each layer join on their way.

A tile is a rectangle of cells of one layer whose work stays under a fixed number of FLOPs. Tiles, bundles and batches
follow from model, prompts, options and the device's memory alone, never from what was computed before or is wanted
first: a resumed or reordered sweep computes the missing tiles bit for bit as the undisturbed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from typing import Final

from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts
from tracing.patching.cells import Cells, Slot, site_of
from tracing.patching.flops import in_words
from tracing.prompt_spans import Span
from tracing.prompts import TokenizedPair

TILE_FLOPS: Final = 4e10
"""Work of a tile: a fraction of a second on two cores, so that a map is seen to fill."""
MOST_TILES: Final = 512
"""Larger sweeps get larger tiles rather than more of them."""

TOKENS_A_BATCH: Final = 2048
LOGITS_A_BATCH: Final = 2**26
"""Where the metric reads the whole vocabulary, a batch has at most this many logits."""


@dataclass(frozen=True, slots=True)
class Optimise:
    """Which of the exact short cuts to take. All agree with none of them, up to rounding."""

    suffix: bool = True
    causal: bool = True
    known: bool = True
    last_token: bool = True
    columns: bool = True
    batching: bool = True

    @classmethod
    def of(cls, value: "bool | Optimise") -> "Optimise":
        """All (`True`), none (`False`), or a selection."""
        return value if isinstance(value, Optimise) else cls(*(bool(value) for _ in fields(cls)))


@dataclass(frozen=True, slots=True)
class Lengths:
    """A pair reduced to what planning needs: its positions' number, and where its two prompts differ."""

    length: int
    differs: tuple[bool, ...]
    answer: int = -1
    """Where the metric is read."""
    spans: tuple[Span, ...] = ()
    read: int = 0
    """How many tokens the model reads besides: those of an encoder."""

    @classmethod
    def of(cls, pair: TokenizedPair) -> "Lengths":
        """What planning needs of a tokenised pair."""
        read = len(pair.clean_ids) if pair.decoder_ids else 0
        return cls(pair.length, pair.differs, pair.answer_position, pair.spans, read)

    @property
    def first(self) -> int:
        """First position where the prompts differ."""
        return self.differs.index(True)


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs of one length and the same places: they run as rows of one batch, without padding."""

    length: int
    first: int
    """Where their prompts part."""
    pairs: tuple[int, ...]
    differs: tuple[bool, ...]
    """True where any of the pairs differs."""
    answer: int = -1
    spans: tuple[Span, ...] = ()

    @property
    def answer_position(self) -> int:
        """Counted from the start."""
        return self.answer % self.length

    def span(self, name: str) -> tuple[int, ...]:
        """The positions of a span; none where the group's pairs do not have it."""
        return next((tuple(range(start, end)) for one, start, end in self.spans if one == name), ())


@dataclass(frozen=True, slots=True)
class Chunk:
    """One batch: cells `slots` of a layer, for pairs `pairs[lo:hi]` of a group."""

    group: int
    lo: int
    hi: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedTile:
    """A rectangle of one panel: cells `first` … `end` − 1 of one layer, and the batches that fill them.

    `r0`, `c0`, `rows` and `columns` are the rectangle in the map; `shape` is that of its cells before pairs get rows of
    their own.
    """

    panel: int
    site: str
    layers: tuple[int, ...]
    """The layer, or those that are patched at once."""
    first: int
    end: int
    shape: tuple[int, int]
    r0: int
    c0: int
    rows: int
    columns: int
    key: tuple[object, ...]
    """Tiles with equal keys hold equal numbers."""
    chunks: tuple[Chunk, ...]
    flops: float

    @property
    def layer(self) -> int:
        """The (first) layer."""
        return self.layers[0]


@dataclass(frozen=True)
class Plan:
    """A planned sweep."""

    facts: ModelFacts
    adapter: Adapter
    sites: tuple[str, ...]
    axes: Cells
    from_end: bool
    optimise: Optimise
    source: str
    """Name of the source."""
    walk: str
    """How rows run: "packed", "rows", or "hooks" for full forwards."""
    causal: bool
    places: int
    """Columns of positions, or spans; 1 where neither is an axis."""
    pairs: int
    groups: tuple[Group, ...]
    tokens_a_batch: int = TOKENS_A_BATCH
    batch_rows: int | None = None
    targets_only: bool = False
    tiles: tuple[PlannedTile, ...] = ()
    bundles: tuple[tuple[PlannedTile, ...], ...] = ()
    """Tiles that run together. A key is in one bundle only, whichever panels show its numbers."""
    baseline_flops: float = 0.0
    naive_flops: float = 0.0
    floor_flops: float = 0.0

    # -- shape --------------------------------------------------------------------------------------------------------
    def rows_a_layer(self, site: str) -> int:
        """Rows of each layer of a site's map, before pairs get rows of their own."""
        return self.axes.shape(site, self.facts, self.places)[0]

    def shape(self, site: str) -> tuple[int, int]:
        """Rows and columns of a site's map."""
        rows, columns = self.axes.shape(site, self.facts, self.places)
        rows *= len(self.axes.steps())
        if not self.axes.has("example"):
            return rows, columns
        return (rows * self.pairs, columns) if self.axes.axes else (self.pairs, rows)

    @cached_property
    def slots(self) -> dict[str, tuple[Slot, ...]]:
        """The cells of a layer, by site."""
        return {site: self.axes.slots(site, self.facts, self.places) for site in self.sites}

    @property
    def cells(self) -> int:
        """Cells of all panels."""
        return sum(rows * columns for rows, columns in map(self.shape, self.sites))

    @property
    def n_columns(self) -> int:
        """Columns of the first panel."""
        return self.shape(self.sites[0])[1]

    @property
    def per_head(self) -> bool:
        """True where cells patch one head each."""
        return self.axes.has("head")

    # -- what a cell patches ------------------------------------------------------------------------------------------
    def position(self, group: Group, column: int) -> int:
        """The token position of a column in the prompts of a group; negative or ≥ length where there is none."""
        return column - (self.places - group.length if self.from_end else 0)

    def positions(self, group: Group, place: int | None) -> tuple[int, ...]:
        """The positions that a place means in a group; none where its prompts have no such place."""
        if place is None:
            chosen = {t for name in self.axes.spans for t in group.span(name)}
            return tuple(sorted(chosen)) if self.axes.spans else tuple(range(group.length))
        if self.axes.places == "span":
            return group.span(self.axes.spans[place])
        position = self.position(group, place)
        return (position,) if 0 <= position < group.length else ()

    def patched(self, group: Group, place: int | None) -> tuple[int, ...]:
        """The positions that a row has to patch: of an interchange, not those where the runs cannot differ yet."""
        where = self.positions(group, place)
        if self.source == "interchange" and self.causal and self.optimise.causal:
            return tuple(t for t in where if t >= group.first) or where
        return where

    def is_known(self, group: Group, site: str, layers: tuple[int, ...], place: int | None) -> bool:
        """True where a patch cannot change the destination's metric, for every pair of the group."""
        return self.optimise.known and cannot_matter(
            self.facts.n_layers, group.differs, group.answer_position, site, layers, self.positions(group, place),
            causal=self.causal, interchange=self.source == "interchange",
        )  # fmt: skip

    def start(self, group: Group, site: str, layers: tuple[int, ...], place: int | None) -> int:
        """First position that has to run for a patch: the others stand in the cache."""
        if self.walk != "packed" or not self.optimise.causal:
            return 0
        if layers == (self.facts.n_layers - 1,) and self.optimise.last_token and _ends_in_block(site):
            return group.length - 1
        return self.patched(group, place)[0]

    # -- cost ---------------------------------------------------------------------------------------------------------
    @property
    def flops(self) -> float:
        """Matmul FLOPs of the whole sweep, baselines included; tiles with equal keys run once."""
        return self.baseline_flops + sum(tile.flops for bundle in self.bundles for tile in bundle)

    @property
    def block_runs(self) -> int:
        """How many times a block is executed: what a batch costs beside its FLOPs."""
        n = self.facts.n_layers
        runs = 4 * n * len(self.groups)
        for bundle in self.bundles:
            deepest = 0 if self.walk == "hooks" else min(tile.layers[0] for tile in bundle)
            times = len(bundle) if self.walk == "hooks" else 1
            runs += times * (n - deepest) * sum(1 for _ in bundle[0].chunks)
        return runs

    def explain(self) -> str:
        """The plan in words: sizes, what was chosen and why, cost against one full forward a cell and the floor."""
        batches = sum(len(bundle[0].chunks) for bundle in self.bundles)
        shared = len(self.tiles) - sum(len(bundle) for bundle in self.bundles)
        same = f" ({shared} tiles show numbers of others)" if shared else ""
        return (
            f"{self.cells} cells ({self._sizes()}, {self.pairs} pair{'s' * (self.pairs != 1)}) in {len(self.tiles)} "
            f"tiles{same} and {batches} batches. {self._engine()} "
            f"{in_words(self.flops)} planned, {in_words(self.naive_flops)} with one full forward a cell and pair "
            f"({self.naive_flops / max(self.flops, 1.0):.1f} times as much), {in_words(self.floor_flops)} at least. "
            f"Short cuts: {', '.join(self._taken()) or 'none'}."
        )

    def _taken(self) -> list[str]:
        return [f.name for f in fields(Optimise) if getattr(self.optimise, f.name)]

    def _sizes(self) -> str:
        axes = self.axes
        layers = f"{len(axes.layers)} layers" if not axes.joint else f"layers {', '.join(map(str, axes.layers))}"
        named = {"position": "positions", "head": "heads", "neuron": "neurons", "span": "spans"}
        sizes = []
        for site in self.sites:
            counts = {"head": len(axes.units(site, self.facts)), "neuron": self.facts.d_mlp}
            inner = [f"{counts.get(axis, self.places)} {named[axis]}" for axis in axes.axes]
            sizes.append(" × ".join([layers, *inner]))
        alike = len(set(sizes)) == 1
        return (
            f"{', '.join(self.sites)}: {sizes[0]}"
            if alike
            else "; ".join(f"{site}: {size}" for site, size in zip(self.sites, sizes, strict=True))
        )

    def _engine(self) -> str:
        source = "" if self.source == "interchange" else f" Source {self.source}: every cell that can be read runs."
        if self.walk == "hooks":
            why = "several layers are patched at once" if self.optimise.suffix else "suffix is off"
            return f"Each patch is a full forward with hooks, since {why}.{source}"
        if self.walk == "packed":
            return (
                "Patches run from their layer on, side by side in packed rows, only at positions they can change: "
                f"attention is causal, so earlier keys and values come from the unpatched run.{source}"
            )
        why = "earlier positions change too" if not self.causal else "its blocks take no packed rows"
        return f"Patches run from their layer on, as whole prompts, since on {self.facts.family} {why}.{source}"


def _ends_in_block(site: str) -> bool:
    """Whether a patch in the last block needs its attention no more."""
    known = site_of(site)
    return known.local and not known.entrance and site not in ("q", "pattern")


def cannot_matter(
    n_layers: int,
    differs: Sequence[bool],
    answer: int,
    site: str,
    layers: Sequence[int],
    positions: Sequence[int],
    *,
    causal: bool = True,
    interchange: bool = True,
) -> bool:
    """Whether patching these positions leaves the destination's metric exactly as it is."""
    facts = site_of(site)
    if facts.local and not facts.entrance and min(layers) == n_layers - 1 and answer not in positions:
        return True
    if not interchange or not positions:
        return False
    if causal and not any(differs[: max(positions) + 1]):
        return True
    return facts.entrance and tuple(layers) == (0,) and not any(differs[t] for t in positions)


def groups_of(pairs: Sequence[Lengths], *, by_first: bool, by_span: bool) -> tuple[Group, ...]:
    """Pairs that run together: with `by_first`, those that part at one position, with `by_span`, those whose spans
    lie at the same places."""

    def key(number: int) -> tuple[int, int, int, tuple[Span, ...], int]:
        pair = pairs[number]
        spans = tuple(sorted(pair.spans)) if by_span else ()
        return pair.length, pair.first if by_first else 0, pair.answer % pair.length, spans, pair.read

    groups = []
    for (length, _, answer, spans, _), members in groupby(sorted(range(len(pairs)), key=key), key):
        numbers = tuple(members)
        differs = tuple(any(pairs[n].differs[t] for n in numbers) for t in range(length))
        groups.append(Group(length, differs.index(True), numbers, differs, answer - length, spans))
    return tuple(groups)
