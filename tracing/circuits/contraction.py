"""Scores of all edges from what a few runs left, Σ over positions of Δ_source · gradient_reader, a chunk at a time.

Sources and readers stay as small as they are: z and W_O, head-space gradients and W_Q, W_K, W_V. For a chunk of tokens
they are written out, `[source, token, d_model]` and a layer's `[reader, token, d_model]`, and multiplied; so the memory
is that of a chunk, whatever the number of tokens. A layer's readers meet only the sources before them.

Readers gather several gradients (integration steps) and are written out once. With a norm in closed form
(`tracing.circuits.norms`) that is exact: Σ_k J_kᵀ Wᵀ g_k = W̃ᵀ Σ_k g_k/σ_k − Σ_k x̂_k·b_k, with γ and centring in W̃ and
b_k = mean over features of x̂_k·(W̃ᵀ g_k/σ_k), which is computed in head space.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from tracing.circuits.layout import LETTERS, Layout
from tracing.circuits.norms import Norm, wide
from tracing.circuits.parts import Block, Projection
from tracing.circuits.runs import Writes
from tracing.circuits.taps import Gradients
from tracing.families.identities import output_weight

CHUNK_BYTES: Final = 2**25
"""How much the sources of one chunk may take, written out."""
Tokens = slice | Tensor


class Weights:
    """The model's weights as the contraction needs them: which norms, and W_Q, W_K, W_V a head."""

    def __init__(self, blocks: Sequence[Block], layout: Layout, width: int, dtype: torch.dtype, device: torch.device):
        self.blocks, self.layout, self.width, self.dtype, self.device = blocks, layout, width, dtype, device
        self.sums = wide(dtype)
        low = self.sums != dtype and device.type == "cuda"
        self.work = dtype if low else self.sums
        """Low precision pays on a GPU, whose products sum in float32; elsewhere its products are slow or imprecise."""
        self.norms = [Norm.of(block.norm_attn, width, dtype, device) for block in blocks]
        self.shared = [Norm.of(block.shared_norm, width, dtype, device) for block in blocks]
        self.post = [Norm.of(block.post_norm, width, dtype, device) for block in blocks]

    def reading(self, layer: int) -> Tensor:
        """W_Q, W_K and W_V of a layer's readers with the norm's γ and centring, `[reader, d_head, d_model]`."""
        block = self.blocks[layer]
        rows = [_rows(block.projections[letter]).to(self.sums) for letter in LETTERS]
        return self.norms[layer].folded(torch.cat(rows))

    def writing(self, layer: int, heads: int) -> Tensor:
        """W_O, `[head, d_head, d_model]`."""
        weight = output_weight(self.blocks[layer].out_proj).detach()
        return weight.reshape(heads, -1, self.width)

    def head_gradients(self, layer: int, projected: dict[object, Tensor]) -> Tensor:
        """Gradients of a layer's q, k and v, `[token, reader, d_head]`."""
        parts = []
        for letter in LETTERS:
            projection = self.blocks[layer].projections[letter]
            parts.append(projected[projection.module].flatten(0, 1)[:, projection.columns])
        return torch.cat(parts, 1)


def _rows(projection: Projection) -> Tensor:
    """The weight of one of q, k, v as `[head, d_head, d_model]`."""
    return output_weight(projection.module).detach().T[projection.columns]


@dataclass(slots=True)
class Sources:
    """What patching every source would change, in compact form; tokens are pairs and positions side by side."""

    weights: Weights
    embedding: Tensor
    """`[token, d_model]`"""
    z: list[Tensor]
    """`[token, head, d_head]`"""
    mlp: list[Tensor]
    before_norm: list[Tensor]
    """Sandwich norms: where the norm behind attention is differentiated, `[token, d_model]`; else empty."""

    @classmethod
    def between(cls, weights: Weights, own: Writes, patched: Writes, before_norm: Sequence[Tensor]) -> "Sources":
        """Patched values minus a run's own ones."""
        return cls(
            weights,
            (patched.embedding - own.embedding).flatten(0, 1),
            [(a - b).flatten(0, 1) for a, b in zip(patched.z, own.z, strict=True)],
            [(a - b).flatten(0, 1) for a, b in zip(patched.mlp, own.mlp, strict=True)],
            [x.flatten(0, 1) for x in before_norm],
        )

    def written(self, rows: slice, tokens: Tokens) -> Tensor:
        """Sources `rows` as `[source, token, d_model]`."""
        weights, layout = self.weights, self.weights.layout
        start, stop = rows.start, rows.stop
        out = self.embedding.new_empty(stop - start, self.embedding[tokens].shape[0], weights.width, dtype=weights.work)
        if start == 0:
            out[0] = self.embedding[tokens]
        for layer in range(layout.n_layers):
            heads, mlp = layout.heads(layer), layout.mlp(layer)
            if start <= heads.start < stop:
                self._write_heads(out[heads.start - start : heads.stop - start], layer, tokens)
            if start <= mlp < stop:
                out[mlp - start] = self.mlp[layer][tokens]
        return out

    def _write_heads(self, out: Tensor, layer: int, tokens: Tokens) -> None:
        z = self.z[layer][tokens].transpose(0, 1).to(out.dtype)
        weight = self.weights.writing(layer, z.shape[0]).to(out.dtype)
        if not self.before_norm:
            torch.bmm(z, weight, out=out)
            return
        out.copy_(self.weights.post[layer].push(self.before_norm[layer][tokens], torch.bmm(z, weight)))


@dataclass(slots=True)
class _Heads:
    """The q, k and v readers of one layer: gradients in head space, gathered over steps."""

    sum: Tensor | None = None
    """Σ_k g_k/σ_k, `[token, reader, d_head]`."""
    units: list[Tensor] = field(default_factory=list)
    """x̂_k `[token, d_model]`, and with it b_k `[token, reader]`."""
    means: list[Tensor] = field(default_factory=list)
    apart: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """(x, g) a step, where the norm has no closed form."""


@dataclass(slots=True)
class Readers:
    """Gradients of all readers, gathered over integration steps, in compact form."""

    weights: Weights
    heads: list[_Heads]
    mlp: list[Tensor | None]
    """`[token, d_model]` a layer."""
    final: Tensor | None = None

    @classmethod
    def empty(cls, weights: Weights) -> "Readers":
        """Readers without any gradient yet."""
        n_layers = weights.layout.n_layers
        return cls(weights, [_Heads() for _ in range(n_layers)], [None] * n_layers)

    @torch.no_grad()
    def add(self, seen: Gradients, first: int = 0) -> None:
        """Add a step's gradients, of layers from `first` on."""
        weights = self.weights
        for layer in range(first, weights.layout.n_layers):
            x = seen.attn_in[layer].flatten(0, 1)
            g = weights.head_gradients(layer, seen.projected[layer])  # type: ignore[arg-type]
            self._add_heads(layer, x, g.to(weights.sums))
            mlp = seen.mlp[layer].flatten(0, 1)
            self.mlp[layer] = _plus(self.mlp[layer], weights.shared[layer].pull(x, mlp).to(weights.sums))
        self.final = _plus(self.final, seen.final.flatten(0, 1).to(weights.sums))

    def _add_heads(self, layer: int, x: Tensor, g: Tensor) -> None:
        norm, mine = self.weights.norms[layer], self.heads[layer]
        if not norm.closed:
            mine.apart.append((x, g))
            return
        if norm.kind != "none":
            unit, inverse = norm.unit(x)
            g = g * inverse[..., None]
            weight = self.weights.reading(layer)
            along = (unit @ weight.flatten(0, 1).T).view(g.shape)
            mine.units.append(unit.to(self.weights.work))
            mine.means.append((g * along).sum(-1) / self.weights.width)
        mine.sum = _plus(mine.sum, g)

    def written(self, layer: int, tokens: Tokens, weight: Tensor) -> Tensor:
        """A layer's q, k and v readers, its MLP and, of the last layer, the logits: `[reader, token, d_model]`.

        `weight` is `Weights.reading(layer)` in the precision of the products.
        """
        more = [self.mlp[layer]]
        if layer == self.weights.layout.n_layers - 1:
            more.append(self.final)
        first = more[0]
        assert first is not None
        n_heads = weight.shape[0]
        out = first.new_empty(n_heads + len(more), first[tokens].shape[0], self.weights.width, dtype=weight.dtype)
        for n, one in enumerate(more):
            assert one is not None
            out[n_heads + n] = one[tokens]
        self._write_heads(out[:n_heads], layer, tokens, weight)
        return out

    def _write_heads(self, out: Tensor, layer: int, tokens: Tokens, weight: Tensor) -> None:
        mine = self.heads[layer]
        if mine.sum is not None:
            torch.bmm(mine.sum[tokens].transpose(0, 1).to(weight.dtype), weight, out=out)
        else:
            out.zero_()
        if len(mine.units) == 1:
            unit, mean = mine.units[0][tokens], mine.means[0][tokens].to(weight.dtype)
            out.addcmul_(unit[None], mean.T[:, :, None], value=-1)
        elif mine.units:
            units = torch.stack([unit[tokens] for unit in mine.units], 1)
            means = torch.stack([mean[tokens] for mean in mine.means], 2).to(weight.dtype)
            out.sub_(torch.bmm(means, units).transpose(0, 1))
        for x, g in mine.apart:
            plain = torch.bmm(g[tokens].transpose(0, 1), weight.to(g.dtype))
            out += self.weights.norms[layer].pull(x[tokens], plain).to(out.dtype)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total.add_(more)


@torch.no_grad()
def contract(sources: Sources, readers: Readers, tokens: Tokens, *, rows: slice | None = None) -> Tensor:
    """Σ over `tokens` of Δ_source · gradient_reader, `[source, reader]` with zeros where there is no edge.

    With `rows`, only those sources (neighbours), and only readers behind the first of them.
    """
    weights = sources.weights
    layout = weights.layout
    rows = rows or slice(0, len(layout.sources))
    out = torch.zeros(len(layout.sources), len(layout.readers), dtype=weights.sums, device=weights.device)
    first = max(0, layout.source_places[rows.start].layer)
    for chunk in chunks(tokens, rows.stop - rows.start, weights):
        written = sources.written(rows, chunk).flatten(1)
        for layer in range(first, layout.n_layers):
            last = layer == layout.n_layers - 1
            # Those before this layer's MLP; before the logits, all. What is no edge is masked below.
            stop = min(rows.stop, len(layout.sources) if last else layout.mlp(layer))
            if stop <= rows.start:
                continue
            columns = slice(layout.reads(layer, "qkv").start, layout.mlp_reads(layer) + 1 + last)
            read = readers.written(layer, chunk, weights.reading(layer).to(weights.work)).flatten(1)
            out[rows.start : stop, columns] += _product(written[: stop - rows.start], read, weights)
    return out * torch.from_numpy(layout.real).to(out)


def _product(left: Tensor, right: Tensor, weights: Weights) -> Tensor:
    if weights.work != weights.sums:
        return torch.mm(left, right.T, out_dtype=weights.sums)
    return left @ right.T


def chunks(tokens: Tokens, n_sources: int, weights: Weights) -> list[Tokens]:
    """The tokens cut so that the sources of each chunk, written out, keep to `CHUNK_BYTES`."""
    at_once = max(1, CHUNK_BYTES // (n_sources * weights.width * weights.work.itemsize))
    if isinstance(tokens, slice):
        return [slice(lo, min(lo + at_once, tokens.stop)) for lo in range(tokens.start, tokens.stop, at_once)]
    return list(torch.split(tokens, at_once))
