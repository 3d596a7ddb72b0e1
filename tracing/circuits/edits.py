"""The two edits of exact edge patching: single edges, one a row, and whole circuits, one a row.

What an edge u → v ablated alone adds to v's copy of the residual stream is a constant of the two unpatched runs:

    Δ_u = u(ablated) − u(base);   heads behind a post norm P with input s: P(s + Δo_u) − P(s)

In a circuit the base of the difference is the live pass: Σ_u (u(ablated) − u(live)) over the ablated edges into v, and
the ablated heads of one layer pass its post norm together: P(s_live + Σ Δo_u) − P(s_live).
Sources: Hanna et al. 2024 (arXiv 2403.17806), `evaluate_graph`; Miller et al. 2024 (arXiv 2407.08734).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.circuits.layout import Layout
from tracing.circuits.parts import Block
from tracing.circuits.runs import Part
from tracing.circuits.walk import Copy, indices


@dataclass(slots=True, eq=False)
class Deltas:
    """Δ_u of every source between the base run and the ablated values, computed when first asked for."""

    layout: Layout
    blocks: Sequence[Block]
    part: Part
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def of(self, source: int) -> Tensor:
        """`[pair, T, d_model]`."""
        if source not in self._kept:
            self._compute(source)
        return self._kept[source]

    def _compute(self, source: int) -> None:
        place, base, ablated = self.layout.source_places[source], self.part.base, self.part.ablated
        if place.kind == "input":
            self._kept[source] = ablated.embedding - base.writes.embedding
        elif place.kind == "mlp":
            self._kept[source] = ablated.mlp[place.layer] - base.writes.mlp[place.layer]
        else:
            block, rows = self.blocks[place.layer], self.layout.heads(place.layer)
            writes = block.head_writes(ablated.z[place.layer] - base.writes.z[place.layer])
            for head, row in enumerate(range(rows.start, rows.stop)):
                self._kept[row] = writes[:, :, head]
                if block.post_norm is not None:
                    before = base.before_norm[place.layer]
                    self._kept[row] = block.post_norm.forward(before + writes[:, :, head]) - block.post_norm.forward(
                        before
                    )


@dataclass(slots=True, eq=False)
class EdgesEdit:
    """One edge a row: the copy of its reader gets Δ of its source. Rows lie edge by edge, pairs side by side."""

    deltas: Deltas
    edges: Sequence[tuple[int, int]]
    listens: bool = False

    def touches(self, readers: Sequence[int]) -> bool:
        """Whether an edge of the batch ends in one of these readers."""
        return any(reader in readers for _, reader in self.edges)

    def copies(self, readers: Sequence[int], live: Tensor) -> Iterator[Copy]:
        """The live stream plus Δ."""
        pairs = len(live) // len(self.edges)
        for reader in sorted({reader for _, reader in self.edges if reader in readers}):
            mine = [(number, source) for number, (source, to) in enumerate(self.edges) if to == reader]
            rows = rows_of([number for number, _ in mine], pairs, live.device)
            yield reader, rows, live[rows] + torch.cat([self.deltas.of(source) for _, source in mine])

    def wrote(self, layer: int, kind: str, value: Tensor) -> None:
        """Single edges need no live write: nothing before the reader changes."""


@dataclass(slots=True, eq=False)
class CircuitsEdit:
    """One circuit a row of `ablated` `[circuit, source, reader]`: every True edge carries ablated − live."""

    layout: Layout
    blocks: Sequence[Block]
    part: Part
    ablated: Tensor
    start: int
    """The block at which the walk starts: what earlier ones wrote is the base run's."""
    listens: bool = True
    _heads: dict[int, Tensor] = field(default_factory=dict)
    """By layer: ablated − live of every head, `[circuit, pair, head, T, d_model]`."""
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _mlps: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = self.part.base
        for layer in range(self.start):
            self.wrote(layer, "z", base.writes.z[layer].flatten(-2))
            if self.blocks[layer].post_norm is not None:
                self.wrote(layer, "sum", base.before_norm[layer])
            self.wrote(layer, "mlp", base.writes.mlp[layer])

    def touches(self, readers: Sequence[int]) -> bool:
        """Whether any circuit lacks an edge into one of these readers."""
        return bool(self.ablated[:, :, list(readers)].any())

    def wrote(self, layer: int, kind: str, value: Tensor) -> None:
        """Keep ablated − live where an ablated edge leaves that source."""
        pairs, heads = len(self.part.members), self.layout.heads(layer)
        live = value.reshape(-1, pairs, *value.shape[1:])
        if kind == "mlp":
            if self.ablated[:, self.layout.mlp(layer)].any():
                self._mlps[layer] = self.part.ablated.mlp[layer] - live
        elif self.ablated[:, heads].any():
            if kind == "sum":
                self._sums[layer] = live.clone()
                return
            z = self.part.ablated.z[layer]
            writes = self.blocks[layer].head_writes(z - torch.unflatten(live, -1, z.shape[-2:]))
            self._heads[layer] = writes.transpose(2, 3)

    def copies(self, readers: Sequence[int], live: Tensor) -> Iterator[Copy]:
        """The live stream plus Σ (ablated − live)."""
        circuits, pairs = len(self.ablated), len(self.part.members)
        own = [reader for reader in readers if self.touches([reader])]
        total = self._total(own, live.reshape(circuits, pairs, *live.shape[1:]))
        for number, reader in enumerate(own):
            mine = self.ablated[:, :, reader].any(1).nonzero()[:, 0]
            rows = rows_of(mine.tolist(), pairs, live.device)
            yield reader, rows, live[rows] + total[mine, number].flatten(0, 1)

    def _total(self, readers: Sequence[int], like: Tensor) -> Tensor:
        """Σ (ablated − live) over the ablated edges into each reader, `[circuit, reader, pair, T, d_model]`."""
        weights = self.ablated[:, :, list(readers)].to(like.dtype)
        circuits = len(weights)
        part = self.part
        embedding = part.ablated.embedding - part.base.writes.embedding
        total = torch.einsum("cr,ntd->crntd", weights[:, 0], embedding)
        for layer in range(len(self.blocks)):
            of_heads = weights[:, self.layout.heads(layer)]
            if layer in self._heads and of_heads.any():
                written = self._heads[layer].expand(circuits, *self._heads[layer].shape[1:])
                added = torch.einsum("chr,cnhtd->crntd", of_heads, written)
                total += self._behind_norm(layer, added)
            of_mlp = weights[:, self.layout.mlp(layer)]
            if layer in self._mlps and of_mlp.any():
                written = self._mlps[layer].expand(circuits, *self._mlps[layer].shape[1:])
                total += torch.einsum("cr,cntd->crntd", of_mlp, written)
        return total

    def _behind_norm(self, layer: int, added: Tensor) -> Tensor:
        """What reaches the stream of a change of the heads' sum."""
        norm = self.blocks[layer].post_norm
        if norm is None:
            return added
        before = self._sums[layer][:, None]
        changed: Tensor = norm.forward(before + added) - norm.forward(before)
        return changed


def rows_of(numbers: Sequence[int], pairs: int, device: torch.device) -> Tensor:
    """The batch rows of some edges or circuits: pairs side by side for each."""
    return (indices(numbers, device)[:, None] * pairs + torch.arange(pairs, device=device)).flatten()


def first_block(layout: Layout, ablated: NDArray[np.bool_]) -> int:
    """The first block that an ablated edge (`[…, source, reader]`) ends in; the number of blocks for the logits."""
    readers = np.flatnonzero(ablated.reshape(-1, ablated.shape[-1]).any(0))
    return min((layout.reader_places[int(reader)].layer for reader in readers), default=layout.n_layers)


def by_layer(layout: Layout, edges: Iterable[tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """Edges by the layer of their reader, first layers first."""
    found: dict[int, list[tuple[int, int]]] = {}
    for edge in edges:
        found.setdefault(layout.reader_places[edge[1]].layer, []).append(edge)
    return dict(sorted(found.items()))
