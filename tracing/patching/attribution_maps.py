"""The maps that attribution fills: a sweep's axes and labels, and from every pair's scores to a `Grid`. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracing.errors import SiteError, SpecError
from tracing.events import Axis, Panel, Quantity, Tick
from tracing.families.facts import ModelFacts
from tracing.families.sites import ATTENTION_SITES, HEAD_SITES
from tracing.metric_facts import MetricFacts
from tracing.patching.axes import TITLES, _pair, _product, _span, aggregate, layer_axis, means, position_axis
from tracing.patching.cells import _axes, _numbers
from tracing.prompts import TokenizedPair
from tracing.results import Grid

MORE_TITLES: Final = {**TITLES, "scores": "Attention scores", "q_rot": "Rotated queries", "k_rot": "Rotated keys"}
KEYS_AND_VALUES: Final = ("k", "v", "k_rot")
"""Sites of the native key-value heads."""


def has_heads(site: str) -> bool:
    """Whether a site has a head axis."""
    return site in (*HEAD_SITES, *ATTENTION_SITES)


def axes_of(sites: Sequence[str], over: Sequence[str], layers: int | Sequence[int] | None) -> tuple[str, ...]:
    """The axes of a map, checked.

    Raises `SpecError` for axes that make no map or layers that are not named, `SiteError` for a site that lacks one.
    """
    chosen = _axes(over)
    if "layer" not in chosen and not isinstance(layers, int):
        raise SpecError(
            "A map without the axis of layers is that of one layer.", remedy='Give layers=3, or put "layer" in over.'
        )
    for site in sites:
        if "head" in chosen and not has_heads(site):
            raise SiteError(f"The site {site} has no head axis.", remedy="Sites with heads: z, q, k, v, pattern.")
        if "neuron" in chosen and site != "neurons":
            raise SiteError(f"The site {site} has no neuron axis.", remedy="Neuron maps need the site neurons.")
    return chosen


@dataclass(frozen=True, slots=True)
class Map:
    """One site's map. What is kept for each pair is `[layer, place, unit]`; an axis that is not wanted has size 1."""

    site: str
    over: tuple[str, ...]
    layers: tuple[int, ...]
    places: Axis | None
    """Positions or spans."""
    units: Axis | None
    """Heads or neurons."""
    examples: Axis
    from_end: bool

    @property
    def kept(self) -> frozenset[str]:
        """What runs need not sum over."""
        place = {"position"} if self.places else set()
        return frozenset(place | ({self.units.name} if self.units else set()))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one pair's scores."""
        return len(self.layers), len(self.places) if self.places else 1, len(self.units) if self.units else 1

    @property
    def inner(self) -> list[Axis]:
        """Axes inside of a layer, in a sweep's order: heads before places before neurons."""
        found = [axis for axis in (self.units, self.places) if axis is not None]
        return found[::-1] if "neuron" in self.over else found

    @property
    def rows(self) -> Axis:
        """All axes but the columns', as a sweep has them: "L3.H5"."""
        layer = [layer_axis(self.layers)] if "layer" in self.over or len(self.inner) < 2 else []
        if "example" not in self.over:
            return _product([*layer, *self.inner[:-1]])
        if not self.inner:
            return self.examples
        rows = [*(layer if "layer" in self.over else []), *self.inner[:-1], self.examples]
        return _product(rows)

    @property
    def columns(self) -> Axis:
        """The last axis."""
        if self.inner:
            return self.inner[-1]
        return layer_axis(self.layers) if "example" in self.over else Axis("all", "the whole site", (Tick("all"),))

    def put(self, scores: NDArray[Any], pairs: Sequence[TokenizedPair]) -> NDArray[Any]:
        """`[pair, layer, (position,) (unit)]` of pairs of one length, as `[pair, *shape]`; NaN where there is no such
        place."""
        values = scores[:, list(self.layers)]
        values = values if "position" in self.kept else np.expand_dims(values, 2)
        values = values if self.units else values[..., None]
        if self.places is None:
            return values
        found = np.full((len(values), *self.shape), np.nan, values.dtype)
        if self.places.name == "position":
            length = values.shape[2]
            first = self.shape[1] - length if self.from_end else 0
            found[:, :, first : first + length] = values
            return found
        for own, pair, target in zip(values, pairs, found, strict=True):
            named = {name: (start, end) for name, start, end in pair.spans}
            for place, tick in enumerate(self.places.ticks):
                if tick.label in named:
                    start, end = named[tick.label]
                    target[:, place] = own[:, start:end].sum(1)
        return found

    def laid_out(self, scores: NDArray[Any]) -> NDArray[Any]:
        """`[pair, *shape]` as `[pair, row, column]`, before pairs get rows of their own."""
        turned = scores if "neuron" in self.over else scores.swapaxes(2, 3)
        return turned.reshape(len(scores), -1, len(self.inner[-1]) if self.inner else 1)

    def by_example(self, laid: NDArray[Any]) -> NDArray[Any]:
        """`[pair, row, column]` as `[row, column]` of a map in which each pair has rows of its own."""
        if not self.inner:
            return laid[..., 0]
        return laid.swapaxes(0, 1).reshape(-1, laid.shape[-1])


def map_of(
    site: str,
    over: tuple[str, ...],
    facts: ModelFacts,
    pairs: Sequence[TokenizedPair],
    *,
    count: int,
    layers: int | Sequence[int] | None,
    spans: Sequence[str],
    from_end: bool,
) -> Map:
    """The map of one site of `count` layers; k and v have the native key-value heads.

    Raises `SpecError` for a span that no pair has, `SiteError` for a layer that is not there.
    """
    if spans and "span" not in over:
        raise SpecError("Spans are named, and no axis is of spans.", remedy='Put "span" in over, or leave spans out.')
    heads = facts.n_kv_heads if site in KEYS_AND_VALUES else facts.n_heads
    units = None
    if "head" in over:
        units = Axis("head", "key-value head" if heads < facts.n_heads else "head", _ticks(heads))
    elif "neuron" in over:
        units = Axis("neuron", "neuron", _ticks(facts.d_mlp))
    places = None
    if "position" in over:
        places = _positions(pairs, site, from_end=from_end)
    elif "span" in over:
        places = Axis("span", "span", tuple(_span(name, pairs) for name in _names(pairs, spans)))
    examples = Axis("example", "prompt pair", tuple(_pair(pair) for pair in pairs))
    return Map(site, over, _numbers(layers, count, "layer"), places, units, examples, from_end)


def _ticks(count: int) -> tuple[Tick, ...]:
    return tuple(Tick(str(n)) for n in range(count))


def _names(pairs: Sequence[TokenizedPair], spans: Sequence[str]) -> tuple[str, ...]:
    there = tuple(dict.fromkeys(name for pair in pairs for name, _, _ in pair.spans))
    missing = [name for name in spans if name not in there]
    if missing or not there:
        raise SpecError(
            f"No pair has the span {missing[0]!r}." if missing else "The pairs have no named spans.",
            remedy='Name them in each pair: PromptPair(..., spans={"subject": "Mary", "END": -1}).',
        )
    return tuple(spans) or there


def _positions(pairs: Sequence[TokenizedPair], site: str, *, from_end: bool) -> Axis:
    if not site.startswith("encoder_"):
        return position_axis(pairs, from_end=from_end)
    longest = max(len(pair.clean_ids) for pair in pairs)  # positions of these pairs are the decoder's
    return Axis("position", "encoder position", _ticks(longest))


def grid(
    described: Map,
    scores: NDArray[Any],
    baselines: tuple[NDArray[Any], NDArray[Any]],
    metric: MetricFacts,
    facts: Mapping[str, Any],
) -> Grid:
    """The map from `[pair, *shape]` (NaN: no such cell, or not computed yet) and each pair's two baselines.

    Planes: `score`, the mean over pairs of the estimated effect (of its absolute value, where facts say so); and
    `estimated_recovery` for signed scores.
    """
    clean, corrupted = baselines
    apart = "example" in described.over
    laid = described.laid_out(scores)
    each = np.abs(laid) if facts["absolute"] else laid
    planes = {"score": described.by_example(each) if apart else means(each, ~np.isnan(each)).astype(scores.dtype)}
    if not facts["absolute"]:
        unpatched = corrupted if facts["direction"] == "denoising" else clean
        planes["estimated_recovery"] = _recovery(laid + unpatched[:, None, None], clean, corrupted, described, apart)
    panel = panel_of(described, metric, facts, baselines)
    return Grid(
        panel.name, panel.title, panel.rows, panel.columns, panel.quantities, planes, None if apart else laid,
        None if apart else clean, None if apart else corrupted, panel.facts,
    )  # fmt: skip


def _recovery(
    patched: NDArray[Any], clean: NDArray[Any], corrupted: NDArray[Any], described: Map, apart: bool
) -> NDArray[Any]:
    """(patched − corrupted) / (clean − corrupted), as a sweep's recovery; NaN where that is no number."""
    if not apart:
        return aggregate(patched, clean, corrupted)[0].astype(patched.dtype)
    each = [aggregate(patched[[n]], clean[[n]], corrupted[[n]])[0] for n in range(len(patched))]
    return described.by_example(np.stack(each)).astype(patched.dtype)


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
    rows, columns = described.rows, described.columns
    by = " and ".join(axis.name.replace(".", ", ") for axis in (rows, columns) if axis.name != "all")
    return Panel(
        name=described.site,
        title=f"{MORE_TITLES.get(described.site, described.site)}: estimated effect of patching, by {by}",
        rows=rows,
        columns=columns,
        quantities=(score,) if absolute else (score, recovery),
        facts={"site": described.site, "metric": metric.name, "unit": metric.unit, "clean": clean,
               "corrupted": corrupted, "over": list(described.over), **facts},
    )  # fmt: skip
