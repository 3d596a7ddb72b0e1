"""The plan of a sweep: which tiles, in which order, made of which batches, at what cost. Torch-free.

Every site of a sequential pre-norm decoder reduces to a *boundary patch*: replace the residual stream at the entrance
of block m at some positions, and run blocks m, m+1, … from there.
- `resid_pre` of layer l is boundary l. `resid_post` of l is boundary l+1, and so is `resid_mid`: the MLP works position
  by position, so a position that gets the source's resid_mid leaves the block with the source's resid_post.
- `attn_out` and `mlp_out` of l are boundary l+1 after one position-wise half block; `z` of all heads at one position
  gives the source's attn_out there. `z` of one head patches boundary l+1 at every position.

What need not run:
1. *suffix*: blocks before m (their activations are cached).
2. *causal*: positions before the first patched one keep their residuals, keys and values.
3. *known*: a patch where source and destination cannot differ (before the first differing token; at boundary 0, at
   equal tokens) or that cannot be read (behind the last block, anywhere but at the last position) leaves the
   destination's metric.
4. *last_token*: behind the last attention only the answer position is needed. *columns*: of the unembedding, only the
   answers' and foils' columns where the metric reads nothing else.
5. *batching*: many patches of many pairs are rows of one batch. Where a tile alone is a small batch, tiles of several
   boundaries form a bundle: one walk through the blocks, which the rows of each boundary join on their way.

A tile is one layer and a run of columns whose work stays under a fixed number of FLOPs. Tiles, their order, bundles and
batches follow from model, prompts and options alone, never from what was computed before: a resumed sweep computes the
missing tiles bit for bit as the undisturbed one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Final, Literal

from tracing.errors import SiteError, SpecError
from tracing.families.facts import ModelFacts, require_sweepable
from tracing.patching.flops import BlockFlops, in_words

Kind = Literal["resid", "attn", "mlp", "heads"]

POSITION_SITES: Final[dict[str, tuple[Kind, int]]] = {
    "resid_pre": ("resid", 0),
    "resid_mid": ("resid", 1),
    "resid_post": ("resid", 1),
    "attn_out": ("attn", 1),
    "mlp_out": ("mlp", 1),
    "z": ("attn", 1),
}
"""Site → what is patched, and the boundary relative to the layer."""

TILE_FLOPS: Final = 4e10
"""Work of a tile: a fraction of a second on two cores, so that a map is seen to fill."""

TOKENS_A_BATCH: Final = 2048
LOGITS_A_BATCH: Final = 2**26
"""Where the metric reads the whole vocabulary, a batch has at most this many logits."""

PACKED_TOKENS: Final = 256
"""How many tokens of one pair are packed into one sequence: more would waste attention on masked keys."""


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
    """A pair reduced to what planning needs: its tokens' number, and where its two prompts differ."""

    length: int
    differs: tuple[bool, ...]

    @property
    def first(self) -> int:
        """First position where the prompts differ."""
        return self.differs.index(True)


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs of one length whose prompts part at one position: they run as rows of one batch, without padding."""

    length: int
    first: int
    pairs: tuple[int, ...]
    differs: tuple[bool, ...]
    """True where any of the pairs differs."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One batch: the patches at `columns` of pairs `pairs[lo:hi]` of a group."""

    group: int
    lo: int
    hi: int
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedTile:
    """Columns `c0` … `c1` − 1 of one layer of one panel, and the batches that fill them."""

    panel: int
    layer: int
    c0: int
    c1: int
    kind: Kind
    boundary: int
    chunks: tuple[Chunk, ...]
    flops: float

    @property
    def key(self) -> tuple[Kind, int, int, int]:
        """Tiles of different sites with equal keys hold equal numbers."""
        return (self.kind, self.boundary, self.c0, self.c1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned sweep."""

    facts: ModelFacts
    sites: tuple[str, ...]
    per_head: bool
    from_end: bool
    optimise: Optimise
    n_columns: int
    pairs: int
    groups: tuple[Group, ...]
    tiles: tuple[PlannedTile, ...]
    bundles: tuple[tuple[PlannedTile, ...], ...]
    """Tiles that run together. A key is in one bundle only, whichever panels show its numbers."""
    baseline_flops: float
    naive_flops: float

    @property
    def cells(self) -> int:
        """Cells of all panels."""
        return len(self.sites) * self.facts.n_layers * self.n_columns

    @property
    def flops(self) -> float:
        """Matmul FLOPs of the whole sweep, baselines included; tiles with equal keys run once."""
        return self.baseline_flops + sum(tile.flops for bundle in self.bundles for tile in bundle)

    def position(self, group: Group, column: int) -> int:
        """The token position of a column in the prompts of a group; negative or ≥ length where there is none."""
        return column - (self.n_columns - group.length if self.from_end else 0)

    def is_known(self, group: Group, kind: Kind, boundary: int, column: int) -> bool:
        """True where a patch cannot change the destination's metric, for every pair of the group."""
        if self.per_head or not self.optimise.known:
            return False
        return cannot_matter(self.facts.n_layers, group.differs, kind, boundary, self.position(group, column))

    def start(self, group: Group, boundary: int, column: int) -> int:
        """First position that has to run for a patch: the others stand in the cache."""
        if boundary == self.facts.n_layers and self.optimise.last_token:
            return group.length - 1
        if not self.optimise.causal:
            return 0
        return group.first if self.per_head else self.position(group, column)

    def explain(self) -> str:
        """The plan in words: sizes, cost, and how that compares with one full forward a cell."""
        taken = [f.name for f in fields(Optimise) if getattr(self.optimise, f.name)]
        batches = sum(len(bundle[0].chunks) for bundle in self.bundles)
        axis = "heads" if self.per_head else "positions"
        return (
            f"{self.cells} cells ({', '.join(self.sites)}: {self.facts.n_layers} layers × {self.n_columns} {axis}, "
            f"{self.pairs} pairs) in {len(self.tiles)} tiles and {batches} batches. "
            f"{in_words(self.flops)} planned, {in_words(self.naive_flops)} with one full forward a cell and pair "
            f"({self.naive_flops / max(self.flops, 1.0):.1f} times as much). "
            f"Short cuts: {', '.join(taken) or 'none'}."
        )


def cannot_matter(n_layers: int, differs: Sequence[bool], kind: Kind, boundary: int, position: int) -> bool:
    """Whether patching this position leaves the destination's metric exactly as it is."""
    if not any(differs[: position + 1]):
        return True
    if boundary == n_layers and position != len(differs) - 1:
        return True
    return kind == "resid" and boundary == 0 and not differs[position]


def make_plan(
    facts: ModelFacts,
    pairs: Sequence[Lengths],
    *,
    sites: Sequence[str],
    per_head: bool,
    from_end: bool = True,
    optimise: Optimise | None = None,
    batch_rows: int | None = None,
    targets_only: bool = False,
) -> Plan:
    """Plan a sweep. `targets_only`: the metric reads only the answers' and foils' logits.

    Raises `SiteError` for a family or site that cannot be patched, or not on these axes, `SpecError` where there are
    no pairs.
    """
    _check_sites(facts, sites, per_head)
    if not pairs:
        raise SpecError("There are no prompt pairs to patch.", remedy="Add at least one clean/corrupted pair.")
    optimise = optimise or Optimise()
    longest = max(pair.length for pair in pairs)
    cost = BlockFlops.of(facts)
    n_columns = facts.n_heads if per_head else longest
    empty = Plan(
        facts=facts,
        sites=tuple(sites),
        per_head=per_head,
        from_end=from_end,
        optimise=optimise,
        n_columns=n_columns,
        pairs=len(pairs),
        groups=_groups(pairs),
        tiles=(),
        bundles=(),
        baseline_flops=2 * sum(cost.forward(facts, pair.length) for pair in pairs),
        naive_flops=_naive(facts, cost, pairs, sites, per_head),
    )
    budget = max(TILE_FLOPS, 8 * cost.forward(facts, longest))
    builder = _Builder(empty, cost, budget, batch_rows, targets_only)
    tiles = tuple(
        tile
        for layers in _coarse_first(facts.n_layers)
        for panel in range(len(sites))
        for layer in layers
        for tile in builder.tiles(panel, layer)
    )
    values = {field.name: getattr(empty, field.name) for field in fields(Plan)}
    return Plan(**{**values, "tiles": tiles, "bundles": tuple(builder.bundles(tiles))})


def _check_sites(facts: ModelFacts, sites: Sequence[str], per_head: bool) -> None:
    require_sweepable(facts.family)
    for site in sites:
        if site not in POSITION_SITES:
            raise SiteError(f"The site {site!r} cannot be patched.", remedy=f"Sites: {', '.join(POSITION_SITES)}.")
        if per_head and site != "z":
            raise SiteError(f"The site {site} has no head axis.", remedy="Layer × head maps need the site z.")


def _groups(pairs: Sequence[Lengths]) -> tuple[Group, ...]:
    def key(number: int) -> tuple[int, int]:
        return pairs[number].length, pairs[number].first

    groups = []
    for (length, first), members in groupby(sorted(range(len(pairs)), key=key), key):
        numbers = tuple(members)
        differs = tuple(any(pairs[n].differs[t] for n in numbers) for t in range(length))
        groups.append(Group(length, first, numbers, differs))
    return tuple(groups)


def _naive(
    facts: ModelFacts, cost: BlockFlops, pairs: Sequence[Lengths], sites: Sequence[str], per_head: bool
) -> float:
    full = [cost.forward(facts, pair.length) + (pair.length - 1) * cost.unembed for pair in pairs]
    cells = [facts.n_heads if per_head else pair.length for pair in pairs]
    patched = sum(flops * number for flops, number in zip(full, cells, strict=True))
    return len(sites) * facts.n_layers * patched + 2 * sum(full)


def _coarse_first(n_layers: int) -> tuple[tuple[int, ...], ...]:
    """Every fourth layer, then the ones halfway between, then the rest: a map is readable early."""
    return (
        tuple(range(0, n_layers, 4)),
        tuple(range(2, n_layers, 4)),
        tuple(range(1, n_layers, 2)),
    )


@dataclass(frozen=True, slots=True)
class _Builder:
    """Cuts one layer of one panel into tiles, and a tile into batches."""

    plan: Plan
    cost: BlockFlops
    budget: float
    batch_rows: int | None
    targets_only: bool

    def tiles(self, panel: int, layer: int) -> Iterable[PlannedTile]:
        kind, offset = POSITION_SITES[self.plan.sites[panel]]
        kind = "heads" if self.plan.per_head else kind
        boundary = layer + offset
        for c0, c1, flops in self._cuts(kind, boundary):
            chunks = tuple(
                chunk
                for number in range(len(self.plan.groups))
                for chunk in self._chunks(number, kind, boundary, c0, c1)
            )
            yield PlannedTile(panel, layer, c0, c1, kind, boundary, chunks, flops)

    def bundles(self, tiles: Sequence[PlannedTile]) -> Iterable[tuple[PlannedTile, ...]]:
        """Neighbouring tiles that fit into one batch and one tile's work, later boundaries joining earlier ones."""
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
        optimise, last = self.plan.optimise, bundle[-1]
        if not (optimise.suffix and optimise.batching) or len(tile.chunks) != 1 or tile.chunks != last.chunks:
            return False
        if tile.kind != last.kind or not last.boundary < tile.boundary < self.plan.facts.n_layers:
            return False
        chunk, group = tile.chunks[0], self.plan.groups[tile.chunks[0].group]
        rows = (len(bundle) + 1) * (chunk.hi - chunk.lo)
        tokens = rows * sum(group.length - self.plan.start(group, tile.boundary, c) for c in chunk.columns)
        fits = tokens <= TOKENS_A_BATCH and rows * len(chunk.columns) <= (self.batch_rows or self._most_rows())
        return fits and sum(one.flops for one in bundle) + tile.flops <= 2 * self.budget

    def _cuts(self, kind: Kind, boundary: int) -> Iterable[tuple[int, int, float]]:
        c0, flops = 0, 0.0
        for column in range(self.plan.n_columns):
            more = sum(self._column_flops(group, kind, boundary, column) for group in self.plan.groups)
            if column > c0 and flops + more > self.budget:
                yield c0, column, flops
                c0, flops = column, 0.0
            flops += more
        yield c0, self.plan.n_columns, flops

    def _column_flops(self, group: Group, kind: Kind, boundary: int, column: int) -> float:
        if not self._runs(group, kind, boundary, column):
            return 0.0
        plan, cost = self.plan, self.cost
        layers = plan.facts.n_layers - boundary
        start = plan.start(group, boundary, column)
        halves = (group.length - start if plan.per_head else 1) * cost.mlp if kind != "resid" else 0.0
        if kind == "heads":
            halves += (group.length - start) * cost.out
        unembed = 0.0 if self.targets_only and plan.optimise.columns else cost.unembed
        if not plan.optimise.suffix:
            return len(group.pairs) * (cost.forward(plan.facts, group.length) - cost.unembed + unembed)
        suffix = cost.suffix(layers, group.length, start, last_token=plan.optimise.last_token)
        return len(group.pairs) * (suffix + halves + unembed)

    def _runs(self, group: Group, kind: Kind, boundary: int, column: int) -> bool:
        exists = self.plan.per_head or 0 <= self.plan.position(group, column) < group.length
        return exists and not self.plan.is_known(group, kind, boundary, column)

    def _chunks(self, number: int, kind: Kind, boundary: int, c0: int, c1: int) -> Iterable[Chunk]:
        plan, group = self.plan, self.plan.groups[number]
        columns = [c for c in range(c0, c1) if self._runs(group, kind, boundary, c)]
        if not columns:
            return
        tokens = {
            c: group.length - plan.start(group, boundary, c) if plan.optimise.suffix else group.length for c in columns
        }
        if not plan.optimise.batching:
            yield from (Chunk(number, n, n + 1, (c,)) for n in range(len(group.pairs)) for c in columns)
            return
        at_once = self.batch_rows or max(1, min(TOKENS_A_BATCH // max(tokens.values()), self._most_rows()))
        for lo in range(0, len(group.pairs), at_once):
            hi = min(lo + at_once, len(group.pairs))
            for packed in self._packs(columns, tokens, hi - lo):
                yield Chunk(number, lo, hi, packed)

    def _most_rows(self) -> int:
        return TOKENS_A_BATCH if self.targets_only else max(1, LOGITS_A_BATCH // self.plan.facts.vocab_size)

    def _packs(self, columns: list[int], tokens: dict[int, int], rows: int) -> Iterable[tuple[int, ...]]:
        pack: list[int] = []
        size = 0
        for column in columns:
            if self.batch_rows is not None:
                full = (len(pack) + 1) * rows > self.batch_rows
            else:
                more = size + tokens[column]
                full = (
                    more > PACKED_TOKENS or more * rows > TOKENS_A_BATCH or (len(pack) + 1) * rows > self._most_rows()
                )
            if pack and full:
                yield tuple(pack)
                pack, size = [], 0
            pack.append(column)
            size += tokens[column]
        if pack:
            yield tuple(pack)
