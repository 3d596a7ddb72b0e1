"""The map of path patching: its axes, its planes and the order of its rows. Torch-free.

    effect = (patched − unpatched) / (other run − unpatched)

Means over pairs are taken before the ratio. Where the two runs hardly differ there is no ratio, and `effect` is NaN.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracing.circuits.layout import Layout
from tracing.events import Axis, Panel, Quantity, Tick
from tracing.metric_facts import MetricFacts

TINY: Final = 1e-6
"""A difference between the two runs below this, relative to their size (at least 1), is no difference."""


def sender_columns(layout: Layout, senders: Sequence[int]) -> tuple[str, ...]:
    """Column labels: every head where any is a sender, then "MLP" where one is."""
    kinds = {layout.source_places[sender].kind for sender in senders}
    heads = tuple(str(head) for head in range(layout.n_heads)) if "head" in kinds else ()
    return (*heads, "MLP") if "mlp" in kinds else heads


def path_panel(
    layout: Layout,
    columns: Sequence[str],
    metric: MetricFacts,
    facts: dict[str, Any],
    base: NDArray[Any],
    other: NDArray[Any],
) -> Panel:
    """The map's description, from the baselines alone."""
    unpatched, reached = float(base.mean()), float(other.mean())
    noising = facts["direction"] == "noising"
    effect = Quantity(
        "effect", "Effect", "share of the difference between the two runs", "diverging", (-1.0, 1.0),
        {"0": "unpatched run", "1": f"{'corrupted' if noising else 'clean'} run"},
    )  # fmt: skip
    clean, corrupted = (unpatched, reached) if noising else (reached, unpatched)
    raw = Quantity("raw", metric.title, metric.unit, metric.scale, metric.domain(clean, corrupted))
    into = ", ".join(facts["receivers"])
    through = "directly and through MLPs" if facts["mlps"] == "live" else "directly"
    return Panel(
        name="paths",
        title=f"What each sender changes {through} in {into}",
        rows=Axis("layer", "layer", tuple(Tick(str(layer)) for layer in range(layout.n_layers))),
        columns=Axis("head", "head of the sender", tuple(Tick(label) for label in columns)),
        quantities=(effect, raw),
        facts={**facts, "unit": metric.unit, "clean": clean, "corrupted": corrupted},
    )


def aggregate_paths(examples: NDArray[Any], base: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float32]:
    """Planes `[effect, raw]` `[2, row, column]` from each pair's metric `[pair, row, column]`; NaN stays NaN."""
    raw = examples.mean(0)
    start, span = base.mean(), other.mean() - base.mean()
    enough = abs(span) > TINY * max(1.0, abs(base.mean()), abs(other.mean()))
    effect = (raw - start) / span if enough else np.full_like(raw, np.nan)
    return np.stack([effect, raw]).astype(np.float32)


def coarse_first(layers: Sequence[int]) -> list[int]:
    """Every fourth layer, then those halfway between, then the rest: the map is readable early."""
    order = [*layers[::4], *layers[2::4], *layers[1::2]]
    assert sorted(order) == sorted(layers)
    return order
