"""Scores of all edges from what a few runs left, Σ over positions of Δ_source · gradient_reader, a chunk at a time.

Sources and readers stay as small as they are: z and W_O, head-space gradients and W_Q, W_K, W_V. For a chunk of tokens
they are written out, `[source, token, d_model]` and a layer's `[reader, token, d_model]`, and multiplied; so the memory
is that of a chunk, whatever the number of tokens. A layer's readers meet only the sources before them.

Readers gather several gradients (integration steps) and are written out once. With a norm in closed form
(`tracing.circuits.norms`) that is exact: Σ_k J_kᵀ Wᵀ g_k = W̃ᵀ Σ_k g_k/σ_k − Σ_k x̂_k·b_k, with γ and centring in W̃ and
b_k = mean over features of x̂_k·(W̃ᵀ g_k/σ_k), which is computed in head space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from tracing.circuits.layout import LETTERS, Layout
from tracing.circuits.norms import Norm, wide
from tracing.circuits.parts import Block
from tracing.circuits.runs import Writes
from tracing.circuits.taps import Gradients
from tracing.errors import ModelError
from tracing.families import ModelFacts
from tracing.families.identities import output_weight
from tracing.graph.heads import get_heads

CHUNK_BYTES: Final = 2**25
"""How much the sources of one chunk may take, written out."""
READY_BYTES: Final = {"cpu": 2**27, "cuda": 2**31}
"""How much of W_Q, W_K and W_V may be kept ready; more is made anew for each chunk."""
Tokens = slice | Tensor


class Weights:
    """The model's weights as the contraction needs them: which norms, and W_Q, W_K, W_V a head."""

    def __init__(
        self, blocks: Sequence[Block], layout: Layout, facts: ModelFacts, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Raises `ModelError` for weights that cannot be read head by head."""
        self.blocks, self.layout, self.facts, self.dtype, self.device = blocks, layout, facts, dtype, device
        self.width = facts.d_model
        for projection in blocks[0].projections.values():
            _require_readable(projection.module)
        self.sums = wide(dtype)
        low = self.sums != dtype and self.device.type == "cuda"
        self.work = dtype if low else self.sums
        """Low precision pays on a GPU, whose products sum in float32; elsewhere its products are slow or imprecise."""
        self.norms, self.shared, self.post = (
            [Norm.of(getattr(block, name), self.width, dtype, self.device) for block in blocks]
            for name in ("norm_attn", "shared_norm", "post_norm")
        )
        readers = facts.n_heads + 2 * facts.n_kv_heads
        size = len(blocks) * readers * facts.d_head * self.width * self.work.itemsize
        self._ready: dict[int, Tensor] | None = {} if size <= READY_BYTES.get(self.device.type, 0) else None

    def reading(self, layer: int) -> Tensor:
        """W_Q, W_K and W_V of a layer's readers with the norm's γ and centring, `[reader, d_head, d_model]`."""
        if self._ready is not None and layer in self._ready:
            return self._ready[layer]
        parts = [self._columns(layer, letter).permute(1, 2, 0) for letter in LETTERS]
        found = self.norms[layer].folded(torch.cat(parts).to(self.sums)).to(self.work)
        if self._ready is not None:
            self._ready[layer] = found
        return found

    def read(self, layer: int, x: Tensor) -> Tensor:
        """q, k and v of vectors `[token, d_model]` behind the norm's x̂, without any bias: `[token, reader, d_head]`."""
        gain = self.norms[layer].gain
        x = x if gain is None else x * gain
        modules = {self.blocks[layer].projections[letter].module: None for letter in LETTERS}
        found = {module: x @ output_weight(module).detach().to(x.dtype) for module in modules}
        return self.heads(layer, found)

    def writing(self, layer: int) -> Tensor:
        """W_O, `[head, d_head, d_model]`."""
        weight = output_weight(self.blocks[layer].out_proj).detach()
        return weight.reshape(self.facts.n_heads, -1, self.width)

    def heads(self, layer: int, projected: Mapping[nn.Module, Tensor]) -> Tensor:
        """A layer's q, k and v of what its projections gave, `[token, width]` each: `[token, reader, d_head]`."""
        block = self.blocks[layer]
        return torch.cat([self._split(projected[block.projections[one].module], block, one) for one in LETTERS], 1)

    def _columns(self, layer: int, letter: str) -> Tensor:
        """The weight of q, k or v as `[d_model, head, d_head]`, a view."""
        block = self.blocks[layer]
        return self._split(output_weight(block.projections[letter].module).detach(), block, letter)

    def _split(self, values: Tensor, block: Block, letter: str) -> Tensor:
        facts = self.facts
        for step in getattr(block.adapter, letter).steps(facts.n_heads, facts.n_kv_heads, facts.d_head):
            values = values[step[1]] if step[0] == "index" else get_heads(values, step)
        return values


def _require_readable(module: nn.Module) -> None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
        raise ModelError(
            f"The weight of a query, key or value projection ({type(module).__name__}) cannot be read head by head.",
            remedy="Load the model without quantisation or adapters around its projections.",
        )


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
        weight = self.weights.writing(layer).to(out.dtype)
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
            projected = {module: g.flatten(0, 1) for module, g in seen.projected[layer].items()}
            self._add_heads(layer, x, weights.heads(layer, projected).to(weights.sums))
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
            mine.units.append(unit.to(self.weights.work))
            mine.means.append((g * self.weights.read(layer, unit)).sum(-1) / self.weights.width)
        mine.sum = _plus(mine.sum, g)

    def written(self, layer: int, tokens: Tokens) -> Tensor:
        """A layer's q, k and v readers, its MLP and, of the last layer, the logits: `[reader, token, d_model]`."""
        weight = self.weights.reading(layer)
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
            read = readers.written(layer, chunk).flatten(1)
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
