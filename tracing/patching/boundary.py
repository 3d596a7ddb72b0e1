"""A patch as a patch of the residual stream: what enters the next block where a row is patched.

By site, with the parts of `tracing.patching.halves` and everything else as in the destination's run:
- resid_pre, resid_post: the source's residual; resid_mid: what the second half makes of the source's;
- attn_out, mlp_out: the source's beside the destination's other parts;
- z, head_out, pattern: o + Σ over patched heads of Δ_h, with o what the destination's heads write together and Δ_h how
  much more the patched head writes: (z′_h − z_h)·W_O[h], or the given contribution less z_h·W_O[h]; the pattern a′
  gives z′_h = a′_h·v, with the destination's values. Then attention's norm, if there is one, and the second half;
- neurons: the down projection's output plus Δn · its row, or that of all neurons, and the rest of the block.
One head or neuron at a time is linear in what it adds, so every (position, unit) is computed once, however many rows
there are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tracing.engines.hooks import main_output
from tracing.families.identities import output_weight
from tracing.models import LanguageModel
from tracing.patching import halves
from tracing.patching.capture import Activations


@dataclass(frozen=True, slots=True, eq=False)
class Patched:
    """The patched tokens of an entry of one site and layer, on the device."""

    site: str
    layer: int
    where: Tensor
    """The distinct positions, `[u]`."""
    index: Tensor
    """Which of them each token has, `[n]`."""
    units: Tensor | None
    """The head or neuron of each token, `[n]`; None: all."""
    heads: Tensor | None
    """The distinct units, `[h]`."""
    which: Tensor | None
    """Which of them each token has, `[n]`."""

    @classmethod
    def of(cls, site: str, layer: int, positions: Tensor, units: Tensor | None, device: torch.device) -> "Patched":
        """From the position and unit of each token, `[n]`, on the CPU."""
        where, index = torch.unique(positions, return_inverse=True)
        if units is None:
            return cls(site, layer, where.to(device), index.to(device), None, None, None)
        heads, which = torch.unique(units, return_inverse=True)  # on the CPU: a GPU would be waited for
        return cls(site, layer, *(one.to(device) for one in (where, index, units, heads, which)))


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The residual stream of a batch of pairs, of which the destination's run is known."""

    model: LanguageModel
    base: Activations
    pairs: slice

    def patched(self, patch: Patched, source: Tensor) -> Tensor:
        """What leaves the site's block (of resid_pre: enters it) at the patched tokens, `[pair, n, d_model]`.

        `source` is the layer's, of all pairs.
        """
        given = source[self.pairs]
        if patch.site in ("resid_pre", "resid_post"):
            return given[:, patch.where][:, patch.index]
        if patch.site == "resid_mid":
            return halves.after_middle(self.model, patch.layer, given[:, patch.where])[:, patch.index]
        if patch.site in ("mlp_out", "neurons"):
            return self._after_mlp(patch, given)
        return self._after_attention(patch, given)

    def _own(self, site: str, patch: Patched) -> Tensor:
        """The destination's activation at the distinct positions, `[pair, u, …]`."""
        return self.base.sites[site][patch.layer][self.pairs][:, patch.where]

    # -- attention ----------------------------------------------------------------------------------------------------
    def _after_attention(self, patch: Patched, given: Tensor) -> Tensor:
        pre = self.base.boundary(patch.layer)[self.pairs][:, patch.where]
        mlp = self._own("mlp_out", patch) if self.model.adapter.residual == "parallel" else None
        if patch.units is None:
            attention = given[:, patch.where] if patch.site == "attn_out" else self._all_heads(patch, given)
            return halves.after_attention(self.model, patch.layer, pre, attention, mlp)[:, patch.index]
        attention = self._one_head(patch, given)
        mlp = None if mlp is None else mlp[:, patch.index]
        return halves.after_attention(self.model, patch.layer, pre[:, patch.index], attention, mlp)

    def _all_heads(self, patch: Patched, given: Tensor) -> Tensor:
        """attn_out at the distinct positions with every head patched."""
        model, layer = self.model, patch.layer
        if patch.site == "head_out":
            z = self._own("z", patch)
            more = given[:, patch.where].sum(-2) - z.flatten(2) @ output_weight(self._out_proj(layer))
            return halves.behind_heads(model, layer, self._written(z, layer) + more)
        z = given[:, patch.where] if patch.site == "z" else self._mixed(patch, given, None)
        return halves.attn_out(model, layer, z.flatten(2))

    def _one_head(self, patch: Patched, given: Tensor) -> Tensor:
        """attn_out at each token with its own head patched."""
        heads, which = patch.heads, patch.which
        assert heads is not None
        z = self._own("z", patch)
        out_proj = self._out_proj(patch.layer)
        weight = torch.unflatten(output_weight(out_proj), 0, tuple(z.shape[2:]))[heads]
        if patch.site == "head_out":
            more = given[:, patch.where][:, :, heads] - torch.einsum("puhd,hdm->puhm", z[:, :, heads], weight)
        else:
            new = given[:, patch.where][:, :, heads] if patch.site == "z" else self._mixed(patch, given, heads)
            more = torch.einsum("puhd,hdm->puhm", new - z[:, :, heads], weight)
        written = self._written(z, patch.layer)[:, patch.index] + more[:, patch.index, which]
        return halves.behind_heads(self.model, patch.layer, written)

    def _mixed(self, patch: Patched, pattern: Tensor, heads: Tensor | None) -> Tensor:
        """z of the source's pattern and the destination's values, `[pair, u, head, d_head]`."""
        values = self.base.sites["v"][patch.layer][self.pairs]
        chosen = torch.arange(pattern.shape[1], device=pattern.device) if heads is None else heads
        group = pattern.shape[1] // values.shape[2]
        rows = pattern[:, chosen][:, :, patch.where].to(values.dtype)
        return torch.einsum("phqk,pkhd->pqhd", rows, values[:, :, chosen // group])

    def _written(self, z: Tensor, layer: int) -> Tensor:
        return main_output(self._out_proj(layer)(z.flatten(2)))

    def _out_proj(self, layer: int) -> torch.nn.Module:
        return self.model.block_modules[layer].get_submodule(self.model.adapter.out_proj)

    # -- MLP ----------------------------------------------------------------------------------------------------------
    def _after_mlp(self, patch: Patched, given: Tensor) -> Tensor:
        model, layer, index = self.model, patch.layer, patch.index
        if patch.site == "mlp_out":
            out = given[:, patch.where][:, index]
        elif patch.units is None:
            out = halves.behind_neurons(model, layer, self._down(layer)(given[:, patch.where]))[:, index]
        else:
            own, down = self._own("neurons", patch), self._down(layer)
            more = given[:, patch.where[index], patch.units] - own[:, index, patch.units]
            row = output_weight(down)[patch.units]
            out = halves.behind_neurons(model, layer, down(own)[:, index] + more[..., None] * row)
        if model.adapter.residual == "parallel":
            before = self.base.boundary(layer)[self.pairs][:, patch.where] + self._own("attn_out", patch)
        else:
            before = self._own("resid_mid", patch)
        return halves.normed(model, layer, 1, before[:, index] + out)

    def _down(self, layer: int) -> torch.nn.Module:
        return self.model.block_modules[layer].get_submodule(self.model.adapter.neurons)
