"""The two unpatched runs of every pair: their metrics, and the activations that patches start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.metrics import Metric, Targets, require_numbers
from tracing.models import LanguageModel
from tracing.patching.capture import Activations, capture
from tracing.patching.plan import POSITION_SITES, Plan
from tracing.patching.suffix import read_logits
from tracing.prompts import TokenizedPair


@dataclass(frozen=True, slots=True, eq=False)
class GroupRuns:
    """One group's unpatched runs, and what its pairs' logits are judged by."""

    destination: Activations
    source: Activations
    destination_ids: Tensor
    targets: Targets


@dataclass(frozen=True, slots=True, eq=False)
class Baselines:
    """Metrics `[pair]` of both runs, which of them is patched into, and each group's activations."""

    clean: NDArray[Any]
    corrupted: NDArray[Any]
    destination: NDArray[Any]
    groups: tuple[GroupRuns, ...]


def run_baselines(
    model: LanguageModel, pairs: Sequence[TokenizedPair], metric: Metric, plan: Plan, direction: str
) -> Baselines:
    """Run clean and corrupted prompts once. Raises `MetricError` naming a pair whose metric is not a number."""
    kind = np.float64 if model.dtype == torch.float64 else np.float32
    clean, corrupted = np.zeros(len(pairs), kind), np.zeros(len(pairs), kind)
    runs = []
    for group in plan.groups:
        members = [pairs[number] for number in group.pairs]
        run, values = _run_group(model, members, metric, plan, direction)
        clean[list(group.pairs)], corrupted[list(group.pairs)] = values
        runs.append(run)
    return Baselines(clean, corrupted, corrupted if direction == "denoising" else clean, tuple(runs))


def _run_group(
    model: LanguageModel, members: Sequence[TokenizedPair], metric: Metric, plan: Plan, direction: str
) -> tuple[GroupRuns, tuple[NDArray[Any], NDArray[Any]]]:
    source_sites, destination_sites = _needed(plan)
    denoising = direction == "denoising"
    clean_ids, corrupted_ids = [p.clean_ids for p in members], [p.corrupted_ids for p in members]
    destination_ids, source_ids = (corrupted_ids, clean_ids) if denoising else (clean_ids, corrupted_ids)
    destination = capture(model, destination_ids, destination_sites, key_values=plan.optimise.suffix)
    source = capture(model, source_ids, source_sites)
    clean_run, corrupted_run = (source, destination) if denoising else (destination, source)
    with torch.inference_mode():
        clean_logits = read_logits(model, clean_run.boundary(-1)[:, -1])
        corrupted_logits = read_logits(model, corrupted_run.boundary(-1)[:, -1])
        targets = Targets.of(members, clean_logits)
        clean, corrupted = metric(clean_logits, targets), metric(corrupted_logits, targets)
    require_numbers(clean, members, metric, "the clean prompt")
    require_numbers(corrupted, members, metric, "the corrupted prompt")
    ids = torch.tensor([list(row) for row in destination_ids], device=model.device)
    return GroupRuns(destination, source, ids, targets), (to_numpy(clean), to_numpy(corrupted))


def _needed(plan: Plan) -> tuple[set[str], set[str]]:
    """Which sites of the source and of the destination the plan reads."""
    if not plan.optimise.suffix:
        return {site for site in plan.sites if site != "resid_pre"}, set()
    if plan.per_head:
        return {"z"}, {"z"}
    kinds = {POSITION_SITES[site][0] for site in plan.sites}
    source = {site for kind, site in (("attn", "attn_out"), ("mlp", "mlp_out")) if kind in kinds}
    return source, {"resid_mid"} if "mlp" in kinds else set()


def to_numpy(values: Tensor) -> NDArray[Any]:
    """float64 stays, everything else becomes float32."""
    wide = values if values.dtype == torch.float64 else values.float()
    array: NDArray[Any] = wide.cpu().numpy()
    return array
