"""Edges ablated by brute force on a transformers model: plain hooks at its sites, whole modules, one forward a thing.

Independent of `tracing`: no weight is sliced, no norm is called by itself, nothing is batched or cached.

- What an ablated source adds to a reader's copy of the residual stream is read off a forward in which only those
  sources are replaced at their own site (heads: z, read behind everything attention's sum passes).
- What a reader makes of its copy is read off a forward in which the whole block reads that copy (for an MLP behind
  attention, with attention's output held where it is).
- The circuit's forward then has just that output of that reader put in its place; readers are taken in order, so each
  sees the ones before it live.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from tests.parity.hooks import Place, Visit, Where, reads, writes

Edit = tuple[Place, Visit]


def circuit_logits(
    module: nn.Module,
    where: Where,
    layers: int,
    base: Tensor,
    source: Tensor,
    ablated: Mapping[str, Sequence[str]],
    changed: Visit | None = None,
) -> Tensor:
    """Logits `[row, position, vocabulary]` of a run of `base` ids where each reader's listed sources are ablated.

    Readers and sources have their usual names; the ablated values are the sources' in a run of the `source` ids,
    or what `changed` makes of each of them, `[row, position, …]`.
    """
    surgery = _Surgery(module, where, {"input_ids": base, "use_cache": False})
    surgery.read_source({"input_ids": source, "use_cache": False}, layers)
    if changed is not None:
        surgery.source = {place: changed(value) for place, value in surgery.source.items()}  # type: ignore[misc]
    for layer in range(layers):
        for reader in [name for name in ablated if name.startswith(f"a{layer}.")]:
            surgery.rewrite_head(reader, layer, ablated[reader])
        if f"m{layer}" in ablated:
            surgery.rewrite_mlp(layer, ablated[f"m{layer}"])
    if "logits" not in ablated:
        return surgery.run()[0]
    change = surgery.change(ablated["logits"])
    return surgery.run([(where.place("resid_post", layers - 1), lambda part: part + change)])[0]


class _Surgery:
    """A forward with more and more readers' outputs put in place."""

    def __init__(self, module: nn.Module, where: Where, inputs: Mapping[str, object]) -> None:
        self.module, self.where, self.inputs = module, where, inputs
        self.edits: list[Edit] = []
        self.source: dict[str, Tensor] = {}

    def run(self, edits: Sequence[Edit] = (), read: Sequence[Place] = ()) -> tuple[Tensor, list[Tensor]]:
        """The forward as it stands, with more edits for this once."""
        return writes(self.module, self.inputs, [*self.edits, *edits], read)

    def read_source(self, inputs: Mapping[str, object], layers: int) -> None:
        """What every source wrote in the other run."""
        places = [self.where.place("embed", None)]
        for layer in range(layers):
            places += [self.where.place("z", layer), self.where.place("mlp_out", layer)]
        found = reads(self.module, inputs, places)[0]
        self.source = {place.path + place.side: value for place, value in zip(places, found, strict=True)}

    def change(self, sources: Sequence[str]) -> Tensor:
        """Σ (ablated − live) over these sources, as it arrives in the residual stream."""
        total = torch.zeros(())
        heads: dict[int, list[int]] = {}
        for name in sources:
            if name == "input":
                total = total + self._difference(self.where.place("embed", None))
            elif name.startswith("m"):
                total = total + self._difference(self.where.place("mlp_out", int(name[1:])))
            else:
                layer, head = name[1:].split(".h")
                heads.setdefault(int(layer), []).append(int(head))
        for layer, several in heads.items():
            z, out = self.where.place("z", layer), self.where.place("attn_out", layer)
            replaced = (z, partial(_put, several, self.source[z.path + z.side]))
            total = total + self.run([replaced], [out])[1][0] - self.run((), [out])[1][0]
        return total

    def _difference(self, place: Place) -> Tensor:
        return self.source[place.path + place.side] - self.run((), [place])[1][0]

    def rewrite_head(self, reader: str, layer: int, sources: Sequence[str]) -> None:
        """Give one head's q, k or v what it is when the block reads its copy."""
        stem, letter = reader.removesuffix(">").split("<")
        head = int(stem.split(".")[1].lstrip("hkv"))
        change, place = self.change(sources), self.where.place(letter, layer)
        block = self.where.place("resid_pre", layer)
        value = self.run([(block, lambda part: part + change)], [place])[1][0]
        self.edits.append((place, partial(_put, [head], value)))

    def rewrite_mlp(self, layer: int, sources: Sequence[str]) -> None:
        """Give the MLP what it is when it alone reads its copy."""
        change, place = self.change(sources), self.where.place("mlp_out", layer)
        attention = self.where.place("attn_out", layer)
        held = self.run((), [attention])[1][0]
        shifted = [(self.where.place("resid_pre", layer), lambda part: part + change), (attention, lambda part: held)]
        value = self.run(shifted, [place])[1][0]
        # A copy each time: some blocks add attention to the very tensor.
        self.edits.append((place, lambda part: value.clone()))


def _put(heads: Sequence[int], values: Tensor, part: Tensor) -> Tensor:
    part = part.clone()
    part[..., list(heads), :] = values[..., list(heads), :]
    return part
