"""Tuned lenses: an affine translator a layer before the model's own readout (Belrose et al. 2023, arXiv 2303.08112).

On disk, `<stem>.json` says {"format": "tuned_lens/1", "site": "resid_pre", "form": "affine" | "residual",
"n_layers": L, "d_model": D}, and `<stem>.safetensors` holds `layers.<l>.weight` `[d_model, d_model]` and
`layers.<l>.bias` `[d_model]`. "affine" reads h as W h + b, "residual" as h + W h + b, as the paper's library does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tracing.errors import ModelError
from tracing.models.pretrained import Pretrained
from tracing.results.files import read_files

FORMAT: Final = "tuned_lens/1"
Form = Literal["affine", "residual"]


@dataclass(frozen=True, slots=True, eq=False)
class TunedLens:
    """Translators `weights[l]` `[d_model, d_model]` and `biases[l]` `[d_model]` for one site of each layer."""

    site: str
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    form: Form = "affine"
    name: str = "tuned lens"

    @classmethod
    def identity(cls, model: Pretrained, site: str = "resid_pre") -> Self:
        """Translators that change nothing: the logit lens."""
        width, layers = model.facts.d_model, model.facts.n_layers
        return cls(
            site,
            tuple(torch.eye(width, dtype=model.dtype) for _ in range(layers)),
            tuple(torch.zeros(width, dtype=model.dtype) for _ in range(layers)),
            name="identity",
        )

    def __call__(self, layer: int, hidden: Tensor) -> Tensor:
        """What a residual `[…, d_model]` of a layer is read as, `[…, d_model]`, in its dtype."""
        weight, bias = (part[layer].to(hidden.device, hidden.dtype) for part in (self.weights, self.biases))
        translated = torch.nn.functional.linear(hidden, weight, bias)
        return hidden + translated if self.form == "residual" else translated

    def require_fits(self, model: Pretrained, site: str) -> None:
        """Raises `ModelError` where the translators are another site's, or of another model's shape."""
        facts = model.facts
        expected = [(facts.d_model, facts.d_model)] * facts.n_layers
        if self.site != site:
            raise ModelError(
                f"This tuned lens translates {self.site}, not {site}.", remedy=f"Read it with site={self.site!r}."
            )
        if [tuple(weight.shape) for weight in self.weights] != expected:
            raise ModelError(
                f"This tuned lens has {len(self.weights)} layers of width "
                f"{self.weights[0].shape[0] if self.weights else 0}, the model {facts.n_layers} of {facts.d_model}.",
                remedy="Load the lens that was trained for this model.",
            )

    def to_files(self, stem: str | Path) -> None:
        """Write `<stem>.json` and `<stem>.safetensors`."""
        facts = {
            "format": FORMAT, "site": self.site, "form": self.form, "name": self.name, "n_layers": len(self.weights),
            "d_model": self.weights[0].shape[0],
        }  # fmt: skip
        Path(f"{stem}.json").write_text(json.dumps(facts), encoding="utf-8")
        arrays = {f"layers.{n}.weight": weight.contiguous() for n, weight in enumerate(self.weights)}
        arrays |= {f"layers.{n}.bias": bias.contiguous() for n, bias in enumerate(self.biases)}
        save_file(arrays, f"{stem}.safetensors")

    @classmethod
    def from_files(cls, stem: str | Path) -> Self:
        """Read what `to_files` wrote. Raises `ModelError` for files or arrays that are missing, broken or misshapen.

        A missing bias means 0.
        """
        facts, arrays = read_files(stem, load_file, ModelError, "TunedLens.to_files")
        if facts.get("format") != FORMAT or facts.get("form") not in ("affine", "residual"):
            raise ModelError(
                f"{Path(stem).name}.json is no {FORMAT} file: it says {facts.get('format')!r}, {facts.get('form')!r}.",
                remedy='Its format is "tuned_lens/1", its form "affine" or "residual".',
            )
        missing = [key for key in ("d_model", "n_layers", "site") if key not in facts]
        if missing:
            raise ModelError(f"{Path(stem).name}.json has no {missing[0]!r}.", remedy="Write it with to_files.")
        width = int(facts["d_model"])
        weights = tuple(_part(arrays, n, "weight", (width, width)) for n in range(int(facts["n_layers"])))
        biases = tuple(_part(arrays, n, "bias", (width,)) for n in range(len(weights)))
        return cls(str(facts["site"]), weights, biases, facts["form"], str(facts.get("name", Path(stem).name)))


def _part(arrays: Mapping[str, Tensor], layer: int, kind: str, shape: tuple[int, ...]) -> Tensor:
    found = arrays.get(f"layers.{layer}.{kind}", torch.zeros(shape) if kind == "bias" else None)
    if found is None or tuple(found.shape) != shape:
        got = "missing" if found is None else f"{list(found.shape)}"
        raise ModelError(
            f"layers.{layer}.{kind} of the tuned lens is {got}, not {list(shape)}.",
            remedy="Store one weight [d_model, d_model] and one bias [d_model] a layer.",
        )
    return found
