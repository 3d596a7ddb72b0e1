"""The two unpatched runs of every pair: their metrics, the activations that patches start from, and those put in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.metrics import Metric, Targets, require_numbers
from tracing.models import LanguageModel
from tracing.patching.capture import Activations, capture
from tracing.patching.footprint import kept_runs
from tracing.patching.inputs import inputs_of
from tracing.patching.plan import LOGITS_A_BATCH, Group, Plan
from tracing.patching.readout import measure
from tracing.patching.source_values import Rule, Spread, Values
from tracing.patching.sources import Noise, Resample, Source
from tracing.prompts import TokenizedPair


@dataclass(frozen=True, slots=True, eq=False)
class GroupRuns:
    """One group's unpatched runs, what is patched in, and what its pairs' logits are judged by."""

    destination: Activations
    source: Values
    """`[site][layer]`, as `rows.run_rows` takes it."""
    inputs: dict[str, Tensor]
    """The destination's arguments of a forward."""
    targets: Targets
    clean: Tensor
    """The clean run's final residuals at the answer position, `[pair, d_model]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Baselines:
    """Metrics `[pair]` of both runs, which of them is patched into, and each group's activations."""

    clean: NDArray[Any]
    corrupted: NDArray[Any]
    destination: NDArray[Any]
    groups: tuple[GroupRuns, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Both:
    """A group's destination and source run, and its members."""

    group: Group
    members: Sequence[TokenizedPair]
    inputs: dict[str, Tensor]
    destination: Activations
    source: Activations


def run_baselines(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    direction: str,
    should_stop: Callable[[], bool] = lambda: False,
    source: Source | None = None,
) -> Baselines:
    """Run clean and corrupted prompts once, and what the source draws from.

    Raises `MetricError` naming a pair whose metric is not a number, `PromptError` where the source has no prompt for a
    pair, `OutOfMemoryError` where the activations do not fit, `Stopped` between two forwards once `should_stop()`.
    """
    kind = np.float64 if model.dtype == torch.float64 else np.float32
    clean, corrupted = np.zeros(len(pairs), kind), np.zeros(len(pairs), kind)
    sides = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
    found = [_run_group(model, pairs, group, plan, sides, should_stop) for group in plan.groups]
    spread = Spread()
    if isinstance(source, Noise):
        for both in found:
            spread.add(plan.sites, both.destination)
    rule = None if source is None else Rule.of(model, plan, source, pairs, sides[1], should_stop)
    runs = []
    while found:
        both = found.pop(0)
        put_in: Values = both.source.sites if rule is None else _put_in(rule, both, plan, spread)
        one, values = _measured(model, both, put_in, metric, plan, direction)
        clean[list(both.group.pairs)], corrupted[list(both.group.pairs)] = values
        runs.append(one)
    return Baselines(clean, corrupted, corrupted if direction == "denoising" else clean, tuple(runs))


def _run_group(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    group: Group,
    plan: Plan,
    sides: tuple[str, str],
    should_stop: Callable[[], bool],
) -> _Both:
    members = [pairs[number] for number in group.pairs]
    of_source, of_destination = kept_runs(plan)
    inputs, other = (inputs_of(model, members, side) for side in sides)
    destination = with_posts(capture(model, inputs, of_destination, should_stop, answer=group.answer))
    source = with_posts(capture(model, other, of_source, should_stop, answer=group.answer))
    return _Both(group, members, inputs, destination, source)


def with_posts(runs: Activations) -> Activations:
    """The same, in which the residuals behind blocks have their own name beside that before the next ones."""
    if "resid_pre" in runs.sites:
        runs.sites.setdefault("resid_post", runs.sites["resid_pre"][1:])
    return runs


def _put_in(rule: Rule, both: _Both, plan: Plan, spread: Spread) -> Values:
    with torch.inference_mode():
        source = both.source
        if isinstance(rule.source, Resample):
            source = with_posts(rule.drawn(both.group, kept_runs(plan)[0]))
        return rule.values(both.group, source, both.destination, spread)


def _measured(
    model: LanguageModel, both: _Both, source: Values, metric: Metric, plan: Plan, direction: str
) -> tuple[GroupRuns, tuple[NDArray[Any], NDArray[Any]]]:
    denoising = direction == "denoising"
    ends = (both.source.final, both.destination.final)
    clean_end, corrupted_end = ends if denoising else ends[::-1]
    runs = GroupRuns(both.destination, source, both.inputs, Targets.of(both.members), clean_end)
    clean, corrupted = (
        _metric(model, metric, runs, final, narrow=plan.optimise.columns) for final in (clean_end, corrupted_end)
    )
    require_numbers(clean, both.members, metric, "the clean prompt")
    require_numbers(corrupted, both.members, metric, "the corrupted prompt")
    return runs, (to_numpy(clean), to_numpy(corrupted))


@torch.inference_mode()
def _metric(model: LanguageModel, metric: Metric, runs: GroupRuns, final: Tensor, *, narrow: bool) -> Tensor:
    """The metric of unpatched final residuals `[pair, d_model]`, as many pairs at once as a batch has logits."""
    at_once = max(1, LOGITS_A_BATCH // model.facts.vocab_size)
    parts = [
        measure(
            model, metric, runs.targets.rows(lo, lo + at_once), runs.clean[lo : lo + at_once],
            final[lo : lo + at_once, None], narrow=narrow,
        )
        for lo in range(0, len(final), at_once)
    ]  # fmt: skip
    return torch.cat(parts)[:, 0]


def to_numpy(values: Tensor) -> NDArray[Any]:
    """float64 stays, everything else becomes float32."""
    wide = values if values.dtype == torch.float64 else values.float()
    array: NDArray[Any] = wide.cpu().numpy()
    return array
