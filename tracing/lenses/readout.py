"""From a residual stream to logits, as the model itself does it: final norm, scale, unembedding with bias, softcap.

`Readout.error` compares that with the model's own logits on a prompt, and `checked` refuses a model whose end differs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tracing.engines.hooks import main_output
from tracing.errors import AdapterError, MetricError, SiteError
from tracing.families.certificate import TOLERANCE
from tracing.families.identities import deviation
from tracing.lenses.reading import observe
from tracing.models.pretrained import Pretrained


class Readout:
    """The end of one model: `readout(hidden)` are logits, float32 or wider."""

    def __init__(self, model: Pretrained) -> None:
        """Raises `SiteError` for a model without an unembedding."""
        adapter = model.adapter
        if not adapter.unembed:
            raise SiteError(
                f"The adapter {adapter.family} names no unembedding, so hidden states cannot be read as logits.",
                remedy="Wrap the model with its head: a causal language model, not its backbone.",
            )
        self.norm: nn.Module | None = model.part(adapter.final_norm) if adapter.final_norm else None
        self.unembed = model.part(adapter.unembed)
        self.cap = float(getattr(model.config, "final_logit_softcapping", None) or 0.0)
        # T5 with tied embeddings scales what it unembeds.
        self.scale = model.facts.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0

    @property
    def linear(self) -> bool:
        """Whether the unembedding is one linear map, so that single columns of it can be computed."""
        return type(self.unembed) is nn.Linear

    def __call__(self, hidden: Tensor, columns: Sequence[int] | None = None, *, capped: bool = True) -> Tensor:
        """Logits `[…, vocab]` of residuals `[…, d_model]`; with `columns`, only those; `capped` as the model does."""
        normed = (hidden if self.norm is None else self.norm(hidden)) * self.scale
        if columns is None:
            logits = main_output(self.unembed(normed))
        else:
            weight, bias = self.columns(columns, normed.device)
            logits = nn.functional.linear(normed.to(weight.dtype), weight, bias)
        # Differences of bfloat16 logits would lose most of their digits once more in a metric.
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.tanh(logits / self.cap) * self.cap if self.cap and capped else logits

    def columns(self, columns: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Rows `[column, d_model]` of the unembedding and its bias `[column]`."""
        assert isinstance(self.unembed, nn.Linear)
        index = torch.tensor(list(columns), device=device)
        bias = getattr(self.unembed, "bias", None)
        return self.unembed.weight[index], None if bias is None else bias[index]


def checked(model: Pretrained, inputs: Mapping[str, Tensor]) -> tuple[Readout, float]:
    """The readout of a model, and its largest deviation from the model's own logits on a prompt, relative to the
    largest logit.

    Raises `AdapterError` where that is more than rounding, `MetricError` where logits are not numbers.
    """
    readout, last = Readout(model), model.facts.n_layers - 1
    final: list[Tensor] = []
    output = observe(model, inputs, [("resid_post", last)], lambda *seen: final.append(seen[2].clone()), whole=True)
    with torch.inference_mode():
        logits = model.logits_of(output)
        found = readout(final[0])
        found = found[:, 0] if found.dim() > logits.dim() else found  # an image model answers at its class token
        error = deviation(found.double(), logits.double())
    if bool(logits.isnan().any()):
        raise MetricError("The logits of this model are not numbers.", remedy="Look at the weights, or run in float32.")
    # Mamba returns float32 whatever it computed in.
    rounding = max(TOLERANCE[model.dtype], TOLERANCE.get(logits.dtype, 0.0))
    if not error <= rounding:
        raise AdapterError(
            f"Final norm and unembedding of {model.family} do not give the model's own logits (off by {error:.1e}).",
            remedy="This version of the architecture does something between them that the adapter does not know.",
        )
    return readout, error
