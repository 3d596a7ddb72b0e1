"""The activations that a sweep patches in: `source[site][layer]` of each group of pairs, from its source's rule.

A value belongs to a pair, a site and a layer. It is made once, before any batch, so that batches cannot change it:
draws are seeded by (seed, pair, site, layer), means are sums in float64 over all reference prompts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracing.errors import PromptError, SiteError
from tracing.models import LanguageModel
from tracing.patching.capture import Activations, capture
from tracing.patching.cells import site_of
from tracing.patching.footprint import Kept
from tracing.patching.inputs import inputs_of, one_prompt, ready
from tracing.patching.plan import Group, Plan
from tracing.patching.sources import Interchange, Mean, Noise, Resample, Source, Zero
from tracing.prompt_spans import Span
from tracing.prompts import TokenizedPair

Values = dict[str, list[Tensor]]
Stop = Callable[[], bool]


def check_source(source: Source, sites: Sequence[str]) -> None:
    """Raises `SiteError` for a source that would make no attention pattern."""
    if "pattern" in sites and (isinstance(source, Noise) or (isinstance(source, Mean) and source.over != "position")):
        raise SiteError(
            f"Attention patterns have no {source}: their rows are shares of the positions of one prompt.",
            remedy='Use "interchange", "zero", Mean("position") or Resample(seed).',
        )


def reference_of(model: LanguageModel, source: Source, pairs: Sequence[TokenizedPair]) -> tuple[TokenizedPair, ...]:
    """The prompts that a mean or a resample draws from: the given ones, or the sweep's own pairs.

    Raises `PromptError` for prompts that are neither pairs, texts nor rows of ids.
    """
    given = source.reference if isinstance(source, Mean | Resample) else None
    if given is None:
        return tuple(pairs)
    if all(hasattr(one, "corrupted") or isinstance(one, TokenizedPair) for one in given):
        return ready(model, list(given))
    return tuple(one_prompt(model, one, number) for number, one in enumerate(given, start=1))


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Makes the values of each group. `side` is "clean" or "corrupted": the source's."""

    model: LanguageModel
    plan: Plan
    source: Source
    pairs: Sequence[TokenizedPair]
    side: str
    should_stop: Stop
    reference: tuple[TokenizedPair, ...]
    means: "Means | None" = None

    @classmethod
    def of(
        cls, model: LanguageModel, plan: Plan, source: Source, pairs: Sequence[TokenizedPair], side: str, stop: Stop
    ) -> "Rule":
        """With a mean, the reference prompts run here."""
        reference = reference_of(model, source, pairs)
        means = _means(model, plan, source, reference, side, stop) if isinstance(source, Mean) else None
        return cls(model, plan, source, pairs, side, stop, reference, means)

    def values(self, group: Group, runs: Activations, destination: Activations, spread: "Spread") -> Values:
        """`[site][layer]` for the pairs of a group; `runs` are their source runs."""
        return {
            site: [self._value(group, site, layer, runs, destination, spread) for layer in self._layers]
            for site in self.plan.sites
        }

    @property
    def _layers(self) -> range:
        return range(self.plan.facts.n_layers)

    def drawn(self, group: Group, kept: Kept) -> Activations:
        """The runs of the prompts drawn for a group's pairs. Raises `PromptError` where there is none to draw."""
        assert isinstance(self.source, Resample)
        chosen = [self._draw(number) for number in group.pairs]
        return capture(
            self.model, inputs_of(self.model, chosen, self.side), kept, self.should_stop, answer=group.answer
        )

    def _draw(self, number: int) -> TokenizedPair:
        assert isinstance(self.source, Resample)
        own, pair = self.source.reference is None, self.pairs[number]
        able = [
            one
            for n, one in enumerate(self.reference)
            if (one.length, len(one.clean_ids)) == (pair.length, len(pair.clean_ids)) and not (own and n == number)
        ]
        if not able:
            raise PromptError(
                f"Pair {pair.number}: no other prompt of {pair.length} tokens to draw from.",
                remedy="Add prompts of that length, or give Resample(reference=...).",
                where={"pair": pair.number},
            )
        return able[int(np.random.default_rng([self.source.seed, number]).integers(len(able)))]

    def _value(
        self, group: Group, site: str, layer: int, runs: Activations, destination: Activations, spread: "Spread"
    ) -> Tensor:
        mine = _like(group, site, self.plan, self.model)
        if isinstance(self.source, Interchange | Resample):
            found = runs.sites[site][layer]
        elif isinstance(self.source, Zero):
            found = mine.zeros()
        elif isinstance(self.source, Mean):
            assert self.means is not None
            found = self.means.of(group, site, layer, self.plan, mine)
        else:
            found = self._noisy(group, site, layer, destination.sites[site][layer], spread)
        return self._some_heads(found, site, layer, destination)

    def _noisy(self, group: Group, site: str, layer: int, own: Tensor, spread: "Spread") -> Tensor:
        assert isinstance(self.source, Noise)
        wide = self.source.scale * spread.deviation(site, layer)
        found = own.clone()
        for row, number in enumerate(group.pairs):
            draw = torch.randn(own.shape[1:], generator=_generator(self.source.seed, number, site, layer))
            found[row] += (draw.to(own.device, torch.float64) * wide).to(own.dtype)
        return found

    def _some_heads(self, found: Tensor, site: str, layer: int, destination: Activations) -> Tensor:
        """With chosen heads patched together, the others keep what the destination has."""
        axes = self.plan.axes
        if axes.heads is None or axes.has("head"):
            return found
        own = destination.sites[site][layer]
        axis = 1 if site == "pattern" else 2
        chosen = torch.zeros(own.shape[axis], dtype=torch.bool, device=own.device)
        chosen[list(axes.heads)] = True
        return torch.where(chosen.reshape(-1, *(1,) * (own.dim() - axis - 1)), found, own)


def _generator(seed: int, number: int, site: str, layer: int) -> torch.Generator:
    text = f"{seed}/{number}/{site}/{layer}".encode()
    mixed = int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1
    return torch.Generator().manual_seed(mixed)


@dataclass(frozen=True, slots=True, eq=False)
class Like:
    """The shape a value must have."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def zeros(self) -> Tensor:
        """Zeros that take no memory to speak of."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shape)


def _like(group: Group, site: str, plan: Plan, model: LanguageModel) -> Like:
    facts, length = plan.facts, group.length
    heads = {"head": facts.n_heads, "kv_head": facts.n_kv_heads}.get(site_of(site).unit, 0)
    inner: tuple[int, ...] = (length, facts.d_model)
    if site == "pattern":
        inner = (heads, length, length)
    elif heads:
        inner = (length, heads, facts.d_model if site == "head_out" else facts.d_head)
    elif site == "neurons":
        inner = (length, facts.d_mlp)
    return Like((len(group.pairs), *inner), model.dtype, model.device)


# -- noise ------------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Spread:
    """Standard deviations of the destination's activations, by site and layer, over everything."""

    sums: dict[tuple[str, int], tuple[int, float, float]] = field(default_factory=dict)

    def add(self, sites: Sequence[str], runs: Activations) -> None:
        """Count a group's activations in."""
        for site in sites:
            for layer, value in enumerate(runs.sites[site]):
                wide = value.double()
                count, total, squares = self.sums.get((site, layer), (0, 0.0, 0.0))
                self.sums[site, layer] = (
                    count + wide.numel(), total + float(wide.sum()), squares + float(wide.square().sum())
                )  # fmt: skip

    def deviation(self, site: str, layer: int) -> float:
        """The (population) standard deviation."""
        count, total, squares = self.sums[site, layer]
        return float(max(0.0, squares / count - (total / count) ** 2) ** 0.5)


# -- means ------------------------------------------------------------------------------------------------------------
@dataclass(slots=True, eq=False)
class Means:
    """Sums over reference prompts. Keys: a position from the start or the end, a span's name, "" for all tokens, or
    for patterns a prompt's length."""

    over: str
    from_end: bool
    sums: dict[tuple[str, int], dict[Any, tuple[int, Tensor]]] = field(default_factory=dict)

    def add(self, sites: Sequence[str], prompts: Sequence[TokenizedPair], runs: Activations, layers: int) -> None:
        """Count a batch of reference prompts in."""
        for site in sites:
            for layer in range(layers):
                value = runs.sites[site][layer].double()
                into = self.sums.setdefault((site, layer), {})
                if site == "pattern":
                    _add(into, value.shape[-1], len(value), value.sum(0))
                    continue
                for row, prompt in enumerate(prompts):
                    for key, where in self._keys(prompt.spans, value.shape[1]):
                        _add(into, key, len(where), value[row, where].sum(0))

    def _keys(self, spans: Sequence[Span], length: int) -> Iterator[tuple[Any, list[int]]]:
        if self.over == "all":
            yield "", list(range(length))
        elif self.over == "position":
            yield from ((t - length if self.from_end else t, [t]) for t in range(length))
        else:
            named = [(name, list(range(start, end))) for name, start, end in spans]
            yield from named
            rest = sorted(set(range(length)) - {t for _, where in named for t in where})
            if rest:
                yield "", rest

    def of(self, group: Group, site: str, layer: int, plan: Plan, like: Like) -> Tensor:
        """The means as values of a group. Raises `PromptError` where the reference has no such place."""
        found = self.sums[site, layer]
        if site == "pattern":
            return self._get(found, group.length, plan, group).to(like.dtype).expand(like.shape)
        rows = torch.zeros(like.shape[1:], dtype=torch.float64, device=like.device)
        for key, where in self._keys(group.spans, group.length):
            rows[where] = self._get(found, key, plan, group)
        return rows.to(like.dtype).expand(like.shape)

    def _get(self, found: Mapping[Any, tuple[int, Tensor]], key: Any, plan: Plan, group: Group) -> Tensor:
        if key not in found:
            place = f"span {key!r}" if isinstance(key, str) else f"position {key}"
            raise PromptError(
                f"The mean has no prompt with {place if key != '' else 'tokens outside of its spans'}, which pairs of "
                f"{group.length} tokens have.",
                remedy='Add reference prompts of that kind, or use Mean("all").',
            )
        count, total = found[key]
        return total / count


def _add(into: dict[Any, tuple[int, Tensor]], key: Any, count: int, total: Tensor) -> None:
    before = into.get(key)
    into[key] = (count, total) if before is None else (before[0] + count, before[1] + total)


def _means(
    model: LanguageModel, plan: Plan, source: Mean, reference: Sequence[TokenizedPair], side: str, stop: Stop
) -> Means:
    found = Means(source.over, plan.from_end)
    if source.over == "span" and not any(prompt.spans for prompt in reference):
        raise PromptError("The mean is over spans, and its prompts name none.", remedy="Name spans in each pair.")
    by_size: dict[tuple[int, int], list[TokenizedPair]] = {}
    for prompt in reference:
        by_size.setdefault((prompt.length, len(prompt.clean_ids)), []).append(prompt)
    kept = Kept(frozenset(plan.sites))
    for prompts in by_size.values():
        for lo in range(0, len(prompts), REFERENCE_ROWS):
            some = prompts[lo : lo + REFERENCE_ROWS]
            runs = capture(model, inputs_of(model, some, side), kept, stop)
            found.add(plan.sites, some, runs, plan.facts.n_layers)
    return found


REFERENCE_ROWS = 64
"""Reference prompts of one length that run together: their activations are summed at once and let go."""
