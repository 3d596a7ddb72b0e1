"""Norms with their scale frozen, and what a direction behind one is before it.

A norm is N(x) = g ∘ c(x) / σ(x) + β, with c(x) = x − mean(x) for LayerNorm and x for RMSNorm. With σ held at the run's
own value it is linear, so a direction u behind it is the direction c(g ∘ u) / σ before it, and the constant u · β.
Gain and kind are not taken from the class's name: they are what reproduces the module on a probe.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tracing.engines.hooks import main_output
from tracing.errors import SiteError

ALIKE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""How exactly a formula reproduces a norm, relative to its largest value; RMSNorms of float64 models run in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class FrozenNorm:
    """A norm's parts in float64: gain and bias `[d_model]`, whether it centres, and the number under the root."""

    gain: Tensor
    bias: Tensor
    centred: bool
    eps: float
    rounding: float = 0.0
    """How far the module's own numbers are from these, relative: RMSNorms compute in float32."""

    @classmethod
    def of(cls, norm: nn.Module) -> "FrozenNorm":
        """The parts of a module. Raises `SiteError` for one that is neither LayerNorm nor RMSNorm."""
        weight = getattr(norm, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1:
            probe = torch.arange(1, len(weight) + 1, device=weight.device).mul(0.7).sin().add(0.3).to(weight.dtype)
            with torch.inference_mode():
                expected = main_output(norm(probe[None]))[0].double()
            for found in _candidates(norm, weight.double()):
                error = (found(probe.double()) - expected).abs().max() / expected.abs().max()
                if error <= ALIKE[weight.dtype]:
                    return replace(found, rounding=float(error))
        raise SiteError(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm, so its scale cannot be frozen.",
            remedy="Direct contributions exist where the final norm is linear but for its scale; patch instead.",
        )

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `[…, d_model]`, in float64."""
        return self.centre(x) / self.scale(x) * self.gain + self.bias

    def centre(self, x: Tensor) -> Tensor:
        """c(x)."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Tensor) -> Tensor:
        """σ(x) `[…, 1]`."""
        return (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()

    def before(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """For σ at `x` `[…, d_model]`: the direction before the norm `[…, d_model]` and the constant `[…]`."""
        return self.centre(self.gain * direction) / self.scale(x), direction @ self.bias


def _candidates(norm: nn.Module, weight: Tensor) -> list[FrozenNorm]:
    eps = next((float(e) for name in ("eps", "variance_epsilon") if (e := getattr(norm, name, None)) is not None), 0.0)
    bias = getattr(norm, "bias", None)
    shift = bias.double() if isinstance(bias, Tensor) else torch.zeros_like(weight)
    # Gemma keeps its gain less one.
    return [FrozenNorm(gain, shift, centred, eps) for centred in (True, False) for gain in (weight, 1 + weight)]
