"""The derivative of a model's norms, in closed form where the norm is one of the two usual kinds.

LayerNorm and RMSNorm of x are γ·x̂ (+ β), with x̂ = (x − μ)/σ or x/σ and σ² = mean square (about μ) + ε. Both have

    Jᵀc = (γc − [mean(γc)] − x̂·mean(x̂·γc)) / σ        (the bracket for LayerNorm only)

so a cotangent that is a linear map of few numbers stays cheap: γ and the centring go into the map, what remains is one
multiple of x̂. Which kind a module is, and its γ, is found by calling it, not by its class; any other norm is
differentiated by autograd.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from tracing.engines.hooks import main_output

Kind = Literal["none", "layer", "rms", "other"]
SCALES: Final = (1.0, 1e-2)
"""Sizes of the probes: the small one tells one ε from another."""
TOLERANCE: Final = {torch.float64: 1e-5, torch.float32: 1e-5}
"""Relative; norms compute in float32 inside even where the weights are float64."""
LOW_PRECISION: Final = 3e-2


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A norm (or none) and what is known of it."""

    module: nn.Module | None
    kind: Kind
    gain: Tensor | None = None
    """γ `[d_model]`, in float32 or wider."""
    eps: float = 0.0

    @classmethod
    def of(cls, module: nn.Module | None, width: int, dtype: torch.dtype, device: torch.device) -> "Norm":
        """Find out which kind a module is by calling it on a few vectors."""
        if module is None or isinstance(module, nn.Identity):
            return cls(module, "none")
        eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
        if not isinstance(eps, float):
            return cls(module, "other")
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(3, width, generator=generator, dtype=torch.float64).to(device, dtype)
        for gain in _gains(module, width, wide(dtype)):
            for kind in ("layer", "rms"):
                found = cls(module, kind, gain, eps)
                if all(found._is_right(probe * scale) for scale in SCALES):
                    return found
        return cls(module, "other")

    @torch.no_grad()
    def _is_right(self, x: Tensor) -> bool:
        assert self.module is not None
        assert self.gain is not None
        bias = main_output(self.module.forward(torch.zeros_like(x)))
        found = (main_output(self.module.forward(x)) - bias).to(self.gain.dtype)
        expected = self.gain * self.unit(x)[0]
        allowed = TOLERANCE.get(x.dtype, LOW_PRECISION) * float(expected.abs().max())
        return found.shape == expected.shape and float((found - expected).abs().max()) <= allowed

    @property
    def closed(self) -> bool:
        """Whether the derivative is known in closed form."""
        return self.kind != "other"

    def unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x̂ `[…, d_model]` and 1/σ `[…, 1]` of a layer or RMS norm, in float32 or wider."""
        x = x.to(wide(x.dtype))
        if self.kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        inverse = (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return x * inverse, inverse

    def folded(self, weight: Tensor) -> Tensor:
        """A map `[…, d_model]` into the norm's input: γ and the centring applied; / σ and the multiple of x̂ remain."""
        if self.gain is None:
            return weight
        weight = weight.to(self.gain.dtype) * self.gain
        return weight - weight.mean(-1, keepdim=True) if self.kind == "layer" else weight

    def pull(self, x: Tensor, cotangent: Tensor) -> Tensor:
        """Jᵀc at x, for cotangents of x's shape or with axes before it."""
        if self.kind == "none":
            return cotangent
        if not self.closed:
            assert self.module is not None
            with torch.enable_grad():
                leaf = x.detach().expand(cotangent.shape).requires_grad_()
                output = main_output(self.module.forward(leaf))
                (found,) = torch.autograd.grad(output, leaf, cotangent.to(output.dtype))
            return found
        unit, inverse = self.unit(x)
        folded = self.folded(cotangent)
        return (folded - unit * (folded * unit).mean(-1, keepdim=True)) * inverse

    def push(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Jv at x, for tangents of x's shape or with axes before it."""
        if self.kind == "none":
            return tangent
        if not self.closed:
            assert self.module is not None
            forward = self.module.forward
            points = x.detach().to(tangent.dtype).expand(tangent.shape).clone()
            moved: Tensor = torch.func.jvp(lambda at: main_output(forward(at)), (points,), (tangent,))[1]
            return moved
        assert self.gain is not None
        unit, inverse = self.unit(x)
        tangent = tangent.to(unit.dtype)
        if self.kind == "layer":
            tangent = tangent - tangent.mean(-1, keepdim=True)
        return self.gain * (tangent - unit * (tangent * unit).mean(-1, keepdim=True)) * inverse


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision that sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gains(module: nn.Module, width: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """What γ may be: the weight, 1 + the weight (Gemma), or 1."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == (width,):
        yield weight.detach().to(dtype)
        yield 1 + weight.detach().to(dtype)
    elif weight is None:
        first = next(module.buffers(), None)
        yield torch.ones(width, dtype=dtype, device=None if first is None else first.device)
