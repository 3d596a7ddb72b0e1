"""The two unpatched runs of every pair: their metrics, and the activations that patches start from."""

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
from tracing.patching.plan import LOGITS_A_BATCH, Plan
from tracing.patching.readout import measure
from tracing.prompts import TokenizedPair


@dataclass(frozen=True, slots=True, eq=False)
class GroupRuns:
    """One group's unpatched runs, and what its pairs' logits are judged by."""

    destination: Activations
    source: Activations
    destination_ids: Tensor
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


def run_baselines(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    direction: str,
    should_stop: Callable[[], bool] = lambda: False,
) -> Baselines:
    """Run clean and corrupted prompts once.

    Raises `MetricError` naming a pair whose metric is not a number, `OutOfMemoryError` where the activations do not
    fit, `Stopped` between two forwards once `should_stop()`.
    """
    kind = np.float64 if model.dtype == torch.float64 else np.float32
    clean, corrupted = np.zeros(len(pairs), kind), np.zeros(len(pairs), kind)
    runs = []
    for group in plan.groups:
        members = [pairs[number] for number in group.pairs]
        run, values = _run_group(model, members, metric, plan, direction, should_stop)
        clean[list(group.pairs)], corrupted[list(group.pairs)] = values
        runs.append(run)
    return Baselines(clean, corrupted, corrupted if direction == "denoising" else clean, tuple(runs))


def _run_group(
    model: LanguageModel,
    members: Sequence[TokenizedPair],
    metric: Metric,
    plan: Plan,
    direction: str,
    should_stop: Callable[[], bool],
) -> tuple[GroupRuns, tuple[NDArray[Any], NDArray[Any]]]:
    of_source, of_destination = kept_runs(plan)
    denoising = direction == "denoising"
    clean_ids, corrupted_ids = [p.clean_ids for p in members], [p.corrupted_ids for p in members]
    destination_ids, source_ids = (corrupted_ids, clean_ids) if denoising else (clean_ids, corrupted_ids)
    destination = capture(model, destination_ids, of_destination, should_stop)
    source = capture(model, source_ids, of_source, should_stop)
    clean_run, corrupted_run = (source, destination) if denoising else (destination, source)
    targets = Targets.of(members)
    ids = torch.tensor([list(row) for row in destination_ids], device=model.device)
    runs = GroupRuns(destination, source, ids, targets, clean_run.final)
    clean, corrupted = (
        _metric(model, metric, runs, final, narrow=plan.optimise.columns)
        for final in (clean_run.final, corrupted_run.final)
    )
    require_numbers(clean, members, metric, "the clean prompt")
    require_numbers(corrupted, members, metric, "the corrupted prompt")
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
