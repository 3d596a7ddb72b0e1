"""Sees the softmax of an attention computation that somebody else wrote, in the calling thread only.

A `TorchFunctionMode` is pushed around the family's own code (its eager attention function, or the forward of a module
that computes attention itself). Torch keeps the stack of modes per thread, so no other thread notices. Meanwhile:
1. the first softmax that this code asks for gets the scores as its input: they are the family's own scores, whatever
   scaling, softcap, relative bias, alibi or mask went into them; the visitor may replace them;
2. its result, cast to the dtype of the values, is the pattern; the visitor may replace it;
3. on request the dropout of the pattern goes through the module's own dropout module, so that its hooks run.
No formula of a family is repeated here, so what is seen is bit-equal to what the family's eager path computes.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody reads
from torch.overrides import TorchFunctionMode

from tracing.errors import SiteError

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)
SOFT = frozenset({"scores", "pattern"})
# Modules whose frames lie between code that calls a torch function and the mode that intercepts it.
BETWEEN = ("torch.", "tracing.engines.attention")


class Enough(Exception):
    """Ends an eager computation that ran aside once the last wanted tensor has been seen."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to show of one attention computation, and how.

    `visit(kind, tensor)` returns what goes on in the tensor's place; `kinds` are shown to it, out of them `written` may
    change; `eager` asks for the eager path even where nothing is written; `code` are the globals of the modeling file.
    """

    visit: Callable[[str, Tensor], Tensor]
    kinds: frozenset[str]
    written: frozenset[str]
    eager: bool
    code: dict[str, Any]

    def show(self, kind: str, tensor: Tensor) -> Tensor:
        """`tensor`, or what the visitor puts in its place."""
        return self.visit(kind, tensor) if kind in self.kinds else tensor


def additive_mask(mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Tensor | None:
    """The mask that eager attention adds to its scores, from the one made for scaled_dot_product_attention.

    `mask` is boolean (True = attend), already additive, or None, which stands for `causal` with the first query at the
    first key, as in sdpa. Masked entries are the least finite number of the query's dtype, the rest 0, as in
    `transformers.masking_utils.eager_mask`; in float64 it is that of float32, in which most eager paths take their
    softmax: a row that is masked throughout (left padding) would be NaN there. `query`, `key`:
    `[batch, head, position, d_head]`.
    """
    if mask is None:
        queries, keys = query.shape[-2], key.shape[-2]
        if not causal or queries == 1:
            return None
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask.dtype == torch.bool:
        zero = torch.zeros((), dtype=query.dtype, device=mask.device)
        least = max(torch.finfo(query.dtype).min, torch.finfo(torch.float32).min)
        return torch.where(mask, zero, least)
    return mask


def called_from(code: dict[str, Any]) -> bool:
    """Whether the torch function being intercepted was called by code with these globals.

    A user's hook on a submodule runs inside the watched forward too: its softmax is not the attention's.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(BETWEEN):
        frame = frame.f_back
    return frame is not None and frame.f_globals is code


class Watch(TorchFunctionMode):
    """Shows the scores and the pattern of one attention computation to a visitor.

    Args:
        job: the visitor and the kinds it wants; those in `job.written` flow on as visited.
        dtype: dtype of the values, which the family casts its pattern to.
        keys: number of keys, if known: more columns than that mean attention sinks, which are refused.
        dropout: module to call in place of the functional dropout of the pattern.
        aside: raise `Enough` after the last wanted kind.

    Raises:
        SiteError: the softmax is not over `[batch, head, query, key]`.
    """

    def __init__(
        self,
        job: Job,
        dtype: torch.dtype,
        *,
        keys: int | None = None,
        dropout: nn.Module | None = None,
        aside: bool = False,
    ) -> None:
        super().__init__()
        self.job, self.dtype, self.keys, self.dropout, self.aside = job, dtype, keys, dropout, aside
        self.seen = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Torch has taken this mode off the stack while this method runs, so what visitors compute is not intercepted.
        if func in SOFTMAX and not self.seen and called_from(self.job.code):
            self.seen = True
            return self._softmax(func, args, kwargs)
        if func is F.dropout and self.seen and self.dropout is not None and called_from(self.job.code):
            dropout, self.dropout = self.dropout, None
            return dropout(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        scores: Tensor = args[0] if args else kwargs.pop("input")
        if scores.ndim != 4 or self.keys not in (None, scores.shape[-1]):
            raise SiteError(
                f"The softmax of this attention is over {list(scores.shape)}, not [batch, head, query, key] with "
                f"{self.keys} keys: it has attention sinks or another layout.",
                remedy="Its scores and pattern are not sites; read q_rot, k_rot and v and compute them in the trace.",
            )
        scores = self.job.show("scores", scores)
        if self.aside and "pattern" not in self.job.kinds:
            raise Enough
        weights: Tensor = func(scores, *args[1:], **kwargs)
        pattern = self.job.show("pattern", weights.to(self.dtype))
        if self.aside:
            raise Enough
        if "pattern" in self.job.written:
            # The family casts to the dtype of the values next; the wider of the two types makes that cast exact.
            weights = pattern.to(torch.promote_types(pattern.dtype, weights.dtype))
        return weights
