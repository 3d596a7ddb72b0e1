"""The maps that attribution fills: which axes a site has, and from every pair's scores to a `Grid`. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracing.errors import SpecError
from tracing.events import Axis, Panel, Quantity, Tick
from tracing.families.facts import ModelFacts
from tracing.families.sites import ATTENTION_SITES, HEAD_SITES
from tracing.metric_facts import MetricFacts
from tracing.patching.axes import TITLES, aggregate, head_axis, layer_axis, means, position_axis
from tracing.prompts import TokenizedPair
from tracing.results import Grid

AXES: Final = ("layer", "head", "position", "neuron", "example")
STORED: Final = ("layer", "position", "head", "neuron")
"""The order in which scores are kept for each pair; axes that a map does not have are summed over."""
MORE_TITLES: Final = {
    **TITLES,
    "q": "Queries", "k": "Keys", "v": "Values", "pattern": "Attention patterns", "head_out": "What heads write",
    "scores": "Attention scores", "q_rot": "Rotated queries", "k_rot": "Rotated keys", "neurons": "MLP neurons",
    "mixer_out": "Mixer output", "cross_out": "Cross-attention output",
}  # fmt: skip


def has_heads(site: str) -> bool:
    """Whether a site has a head axis."""
    return site in (*HEAD_SITES, *ATTENTION_SITES)


def check_axes(sites: Sequence[str], over: Sequence[str]) -> None:
    """Raises `SpecError` for axes that make no map, or that a site lacks."""
    if unknown := [axis for axis in over if axis not in AXES]:
        raise SpecError(f"There is no axis {unknown[0]!r}.", remedy=f"Axes are {', '.join(AXES)}.")
    if len(set(over)) != len(over) or not 2 <= len(over) <= 3 or "layer" not in over:
        raise SpecError(
            f"A map cannot be over {tuple(over)}.",
            remedy='Name two or three different axes, the layer among them: ("layer", "position").',
        )
    for site in sites:
        if "head" in over and not has_heads(site):
            raise SpecError(f"The site {site} has no head axis.", remedy="Use z, q, k, v, pattern or head_out.")
        if "neuron" in over and site != "neurons":
            raise SpecError(f"The site {site} has no neuron axis.", remedy='Use the site "neurons".')


@dataclass(frozen=True, slots=True)
class Map:
    """One site's map: its axes in the order asked for, and the shape of what is kept for each pair."""

    site: str
    over: tuple[str, ...]
    axes: Mapping[str, Axis]

    @property
    def stored(self) -> tuple[str, ...]:
        """The axes kept for each pair, in their order."""
        return tuple(axis for axis in STORED if axis in self.over)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one pair's scores."""
        return tuple(len(self.axes[axis]) for axis in self.stored)

    @property
    def rows(self) -> Axis:
        """The first axis; of three, the first two together."""
        first = [self.axes[axis] for axis in self.over[:-1]]
        if len(first) == 1:
            return first[0]
        a, b = first
        ticks = tuple(
            Tick(f"{one.label}.{n if b.name == 'position' else two.label}")
            for one, (n, two) in product(a.ticks, enumerate(b.ticks))
        )
        return Axis(f"{a.name}.{b.name}", f"{a.title} . {b.title}", ticks)

    @property
    def columns(self) -> Axis:
        """The last axis."""
        return self.axes[self.over[-1]]

    def laid_out(self, scores: NDArray[Any]) -> NDArray[Any]:
        """`[…, *stored]` as `[…, row, column]`, for axes without the example's."""
        order = [self.stored.index(axis) for axis in self.over]
        lead = scores.ndim - len(order)
        turned = scores.transpose(*range(lead), *(lead + n for n in order))
        return turned.reshape(*turned.shape[:lead], -1, turned.shape[-1])

    def by_example(self, scores: NDArray[Any]) -> NDArray[Any]:
        """`[example, *stored]` as `[row, column]`, the example being one of the map's axes."""
        names = ("example", *self.stored)
        turned = scores.transpose([names.index(axis) for axis in self.over])
        return turned.reshape(prod(turned.shape[:-1]), turned.shape[-1])


def map_of(
    site: str,
    over: Sequence[str],
    facts: ModelFacts,
    pairs: Sequence[TokenizedPair],
    *,
    layers: int,
    from_end: bool,
) -> Map:
    """The map of one site; k and v have the native key-value heads."""
    heads = facts.n_kv_heads if site in ("k", "v", "k_rot") else facts.n_heads
    made = {
        "layer": lambda: layer_axis(layers),
        "head": lambda: replace(head_axis(heads), title="key-value head" if heads < facts.n_heads else "head"),
        "position": lambda: _positions(pairs, facts, site, from_end=from_end),
        "neuron": lambda: Axis("neuron", "neuron", tuple(Tick(str(n)) for n in range(facts.d_mlp))),
        "example": lambda: Axis("example", "prompt pair", tuple(Tick(str(pair.number)) for pair in pairs)),
    }
    return Map(site, tuple(over), {axis: made[axis]() for axis in over})


def _positions(pairs: Sequence[TokenizedPair], facts: ModelFacts, site: str, *, from_end: bool) -> Axis:
    if not facts.n_encoder_layers or site.startswith("encoder_"):
        return position_axis(pairs, from_end=from_end)
    longest = max(decoder_length(pair) for pair in pairs)
    return Axis("position", "decoder position", tuple(Tick(str(n)) for n in range(longest)))


def decoder_length(pair: TokenizedPair) -> int:
    """How many tokens the decoder of an encoder-decoder model reads."""
    return max(1, len(pair.decoder_ids))


def grid(
    described: Map,
    scores: NDArray[Any],
    baselines: tuple[NDArray[Any], NDArray[Any]],
    metric: MetricFacts,
    facts: Mapping[str, Any],
) -> Grid:
    """The map from `[pair, *stored]` (NaN: no such cell, or not computed yet) and each pair's two baselines.

    Planes: `score`, the mean over pairs of the estimated effect (of its absolute value, where facts say so); and
    `estimated_recovery` for signed scores.
    """
    clean, corrupted = baselines
    absolute = bool(facts["absolute"])
    magnitude = np.abs(scores) if absolute else scores
    if "example" in described.over:
        shown, examples = described.by_example(magnitude), None
    else:
        examples = described.laid_out(scores)
        shown = means(described.laid_out(magnitude), ~np.isnan(examples)).astype(scores.dtype)
    planes = {"score": shown}
    if not absolute:
        planes["estimated_recovery"] = _recovery(described, scores, clean, corrupted, str(facts["direction"]))
    panel = panel_of(described, metric, facts, baselines)
    return Grid(
        panel.name, panel.title, panel.rows, panel.columns, panel.quantities, planes, examples,
        clean if examples is not None else None, corrupted if examples is not None else None, panel.facts,
    )  # fmt: skip


def panel_of(
    described: Map, metric: MetricFacts, facts: Mapping[str, Any], baselines: tuple[NDArray[Any], NDArray[Any]]
) -> Panel:
    """The description of one map; the colour domain of scores is that of the difference between the baselines."""
    clean, corrupted = (float(np.nanmean(one)) if np.isfinite(one).any() else 0.0 for one in baselines)
    reach = abs(clean - corrupted) or 1.0
    absolute = bool(facts["absolute"])
    score = Quantity(
        "score", "Estimated |effect|" if absolute else "Estimated effect", metric.unit,
        "sequential" if absolute else "diverging", (0.0, reach) if absolute else (-reach, reach),
    )  # fmt: skip
    recovery = Quantity(
        "estimated_recovery", "Estimated recovery", "share of the clean-corrupted difference", "diverging",
        (-1.0, 1.0), {"0": "corrupted run", "1": "clean run"},
    )  # fmt: skip
    over = f"{described.rows.name} and {described.columns.name}"
    return Panel(
        name=described.site,
        title=f"{MORE_TITLES.get(described.site, described.site)}: estimated effect of patching, by {over}",
        rows=described.rows,
        columns=described.columns,
        quantities=(score,) if absolute else (score, recovery),
        facts={"site": described.site, "metric": metric.name, "unit": metric.unit, "clean": clean,
               "corrupted": corrupted, **facts},
    )  # fmt: skip


def _recovery(
    described: Map, scores: NDArray[Any], clean: NDArray[Any], corrupted: NDArray[Any], direction: str
) -> NDArray[Any]:
    """(unpatched + score − corrupted) / (clean − corrupted), as a sweep's recovery; NaN where that is no number."""
    unpatched = corrupted if direction == "denoising" else clean
    if "example" not in described.over:
        patched = described.laid_out(scores) + unpatched[:, None, None]
        return aggregate(patched, clean, corrupted)[0].astype(scores.dtype)
    each = [
        aggregate((unpatched[n] + scores[n]).reshape(1, -1, 1), clean[n : n + 1], corrupted[n : n + 1])[0]
        for n in range(len(scores))
    ]
    return described.by_example(np.stack(each).reshape(scores.shape)).astype(scores.dtype)
