"""Axes, colour domains and aggregation of a sweep's maps. Torch-free.

Means over pairs are taken before the ratio: recovery = (patched − corrupted) / (clean − corrupted), each a mean over
the pairs that have the position. Where |clean − corrupted| is tiny there is no ratio, and recovery is NaN.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracing.experiments.events import Axis, Panel, Quantity, Tick
from tracing.metric_facts import MetricFacts
from tracing.prompts import TokenizedPair

TINY: Final = 1e-6
"""A difference between the baselines below this, relative to their size (at least 1), is no difference."""

TITLES: Final = {
    "resid_pre": "Residual stream before each block",
    "resid_mid": "Residual stream between attention and MLP",
    "resid_post": "Residual stream after each block",
    "attn_out": "Attention output",
    "mlp_out": "MLP output",
    "z": "Head outputs z",
}


def layer_axis(n_layers: int) -> Axis:
    """Row 0 is layer 0."""
    return Axis("layer", "layer", tuple(Tick(str(layer)) for layer in range(n_layers)))


def head_axis(n_heads: int) -> Axis:
    """Query heads."""
    return Axis("head", "head", tuple(Tick(str(head)) for head in range(n_heads)))


def position_axis(pairs: Sequence[TokenizedPair], *, from_end: bool) -> Axis:
    """One tick a position, lined up at the first or the last token; texts are those of the first pair that has it."""
    longest = max(pair.length for pair in pairs)
    ticks = []
    for column in range(longest):
        here = [
            (pair, column - (longest - pair.length if from_end else 0))
            for pair in pairs
            if 0 <= column - (longest - pair.length if from_end else 0) < pair.length
        ]
        pair, t = here[0]
        ticks.append(
            Tick(
                label=pair.clean_tokens[t],
                corrupted=pair.corrupted_tokens[t] if pair.differs[t] else None,
                differs=any(p.differs[u] for p, u in here),
                varies=any(p.clean_ids[u] != pair.clean_ids[t] for p, u in here) or len(here) < len(pairs),
            )
        )
    uneven = len({pair.length for pair in pairs}) > 1
    return Axis(
        "position", f"position from the {'end' if from_end else 'start'}" if uneven else "position", tuple(ticks)
    )


def panel(
    site: str,
    rows: Axis,
    columns: Axis,
    metric: MetricFacts,
    *,
    direction: str,
    clean: NDArray[Any],
    corrupted: NDArray[Any],
) -> Panel:
    """The description of one site's map: planes `recovery` and `raw`, domains fixed by the baselines."""
    means = float(clean.mean()), float(corrupted.mean())
    source = "clean" if direction == "denoising" else "corrupted"
    recovery = Quantity(
        "recovery", "Recovery", "share of the clean-corrupted difference", "diverging", (-1.0, 1.0),
        {"0": "corrupted run", "1": "clean run"},
    )  # fmt: skip
    raw = Quantity("raw", metric.title, metric.unit, metric.scale, metric.domain(*means))
    return Panel(
        name=site,
        title=f"{TITLES[site]}: {source} activations patched in, by {rows.name} and {columns.name}",
        rows=rows,
        columns=columns,
        quantities=(recovery, raw),
        facts={
            "site": site,
            "direction": direction,
            "metric": metric.name,
            "unit": metric.unit,
            "clean": means[0],
            "corrupted": means[1],
            "pairs": len(clean),
        },
    )


def aggregate(
    examples: NDArray[Any], clean: NDArray[Any], corrupted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`(recovery, raw)`, each `[row, column]`, from each pair's metric `[pair, row, column]` (NaN: no such cell)."""
    has = ~np.isnan(examples)
    raw, clean_mean, corrupted_mean = (
        means(values, has) for values in (examples, clean[:, None, None], corrupted[:, None, None])
    )
    span = clean_mean - corrupted_mean
    enough = np.abs(span) > TINY * sizes(clean_mean, corrupted_mean)
    return np.divide(raw - corrupted_mean, span, out=np.full(span.shape, np.nan), where=enough), raw


def means(values: NDArray[Any], has: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Means over the first axis, of the entries that are there; NaN where there is none."""
    count = has.sum(0)
    total = np.where(has, values, 0.0).astype(np.float64).sum(0)
    found = np.full(count.shape, np.nan)
    np.divide(total, count, out=found, where=count > 0)
    return found


def sizes(clean: NDArray[np.float64], corrupted: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a difference of the two baselines is compared with: the larger of them, and 1 at least."""
    larger: NDArray[np.float64] = np.maximum(1.0, np.maximum(np.abs(clean), np.abs(corrupted)))
    return larger
