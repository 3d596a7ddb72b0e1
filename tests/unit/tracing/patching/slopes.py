"""Slopes of exact patching by finite differences: what attribution claims to be. Patches are made in traces."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

STEP = 4e-3


def slope(function: Callable[[float], float], h: float = STEP) -> float:
    """The derivative at 0, by the fourth-order central formula."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)


def logit_diff(model: LanguageModel, logits: Tensor, of: TokenizedPair) -> float:
    last = logits[0, -1].double()
    return float(last[list(of.answer_ids)].mean() - last[list(of.foil_ids)].mean())


def cell(site: str, position: int | None, head: int | None) -> tuple[Any, ...]:
    """The index of a cell in `model.sites[site][layer]`."""
    where: Any = slice(None) if position is None else position
    if site in ("pattern", "scores"):
        return (slice(None), slice(None) if head is None else head, where)
    return (slice(None), where) if head is None else (slice(None), where, head)


def patched(
    model: LanguageModel,
    of: TokenizedPair,
    site: str,
    layer: int,
    index: tuple[Any, ...],
    share: float,
    *,
    noising: bool,
) -> float:
    """The metric where a cell has gone by `share` from the destination's to the source's value, by a trace."""
    source_ids, ids = (of.corrupted_ids, of.clean_ids) if noising else (of.clean_ids, of.corrupted_ids)
    with model.trace(list(source_ids)):
        source = model.sites[site][layer].save()
    with model.trace(list(ids)):
        own = model.sites[site][layer][index]
        model.sites[site][layer][index] = own + share * (source.value[index] - own)
        logits = model.output.save()
    return logit_diff(model, logits.value, of)
