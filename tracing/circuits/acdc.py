"""ACDC, one edge after another: ablate an edge for good where that does next to no damage (Conmy et al. 2023).

    damage(C) = mean over pairs of |metric(C) − metric(base)|;   remove e where damage(C − e) − damage(C) < threshold

1. Readers in reverse order of the graph, the logits first: of a layer its MLP, then values, keys and queries, each
   from the last head to the first. The sources of a reader in reverse order as well, deepest first.
2. Each trial starts at its reader's block: no edge into an earlier one is ablated yet.
3. A head or MLP none of whose outgoing edges is kept loses its incoming ones without a trial: they cannot matter.

The order is part of the method: of two sources that stand in for each other, the deeper one is removed. There are no
ties to break and nothing is random, so the same input gives the same circuit.
Source: Conmy et al. 2023 (arXiv 2304.14997), with the senders' order of its reference code (deeper first).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracing.circuits.exact import Pairs, Task, base_metric, part_circuits, task
from tracing.circuits.kept import kept_parts
from tracing.circuits.layout import Layout
from tracing.circuits.readout import Answer, float_kind
from tracing.circuits.runs import Ablation, Direction, Part
from tracing.errors import SpecError
from tracing.models import LanguageModel
from tracing.results import EdgeScores


@dataclass(frozen=True, slots=True, eq=False)
class Discovered:
    """What ACDC found. `keep` `[source, reader]` is the circuit."""

    keep: NDArray[np.bool_]
    scores: EdgeScores
    """The damage each edge's removal did when it was tried; 0 where it was not tried."""
    damage: float
    """The circuit's."""
    trials: int
    """How many edges were tried."""


def acdc(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "kl_divergence",
    *,
    threshold: float = 0.01,
    ablation: Ablation = "interchange",
    direction: Direction = "noising",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Discovered:
    """Find a circuit by trying every edge once. One forward of all pairs an edge: dear on large models.

    `threshold` is in the metric's unit. Other options and errors as in `tracing.circuits.exact.edge_effects`;
    `SpecError` for a threshold that is not above 0, `OutOfMemoryError` before anything runs where the unpatched runs of
    all pairs exceed the device's memory. `progress(done, total)` counts edges decided.
    """
    if not threshold > 0:
        raise SpecError(f"A threshold of {threshold} would keep edges that do nothing.", remedy="Use one above 0.")
    made = task(
        model, pairs, metric, ablation=ablation, direction=direction, answer=answer, batch=batch, seed=seed,
        should_stop=should_stop,
    )  # fmt: skip
    layout, runs = made.layout, kept_parts(made)
    base = [base_metric(made, part) for part in runs]
    keep, found = layout.real.copy(), np.zeros(layout.real.shape, float_kind(model))
    current, trials, done = 0.0, 0, 0
    for reader in reversed(range(len(layout.readers))):
        sources = np.flatnonzero(layout.real[:, reader])[::-1]
        if not _matters(layout, keep, reader):
            keep[:, reader] = False
            sources, done = sources[:0], done + len(sources)
        for source in sources.tolist():
            keep[source, reader] = False
            damage = _damage(made, runs, base, keep)
            found[source, reader] = damage - current
            if damage - current < threshold:
                current = damage
            else:
                keep[source, reader] = True
            trials, done = trials + 1, done + 1
            if progress is not None:
                progress(done, layout.n_edges)
    scores = EdgeScores(
        name="acdc", title="ACDC", sources=layout.sources, readers=layout.readers, real=layout.real, scores=found,
        facts={
            "method": "acdc", **made.facts, "threshold": threshold, "kept": int(keep.sum()), "trials": trials,
            "damage": current,
        },
    )  # fmt: skip
    return Discovered(keep, scores, current, trials)


def _damage(made: Task, runs: list[Part], base: list[NDArray[Any]], keep: NDArray[np.bool_]) -> float:
    total = sum(
        float(np.abs(part_circuits(made, part, keep[None])[0] - metric).sum())
        for part, metric in zip(runs, base, strict=True)
    )
    return total / len(made.pairs)


def _matters(layout: Layout, keep: NDArray[np.bool_], reader: int) -> bool:
    """Whether a kept edge leaves the head or MLP that the reader belongs to."""
    place = layout.reader_places[reader]
    if place.kind == "logits":
        return True
    if place.kind == "mlp":
        return bool(keep[layout.mlp(place.layer)].any())
    group = layout.n_heads // layout.n_kv_heads if place.kind in ("k", "v") else 1
    first = layout.heads(place.layer).start + place.head * group
    return bool(keep[first : first + group].any())
