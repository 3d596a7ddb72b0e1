"""The attention of families that do not use transformers' attention interface: falcon, bloom, gptj and their like.

Each function runs the module's own code and shows a visitor what it wants to see. They are called only in a thread that
taps the module; `attention.py` sends every other thread straight to the original.

- `_attn` families (gptj, codegen, gpt_neo): q, k, v are the arguments of `_attn`; the softmax inside it is watched.
- bloom: the forward reshapes q, k and v, in that order, before its product; its softmax is watched.
- falcon: the forward hands q, k, v to scaled_dot_product_attention, or multiplies them itself in its eager branch,
  where nothing shows v before the softmax. So the forward is sent to the former, and a formula stands in for it
  wherever the model would run the latter: the only formula of a family that is repeated here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody reads
from torch.overrides import TorchFunctionMode

from tracing.engines.attention_watch import SOFT, Job, Watch, additive_mask, called_from

SDPA = F.scaled_dot_product_attention


def run_attn(original: Callable[..., Any], job: Job, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`module._attn(query, key, value, ...)` of gptj, codegen and gpt_neo, which is always eager."""
    query, key, value, *rest = args
    query, key, value = (job.show(kind, x) for kind, x in (("q_rot", query), ("k_rot", key), ("v", value)))
    with Watch(job, value.dtype, keys=key.shape[-2]):
        return original(query, key, value, *rest, **kwargs)


class _BloomWatch(Watch):
    """Also shows q, k and v: the first three tensors that the forward reshapes."""

    reshaped = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.reshape and self.reshaped < 3 and called_from(self.job.code):
            kind = ("q_rot", "k_rot", "v")[self.reshaped]
            self.reshaped += 1
            return self.job.show(kind, args[0]).reshape(*args[1:])
        return super().__torch_function__(func, types, args, kwargs)


def run_bloom(original: Callable[..., Any], job: Job, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`BloomAttention.forward`, which is always eager. Bloom rotates nothing: q_rot and k_rot are q and k."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    with _BloomWatch(job, hidden.dtype):
        return original(*args, **kwargs)


class _FalconWatch(TorchFunctionMode):
    """Stands in for the forward's scaled_dot_product_attention. `pattern` is set once the eager formula was used.

    `eager` says that the model itself would run its eager branch, which (other than its sdpa branch, whose mask already
    holds the alibi) adds `alibi` `[batch * head, 1, key]` to the product.
    """

    def __init__(self, module: Any, job: Job, *, eager: bool, alibi: Tensor | None) -> None:
        super().__init__()
        self.module, self.job, self.eager, self.alibi = module, job, eager, alibi
        self.pattern: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is SDPA and called_from(self.job.code):
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool
    ) -> Tensor:
        query, key, value = (self.job.show(kind, x) for kind, x in (("q_rot", query), ("k_rot", key), ("v", value)))
        # The eager branch adds whatever mask it is given, so a boolean one (sdpa and output_attentions) adds 0 or 1.
        mask = attn_mask if self.eager else additive_mask(attn_mask, query, key, causal=is_causal)
        if self.eager or self.job.eager or self.job.written & SOFT:
            self.pattern = self._weights(query, key, mask)
            if self.alibi is not None:  # the only branches with dropout
                self.pattern = self.module.attention_dropout(self.pattern)
            return self.pattern @ value
        out = SDPA(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal)
        if self.job.kinds & SOFT:
            self._weights(query, key, mask)
        return out

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The pattern `[batch, head, query, key]` as in the eager branch of `FalconAttention.forward`."""
        scores = query @ key.transpose(-1, -2)
        if self.alibi is None:
            scores = scores / math.sqrt(self.module.head_dim)
        else:
            if scores.dtype in (torch.float16, torch.bfloat16):
                scores = scores.float()
            if self.eager:
                scores = scores + self.alibi.view(scores.shape[0], scores.shape[1], 1, -1)
            scores = scores * self.module.inv_norm_factor
        if mask is not None:
            scores = scores + mask
        weights = F.softmax(self.job.show("scores", scores), dim=-1, dtype=query.dtype)
        return self.job.show("pattern", weights)


def run_falcon(
    original: Callable[..., Any], module: Any, job: Job, args: tuple[Any, ...], kwargs: dict[str, Any], *, eager: bool
) -> Any:
    """`FalconAttention.forward`; `eager` tells what the model's configuration says.

    The caller sees to it that the forward takes `config._attn_implementation` for "sdpa" meanwhile.
    """
    eager = eager or bool(kwargs.get("output_attentions"))
    watch = _FalconWatch(module, job, eager=eager, alibi=kwargs.get("alibi"))
    with watch:
        output, *rest = original(*args, **{**kwargs, "output_attentions": False})
    return output, watch.pattern, *rest[1:]
