"""Steering vectors: a direction in the residual stream that separates two sets of prompts.

    v_l = mean over positive prompts of h_l − mean over negative prompts of h_l

with h_l the site at layer l, at one position or averaged over all of a prompt (contrastive activation addition: Rimsky
et al. 2023, arXiv 2312.06681). `tracing.lenses.steered` adds it while a model writes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tracing.errors import MetricError, ModelError, SpecError, Stopped
from tracing.lenses.places import chosen
from tracing.lenses.prompts import Prompt, are_pairs, batches, is_whole, pairs_of, position_in, prompts_of
from tracing.lenses.reading import observe
from tracing.models.pretrained import Pretrained
from tracing.results.files import read_files

FORMAT: Final = "steering_vector/1"
SteeringSite = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
SITES: Final = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True, slots=True, eq=False)
class SteeringVector:
    """A direction `[d_model]` for one site of some layers; `facts` say what it was made of."""

    site: str
    vectors: dict[int, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def norms(self) -> dict[int, float]:
        """The length of each layer's vector."""
        return {layer: float(vector.norm()) for layer, vector in self.vectors.items()}

    def unit(self) -> Self:
        """The same directions with length 1. Raises `SpecError` where one is 0."""
        for layer, norm in self.norms.items():
            if not norm > 0:
                raise SpecError(
                    f"The steering vector of layer {layer} is 0, so it has no direction.",
                    remedy="Positive and negative prompts must differ before that layer at the position that is read.",
                )
        vectors = {layer: vector / vector.norm() for layer, vector in self.vectors.items()}
        return replace(self, vectors=vectors, facts={**self.facts, "unit": True})

    def require_fits(self, model: Pretrained) -> None:
        """Raises `ModelError` where the vector is of another width or depth, `SiteError` where the site is missing."""
        facts = model.facts
        for layer, vector in self.vectors.items():
            if not 0 <= layer < facts.n_layers or vector.shape != (facts.d_model,):
                raise ModelError(
                    f"This steering vector has {list(vector.shape)} numbers for layer {layer}; the model has "
                    f"{facts.n_layers} layers of width {facts.d_model}.",
                    remedy="Make the vector with this model.",
                )
        model.adapter.site(self.site, 0, facts)

    def to_files(self, stem: str | Path) -> None:
        """Write `<stem>.json` (format, site, layers, facts) and `<stem>.safetensors` (`layers.<l>` `[d_model]`)."""
        data = {"format": FORMAT, "site": self.site, "layers": list(self.vectors), "facts": self.facts}
        Path(f"{stem}.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        arrays = {f"layers.{layer}": vector.cpu().contiguous() for layer, vector in self.vectors.items()}
        save_file(arrays, f"{stem}.safetensors")

    @classmethod
    def from_files(cls, stem: str | Path) -> Self:
        """Read what `to_files` wrote. Raises `ModelError` for missing or broken files, and a layer without a vector."""
        data, arrays = read_files(stem, load_file, ModelError, "SteeringVector.to_files")
        if data.get("format") != FORMAT or any(f"layers.{layer}" not in arrays for layer in data.get("layers", ())):
            raise ModelError(
                f"{Path(stem).name}.json and its arrays are no {FORMAT}: the format says {data.get('format')!r}.",
                remedy="Give the stem that SteeringVector.to_files was given.",
            )
        return cls(data["site"], {int(layer): arrays[f"layers.{layer}"] for layer in data["layers"]}, data["facts"])


def steering_vector(
    model: Pretrained,
    positive: Any,
    negative: Any = None,
    *,
    layers: int | Sequence[int],
    site: SteeringSite = "resid_pre",
    position: int | Literal["last", "mean"] = "last",
    unit: bool = False,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SteeringVector:
    """The difference of means between two sets of prompts, or of the clean and corrupted prompts of pairs.

    Prompts may have any lengths, and the sets any sizes. `position` "last" reads where the model answers, "mean" the
    mean over a prompt's positions, a number that position (from the end where negative). Vectors have the model's
    dtype, float32 at least. `progress(done, total)` counts prompts.

    Raises `SpecError` for layers or a site that do not exist and for a missing set, `SiteError` where the family lacks
    the site, `PromptError` for prompts that cannot be read, `Stopped` once `should_stop()`.
    """
    if site not in SITES:
        raise SpecError(f"Steering does not act on {site!r}.", remedy=f"Sites: {', '.join(SITES)}.")
    if not is_whole(position) and position not in ("last", "mean"):
        raise SpecError(f"There is no position {position!r}.", remedy='Use "last", "mean" or the number of a position.')
    model.adapter.site(site, 0, model.facts)
    wanted = chosen([layers] if isinstance(layers, int) else layers, model.facts.n_layers, "layer")
    sets = _sets(model, positive, negative)
    total, done = sum(map(len, sets)), 0
    means = []
    for prompts in sets:
        rows: dict[int, list[Tensor]] = {layer: [] for layer in wanted}
        for one in batches(prompts, batch, model.device):
            if should_stop is not None and should_stop():
                raise Stopped
            _collect(model, prompts, one, site, position, rows)
            done += one.rows
            if progress is not None:
                progress(done, total)
        means.append({layer: torch.cat(parts).mean(0) for layer, parts in rows.items()})
    facts = {
        "family": model.family, "site": site, "position": position, "positive": len(sets[0]), "negative": len(sets[1]),
        "unit": False,
    }  # fmt: skip
    kind = torch.float64 if model.dtype == torch.float64 else torch.float32
    for layer in wanted:
        if not bool((means[0][layer] - means[1][layer]).isfinite().all()):
            raise MetricError(
                f"The steering vector of layer {layer} is not a number.",
                remedy="Look at the weights, or run in float32.",
            )
    found = SteeringVector(site, {layer: (means[0][layer] - means[1][layer]).to(kind) for layer in wanted}, facts)
    return found.unit() if unit else found


def _sets(model: Pretrained, positive: Any, negative: Any) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    if are_pairs(positive):
        if negative is not None:
            raise SpecError("Pairs have both sets already.", remedy="Leave negative out.")
        pairs = pairs_of(model, positive)
        return prompts_of(model, pairs, run="clean"), prompts_of(model, pairs, run="corrupted")
    if negative is None:
        raise SpecError("There are no negative prompts.", remedy="Give negative=, or pairs.")
    return prompts_of(model, positive), prompts_of(model, negative)


def _collect(
    model: Pretrained,
    prompts: Sequence[Prompt],
    batch: Any,
    site: str,
    position: int | str,
    rows: dict[int, list[Tensor]],
) -> None:
    """Add `[row, d_model]` of a batch, in float64, to each layer's rows."""
    at = None
    if position != "mean":
        asked = position if isinstance(position, int) else None
        places = [position_in(prompts[number], asked, model) for number in batch.numbers]
        at = torch.arange(batch.rows), torch.tensor(places)

    def keep(_: str, layer: int, value: Tensor) -> None:
        rows[layer].append((value.double().mean(1) if at is None else value[at].double()).cpu())

    observe(model, batch.inputs, [(site, layer) for layer in rows], keep)
