"""What attribution patches in, other than the pair's own other run: zeros, means, another pair's run."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor

from tracing.errors import PromptError, Stopped
from tracing.models import LanguageModel
from tracing.patching.attribution_runs import Source, run_watched
from tracing.patching.attribution_sites import Spot
from tracing.prompts import TokenizedPair

SourceName = Literal["interchange", "zero", "mean", "resample"]
SOURCES: Final = ("interchange", "zero", "mean", "resample")
AT_ONCE: Final = 8192
"""Tokens of a forward that means are taken from."""


def zero_source(_members: Sequence[TokenizedPair]) -> Source:
    """Zeros everywhere."""
    return lambda _spot, value: torch.zeros_like(value)


def mean_source(
    model: LanguageModel,
    wanted: Sequence[Spot],
    pairs: Sequence[TokenizedPair],
    groups: Sequence[Sequence[int]],
    inputs: Callable[..., dict[str, Tensor]],
    should_stop: Callable[[], bool],
    *,
    from_end: bool,
) -> Callable[[Sequence[TokenizedPair]], Source]:
    """The mean over all pairs that have the position, lined up at the first or the last token.

    Raises `Stopped` between two forwards.
    """
    sums: dict[tuple[Spot, int], Tensor] = {}
    counts: dict[tuple[Spot, int], int] = {}
    for group in groups:
        size = max(1, AT_ONCE // len(pairs[group[0]].clean_ids))
        for lo in range(0, len(group), size):
            if should_stop():
                raise Stopped
            kept, _ = run_watched(model, wanted, inputs(group[lo : lo + size], source=True), -1)
            for spot, value in kept.items():
                # Sums of 16-bit numbers would lose digits with every prompt that is added.
                for column, part in _columns(value.double().sum(0), from_end=from_end):
                    sums[spot, column] = sums[spot, column] + part if (spot, column) in sums else part
                    counts[spot, column] = counts.get((spot, column), 0) + len(value)

    def source(spot: Spot, value: Tensor) -> Tensor:
        columns = [column for column, _ in _columns(value[0], from_end=from_end)]
        means = [_fitting(sums[spot, column] / counts[spot, column], value) for column in columns]
        return torch.stack(means).expand_as(value)

    return lambda _members: source


def _columns(value: Tensor, *, from_end: bool) -> list[tuple[int, Any]]:
    """Each position's number, counted from the first token or (negative) behind the last, and its part."""
    return [(t - len(value) if from_end else t, part) for t, part in enumerate(value)]


def _fitting(mean: Tensor, value: Tensor) -> Tensor:
    return mean.to(value.dtype)


def partners(groups: Sequence[Sequence[int]], seed: int) -> dict[int, int]:
    """For each pair another one of its group, by a seeded rotation of a seeded order.

    Raises `PromptError` where a pair has no other one of its length.
    """
    found = {}
    for group in groups:
        if len(group) < 2:
            raise PromptError(
                f"Resampling takes activations of another pair of the same length, and pair {group[0] + 1} has none.",
                remedy='Add pairs of that length, or use source="interchange".',
            )
        order = torch.randperm(len(group), generator=torch.Generator().manual_seed(seed)).tolist()
        for a, b in zip(order, order[1:] + order[:1], strict=True):
            found[group[a]] = group[b]
    return found
