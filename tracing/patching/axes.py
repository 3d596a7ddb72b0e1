"""Axes, colour domains and aggregation of a sweep's maps. Torch-free.

Means over pairs are taken before the ratio: recovery = (patched − corrupted) / (clean − corrupted), each a mean over
the pairs that have the position. Where |clean − corrupted| is tiny there is no ratio, and recovery is NaN.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracing.events import Axis, Panel, Quantity, Tick
from tracing.metric_facts import MetricFacts
from tracing.patching.cells import SITES, site_of
from tracing.patching.plan import Plan
from tracing.prompts import TokenizedPair

TINY: Final = 1e-6
"""A difference between the baselines below this, relative to their size (at least 1), is no difference."""

TITLES: Final = {name: site.title for name, site in SITES.items()}
"""What sites are called in titles."""


def layer_axis(layers: int | Sequence[int]) -> Axis:
    """Row 0 is the first of the layers; a number means all of so many."""
    numbers = range(layers) if isinstance(layers, int) else layers
    return Axis("layer", "layer", tuple(Tick(str(layer)) for layer in numbers))


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
                corrupted=pair.corrupted_tokens[t] if _other_token(pair, t) else None,
                differs=any(_other_token(p, u) for p, u in here),
                varies=any(_token(p, u) != _token(pair, t) for p, u in here) or len(here) < len(pairs),
            )
        )
    uneven = len({pair.length for pair in pairs}) > 1
    return Axis(
        "position", f"position from the {'end' if from_end else 'start'}" if uneven else "position", tuple(ticks)
    )


def _token(pair: TokenizedPair, t: int) -> object:
    return pair.clean_ids[t] if type(pair) is TokenizedPair else pair.clean_tokens[t]


def _other_token(pair: TokenizedPair, t: int) -> bool:
    """Whether the two prompts have other tokens there: patches of images and decoder tokens have no such thing."""
    return type(pair) is TokenizedPair and pair.differs[t]


def axes_of(plan: Plan, site: str, pairs: Sequence[TokenizedPair]) -> tuple[Axis, Axis]:
    """Rows and columns of a site's map."""
    inner = [_inner(plan, axis, site, pairs) for axis in plan.axes.axes]
    layers = _layers(plan)
    blocks = [layers, *inner[:-1]] if not plan.axes.joint or len(inner) < 2 else inner[:-1]
    columns = inner[-1] if inner else Axis("all", "the whole site", (Tick("all"),))
    if not plan.axes.has("example"):
        return _product(blocks), columns
    examples = Axis("example", "prompt pair", tuple(_pair(pair) for pair in pairs))
    if not inner:
        return examples, layers
    alone = len(plan.axes.steps()) * plan.rows_a_layer(site) == 1
    return examples if alone else _product([*blocks, examples]), columns


def _layers(plan: Plan) -> Axis:
    axes = plan.axes
    if not axes.joint:
        return layer_axis(axes.layers)
    several = len(axes.layers) > 1
    text = ", ".join(map(str, axes.layers))
    return Axis("layer", "layers, patched at once" if several else "layer", (Tick(text),))


def _inner(plan: Plan, axis: str, site: str, pairs: Sequence[TokenizedPair]) -> Axis:
    if axis == "position":
        return position_axis(pairs, from_end=plan.from_end)
    if axis == "span":
        return Axis("span", "span", tuple(_span(name, pairs) for name in plan.axes.spans))
    title = "key-value head" if site_of(site).unit == "kv_head" and _grouped(plan) else axis
    return Axis(axis, title, tuple(Tick(str(unit)) for unit in plan.axes.units(site, plan.facts)))


def _grouped(plan: Plan) -> bool:
    return plan.facts.n_kv_heads != plan.facts.n_heads


def _span(name: str, pairs: Sequence[TokenizedPair]) -> Tick:
    """A span's name, and whether its tokens differ within a pair."""
    places = [(pair, start, end) for pair in pairs for one, start, end in pair.spans if one == name]
    return Tick(name, differs=any(any(pair.differs[start:end]) for pair, start, end in places), varies=True)


def _pair(pair: TokenizedPair) -> Tick:
    return Tick(f"pair {pair.number}")


SHORT: Final = {"layer": "L{}", "head": "H{}", "neuron": "N{}", "position": "t{}"}


def _product(axes: Sequence[Axis]) -> Axis:
    """One axis of several: "L3.H5"."""
    if len(axes) == 1:
        return axes[0]
    ticks = []
    for indices in product(*(range(len(axis)) for axis in axes)):
        parts = [
            f"t{index} {axis.ticks[index].label}".rstrip()
            if axis.name == "position"
            else SHORT.get(axis.name, "{}").format(axis.ticks[index].label)
            for axis, index in zip(axes, indices, strict=True)
        ]
        ticks.append(Tick(".".join(parts)))
    return Axis(".".join(axis.name for axis in axes), " · ".join(axis.title for axis in axes), tuple(ticks))


def panel(
    plan: Plan,
    site: str,
    pairs: Sequence[TokenizedPair],
    metric: MetricFacts,
    *,
    direction: str,
    source: str,
    clean: NDArray[Any],
    corrupted: NDArray[Any],
) -> Panel:
    """The description of one site's map: planes `recovery` and `raw`, domains fixed by the baselines."""
    means = float(clean.mean()), float(corrupted.mean())
    run, other = ("clean", "corrupted") if direction == "denoising" else ("corrupted", "clean")
    recovery = Quantity(
        "recovery", "Recovery", "share of the clean-corrupted difference", "diverging", (-1.0, 1.0),
        {"0": "corrupted run", "1": "clean run"},
    )  # fmt: skip
    raw = Quantity("raw", metric.title, metric.unit, metric.scale, metric.domain(*means))
    rows, columns = axes_of(plan, site, pairs)
    what = f"{run} activations" if plan.source == "interchange" else f"{source} (into the {other} run)"
    by = " and ".join(axis.name.replace(".", ", ") for axis in (rows, columns) if axis.name != "all")
    axes = plan.axes
    chosen = {"layers": list(axes.layers)} if len(axes.layers) < plan.facts.n_layers or axes.joint else {}
    if axes.heads is not None:
        chosen["heads"] = list(axes.heads)
    return Panel(
        name=site,
        title=f"{site_of(site).title}: {what} patched in, by {by}",
        rows=rows,
        columns=columns,
        quantities=(recovery, raw),
        facts={
            "site": site,
            "direction": direction,
            "source": source,
            "metric": metric.name,
            "unit": metric.unit,
            "clean": means[0],
            "corrupted": means[1],
            "pairs": len(clean),
            "over": list(axes.over),
            **chosen,
            **({"spans": list(axes.spans)} if axes.spans else {}),
        },
    )


def shown(plan: Plan, values: NDArray[Any]) -> NDArray[Any]:
    """A tile's metric as the map has it, `[pair, row, column]`, from `[pair, row, column]` before pairs get rows of
    their own; then only the diagonal is there."""
    if not plan.axes.has("example"):
        return values
    pairs, rows, columns = values.shape
    if not plan.axes.axes:
        found = np.full((pairs, pairs, rows), np.nan, values.dtype)
        found[np.arange(pairs), np.arange(pairs)] = values[:, :, 0]
        return found
    apart = np.full((pairs, rows, pairs, columns), np.nan, values.dtype)
    apart[np.arange(pairs), :, np.arange(pairs)] = values
    return apart.reshape(pairs, rows * pairs, columns)


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
