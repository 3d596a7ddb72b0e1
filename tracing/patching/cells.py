"""The cells of a sweep: which axes there are, and what each cell patches. Torch-free.

Axes, in this order: example, layer, head, position (or span), neuron. Axes that are not asked for are patched jointly:
all positions, all heads, all neurons; several layers without the axis "layer" are patched at once. The last axis is the
map's columns, the others its rows ("L3.H5"), layer by layer. Exception: "layer" alone stands in the rows, beside one
column. "example" gives each pair a row and costs nothing: the same numbers, not averaged.

A row of the plan belongs to one layer (or to the layers patched at once); inside of it a *slot* counts the cells:
(head, place, neuron) in row-major order, a place being a column of positions, or a span.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Literal, NamedTuple

from tracing.errors import SiteError, SpecError
from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts
from tracing.families.registry import adapter_of

AxisName = Literal["example", "layer", "head", "position", "span", "neuron"]
AXES: Final[tuple[str, ...]] = ("example", "layer", "head", "position", "span", "neuron")

Unit = Literal["", "head", "kv_head", "neuron"]


class Site(NamedTuple):
    """What a site is made of, and where its patch ends."""

    title: str
    unit: Unit = ""
    entrance: bool = False
    """True where it is patched before its block."""
    local: bool = True
    """True where a position's patch changes only that position of the block's own output."""


SITES: Final[dict[str, Site]] = {
    "resid_pre": Site("Residual stream before each block", entrance=True),
    "resid_mid": Site("Residual stream between attention and MLP"),
    "resid_post": Site("Residual stream after each block"),
    "attn_out": Site("Attention output"),
    "mlp_out": Site("MLP output"),
    "mixer_out": Site("Mixer output"),
    "cross_out": Site("Cross-attention output"),
    "q": Site("Queries", "head"),
    "k": Site("Keys", "kv_head", local=False),
    "v": Site("Values", "kv_head", local=False),
    "pattern": Site("Attention patterns, by query", "head"),
    "z": Site("Head outputs z", "head"),
    "head_out": Site("Head outputs in the residual stream", "head"),
    "neurons": Site("MLP neurons", "neuron"),
}
"""Every site that can be patched."""


class Slot(NamedTuple):
    """One cell of a layer: the head or neuron (None: all), and the place (None: every position)."""

    unit: int | None
    place: int | None


@dataclass(frozen=True, slots=True)
class Cells:
    """The axes of a sweep, checked."""

    over: tuple[str, ...]
    layers: tuple[int, ...]
    """One row (or block of rows) each; without the axis "layer", all patched at once."""
    heads: tuple[int, ...] | None = None
    """Heads that are columns, or that are patched together; None: all."""
    spans: tuple[str, ...] = ()
    """Spans that are columns, or whose tokens are patched together."""

    def has(self, axis: str) -> bool:
        return axis in self.over

    @property
    def joint(self) -> bool:
        """True where every row patches all of the layers at once."""
        return "layer" not in self.over

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes inside of a layer."""
        return tuple(axis for axis in self.over if axis not in ("example", "layer"))

    @property
    def places(self) -> Literal["position", "span", ""]:
        """Which axis the places of slots are of."""
        return "position" if self.has("position") else "span" if self.has("span") else ""

    def steps(self) -> tuple[tuple[int, ...], ...]:
        """The layers that each block of rows patches."""
        return (self.layers,) if self.joint else tuple((layer,) for layer in self.layers)

    def units(self, site: str, facts: ModelFacts) -> tuple[int, ...]:
        """The heads or neurons that the axis has at a site."""
        if self.has("neuron"):
            return tuple(range(facts.d_mlp))
        return self.heads if self.heads is not None else tuple(range(count_units(site, facts)))

    def shape(self, site: str, facts: ModelFacts, places: int) -> tuple[int, int]:
        """Rows of a layer, and columns, of a site's map with so many places."""
        sizes = self._sizes(site, facts, places)
        return prod(sizes[:-1]), sizes[-1] if sizes else 1

    def _sizes(self, site: str, facts: ModelFacts, places: int) -> tuple[int, ...]:
        return tuple(len(self.units(site, facts)) if axis in ("head", "neuron") else places for axis in self.axes)

    def slots(self, site: str, facts: ModelFacts, places: int) -> tuple[Slot, ...]:
        """Every cell of a layer, row by row."""
        sizes, units = self._sizes(site, facts, places), self.units(site, facts)
        found = []
        for number in range(prod(sizes)):
            index = dict(zip(reversed(self.axes), _unravel(number, sizes), strict=True))
            unit = index.get("head", index.get("neuron"))
            found.append(Slot(None if unit is None else units[unit], index.get("position", index.get("span"))))
        return tuple(found)


def _unravel(number: int, sizes: Sequence[int]) -> list[int]:
    """Indices of a row-major number, last axis first."""
    found = []
    for size in reversed(sizes):
        number, index = divmod(number, size)
        found.append(index)
    return found


def count_units(site: str, facts: ModelFacts) -> int:
    """How many heads or neurons a site has; 0 where it has none."""
    sizes = {"": 0, "head": facts.n_heads, "kv_head": facts.n_kv_heads, "neuron": facts.d_mlp}
    return sizes[site_of(site).unit]


def cells_of(
    facts: ModelFacts,
    sites: Sequence[str],
    over: Sequence[str],
    *,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    spans: str | Sequence[str] | None = None,
    adapter: Adapter | None = None,
) -> Cells:
    """Check sites and axes against a model's sizes.

    Raises `SpecError` for axes that contradict each other, `SiteError` for a site, layer or head that the model lacks,
    or a site without an axis.
    """
    chosen = _axes(over)
    adapter = adapter or adapter_of(facts.family)
    if not sites:
        raise SpecError("No site is named.", remedy='Name one, such as "resid_pre".')
    require_sites(facts, sites, adapter)
    if layers is None and "layer" not in chosen:
        raise SpecError(
            f"A map over {_named(chosen)} does not say which layers to patch.",
            remedy='Give layers=: one, or several that are patched at once; or put "layer" among the axes.',
        )
    found = _numbers(layers, facts.n_layers, "layer")
    for site in sites:
        _require_axes(site, chosen, heads is not None, facts)
    if spans is not None and "position" in chosen:
        raise SpecError(
            "A map over positions has all of them.", remedy='Leave spans out, or put "span" in place of "position".'
        )
    names = (spans,) if isinstance(spans, str) else tuple(spans or ())
    return Cells(chosen, found, _heads(heads, sites, facts), names)


def require_sites(facts: ModelFacts, sites: Sequence[str], adapter: Adapter) -> None:
    """Raises `SiteError` for a family that cannot be swept, and for a site that is not one of its blocks'."""
    if not adapter.walk:
        raise SiteError(
            f"Activation patching sweeps do not run on the family {facts.family}: its adapter does not say how its "
            "blocks are walked.",
            remedy="Patch in a trace, or give the adapter a walk.",
            where={"family": facts.family},
        )
    able = adapter.patchable
    for site in sites:
        if site not in able:
            raise SiteError(
                f"The site {site!r} cannot be patched on the family {facts.family}.",
                remedy=f"Its sites: {', '.join(able)}.",
                where={"site": site, "family": facts.family},
            )


def site_of(name: str) -> Site:
    """What is known of a site; of one that only an adapter of one's own has, the least."""
    return SITES.get(name) or Site(name, local=False)


def _axes(over: Sequence[str]) -> tuple[str, ...]:
    chosen = (over,) if isinstance(over, str) else tuple(over)
    unknown = [axis for axis in chosen if axis not in AXES]
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise SpecError(
            f"A map cannot be over {_named(chosen)}.", remedy=f"Axes, each once at most: {', '.join(AXES)}."
        )
    ordered = tuple(sorted(chosen, key=AXES.index))
    if ordered != chosen:
        raise SpecError(
            f"A map cannot be over {_named(chosen)} in this order.", remedy=f"Write over={_named(ordered)}."
        )
    for one, other in (("position", "span"), ("head", "neuron")):
        if one in chosen and other in chosen:
            raise SpecError(f"A map cannot be over {one}s and {other}s at once.", remedy="Choose one of them.")
    return chosen


def _named(axes: Sequence[str]) -> str:
    return "(" + ", ".join(f'"{axis}"' for axis in axes) + ("," if len(axes) == 1 else "") + ")"


def _require_axes(site: str, over: tuple[str, ...], some_heads: bool, facts: ModelFacts) -> None:
    unit = site_of(site).unit
    if ("head" in over or some_heads) and unit not in ("head", "kv_head"):
        with_heads = ", ".join(name for name, one in SITES.items() if one.unit in ("head", "kv_head"))
        raise SiteError(f"The site {site} has no head axis.", remedy=f"Sites with heads: {with_heads}.")
    if "neuron" in over and unit != "neuron":
        raise SiteError(f"The site {site} has no neuron axis.", remedy="Neuron maps need the site neurons.")
    if unit and not count_units(site, facts):
        raise SiteError(f"The family {facts.family} has no {unit}s.", remedy="Choose another site.")


def _heads(heads: int | Sequence[int] | None, sites: Sequence[str], facts: ModelFacts) -> tuple[int, ...] | None:
    if heads is None:
        return None
    counts = {count_units(site, facts): site for site in sites}
    return _numbers(heads, min(counts), "head")


def _numbers(chosen: Any, count: int, name: str) -> tuple[int, ...]:
    """Layers or heads as numbers from 0; those from the end are negative."""
    if chosen is None:
        return tuple(range(count))
    listed: list[Any] = list(chosen) if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]
    for one in listed:
        # True and 1.0 are equal to 1, and would pass for it.
        if not hasattr(one, "__index__") or isinstance(one, bool) or not -count <= one < count:
            raise SiteError(f"There is no {name} {one!r}.", remedy=f"There are {count}: 0 to {count - 1}.")
    found = tuple(int(one) % count for one in listed)
    if not found or len(set(found)) != len(found):
        raise SpecError(f"The {name}s {listed} are none, or one is named twice.", remedy=f"Name each {name} once.")
    return found
