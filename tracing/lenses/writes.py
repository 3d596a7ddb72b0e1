"""What is written to the residual stream at one position: by the embedding, each sublayer, head or neuron.

Where a family norms what a sublayer adds (sandwich norms), the parts lie before that norm, and a direction is taken
back through it with its scale frozen at the run's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from tracing.engines.hooks import hooks
from tracing.errors import SiteError
from tracing.families.identities import output_weight
from tracing.graph.lens import get
from tracing.lenses.frozen import FrozenNorm
from tracing.lenses.prompts import Batch
from tracing.lenses.reading import observe
from tracing.models.pretrained import Pretrained

SHORT: Final = {"attn_out": "a", "mlp_out": "m", "mixer_out": "mixer", "cross_out": "cross"}


@dataclass(frozen=True, slots=True, eq=False)
class Writes:
    """Values at the answer position of a batch, in the model's dtype: `final` and whole writes `[pair, d_model]`,
    z `[pair, head, d_head]`, neurons `[pair, d_mlp]`, by (site, layer)."""

    final: Tensor
    values: dict[tuple[str, int], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One write, whole or split by `split` heads or neurons through the linear map `projection`."""

    kind: str
    """ "embed", a site such as "attn_out", "head", "neuron", or "bias" (of a projection)."""
    layer: int
    names: tuple[str, ...]
    site: str
    projection: nn.Module | None = None
    norm: nn.Module | None = None
    """What norms the projection's output before it is added."""

    @property
    def size(self) -> int:
        """How many contributions it gives."""
        return len(self.names)

    def along(self, writes: Writes, direction: Tensor) -> Tensor:
        """Contributions `[pair, size]` along the directions `[pair, d_model]`, float64."""
        value = writes.values[self.site, self.layer].double()
        if self.projection is None:
            return (value * direction).sum(-1, keepdim=True)
        weight, bias = output_weight(self.projection).double(), getattr(self.projection, "bias", None)
        flat = value.flatten(1)
        constant = torch.zeros_like(direction[:, 0])
        if self.norm is not None:
            whole = flat @ weight + (0.0 if bias is None else bias.double())
            direction, constant = FrozenNorm.of(self.norm).before(whole, direction)
        if self.kind == "bias":
            return (constant + (0.0 if bias is None else direction @ bias.double()))[:, None]
        products = flat * (direction @ weight.T)
        return products.reshape(value.shape).sum(-1) if value.dim() == 3 else products


def parts_of(model: Pretrained, by: str) -> list[Part]:
    """The parts that the residual stream is split into, in the order of the layers.

    Raises `SiteError` where the family has no heads or neurons that write to the residual stream.
    """
    adapter, facts = model.adapter, model.facts
    sites = [name for name in ("attn_out", *dict(adapter.others), "mlp_out") if name in adapter.sites]
    if by == "head" and "z" not in adapter.sites:
        raise SiteError(
            f"The family {adapter.family} has no heads whose writes can be told apart.",
            remedy='Use by="component".',
        )
    if by == "neuron" and not adapter.neurons:
        raise SiteError(
            f"The blocks of {adapter.family} have no one down projection, so neurons cannot be told apart.",
            remedy='Use by="component" or by="head".',
        )
    found = [Part("embed", 0, ("embed",), "resid_pre")]
    for layer, block in enumerate(model.block_modules):
        for site in sites:
            name = f"{SHORT.get(site, site)}{layer}"
            if by == "head" and site == "attn_out":
                names = tuple(f"{name}.h{head}" for head in range(facts.n_heads))
                found += _split(block, layer, "head", name, names, "z", adapter.out_proj, adapter.attn_out)
            elif by == "neuron" and site == "mlp_out":
                names = tuple(f"{name}.n{n}" for n in range(_neurons(block.get_submodule(adapter.neurons))))
                found += _split(block, layer, "neuron", name, names, "neurons", adapter.neurons, adapter.mlp_out)
            else:
                found.append(Part(site, layer, (name,), site))
    return found


def _neurons(projection: nn.Module) -> int:
    return int(output_weight(projection).shape[0])


def _split(
    block: nn.Module, layer: int, kind: str, name: str, names: tuple[str, ...], site: str, path: str, added: str
) -> list[Part]:
    """A split sublayer: its parts, and its bias where there is one. `added` is where the write is read, if apart."""
    projection = block.get_submodule(path)
    behind = block.get_submodule(added) if added not in ("", path) else None
    norm = behind if behind is not None and _is_norm(behind) else None
    found = [Part(kind, layer, names, site, projection, norm)]
    bias = getattr(projection, "bias", None) is not None or getattr(norm, "bias", None) is not None
    return [*found, Part("bias", layer, (f"{name}.bias",), site, projection, norm)] if bias else found


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 1


def read_writes(model: Pretrained, parts: Sequence[Part], batch: Batch, places: Sequence[int]) -> Writes:
    """One forward; the writes of each row at its place."""
    values: dict[tuple[str, int], Tensor] = {}
    rows, at = torch.arange(batch.rows), torch.tensor(list(places))  # on the CPU they index values of any device

    def keep(name: str, layer: int, value: Tensor) -> None:
        values[name, layer] = value[rows, at].clone()

    def keep_neurons(layer: int, args: Any, kwargs: Any) -> None:
        value = get((args, kwargs), (("first",),))
        # OPT calls its projection on tokens side by side.
        keep("neurons", layer, value.unflatten(0, (batch.rows, -1)) if value.dim() == 2 else value)

    last = model.facts.n_layers - 1
    wanted = {(part.site, part.layer) for part in parts} | {("resid_post", last)}
    with hooks() as registered:
        for part in parts:
            if part.kind == "neuron":
                assert part.projection is not None
                registered.before(part.projection, partial(keep_neurons, part.layer))
        observe(model, batch.inputs, sorted(place for place in wanted if place[0] != "neurons"), keep)
    return Writes(values.pop(("resid_post", last)), values)
