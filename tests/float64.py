"""transformers models with the pieces that compute in float32 whatever the weights are, computed in float64 instead.

RMSNorm, the rotary table, and the softmax of eager attention: with them an unmodified float64 model is only exact to
about 1e-6.
"""

from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def widen(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Replace the pieces of this module (and, for the test's time, the softmax) by float64 ones."""
    for part in module.modules():
        name = type(part).__name__
        if name.endswith("RMSNorm"):
            part.forward = MethodType(_norm, part)  # type: ignore[method-assign]
        elif name.endswith("RotaryEmbedding"):
            part.forward = MethodType(_rotary, part)  # type: ignore[method-assign]
    softmax = torch.nn.functional.softmax

    def wide(values: Tensor, *args: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
        return softmax(values, *args, dtype=torch.float64 if values.dtype == torch.float64 else dtype, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "softmax", wide)
    return module


def _norm(self: Any, hidden: Tensor) -> Tensor:
    eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
    gain = 1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps) * gain


def _rotary(self: Any, hidden: Tensor, position_ids: Tensor, kind: str | None = None) -> tuple[Tensor, Tensor]:
    rope = self.config.rope_parameters
    rope = rope if kind is None else rope[kind]  # Gemma 3 has one table a kind of layer
    heads, width = self.config.num_attention_heads, self.config.hidden_size
    size = int((getattr(self.config, "head_dim", None) or width // heads) * rope.get("partial_rotary_factor", 1.0))
    frequencies = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = position_ids[..., None].double() * frequencies
    both = torch.cat([angles, angles], -1)
    return both.cos().to(hidden.dtype), both.sin().to(hidden.dtype)
