"""Attribution patching: the effect of every patch of a model estimated from two forwards and one backward.

`attribution_patching` gives whole grids, `attribution_steps` the same after every batch (what the experiment streams).
For an activation n with value n_d in the run that is patched and n_s in the other,

    Î(n) = (n_s − n_d) · ∂metric/∂n at n_d

estimates metric(run with n := n_s) − metric(run), the exact effect that a sweep computes cell by cell. Its cost does
not depend on the number of cells or sites. Scores are per example sums over positions, heads and features; where
absolute values are asked for they are taken of these sums, before the mean over examples.
Sources: Nanda 2023, "Attribution patching"; Kramár et al. 2024 (arXiv 2403.00745), the query and key fix and GradDrop.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from tracing.errors import OutOfMemoryError, SiteError, SpecError, Stopped
from tracing.metrics import Metric, Targets, get, require_numbers
from tracing.models import LanguageModel
from tracing.patching.attribution_maps import Map, axes_of, grid, map_of
from tracing.patching.attribution_runs import Found, Inputs, Request, at_once, inputs_of, run_batch
from tracing.patching.attribution_sites import require_scores, spots
from tracing.patching.attribution_sources import SOURCES, SourceName, mean_source, partners, zero_source
from tracing.patching.baselines import to_numpy
from tracing.patching.footprint import REMEDY
from tracing.patching.inputs import Pairs, ready
from tracing.patching.memory import free, is_out_of_memory
from tracing.patching.sweeps import Direction
from tracing.prompts import TokenizedPair, require_usable
from tracing.results import Grid

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to estimate, beside what; see `attribution_patching`."""

    direction: Direction = "denoising"
    source: SourceName = "interchange"
    absolute: bool = False
    qk_fix: bool = False
    grad_drop: bool = False
    positions: Literal["start", "end"] = "end"
    layers: int | tuple[int, ...] | None = None
    spans: tuple[str, ...] = ()
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What every result says of its method."""
        return {
            "method": "atp_star" if self.qk_fix and self.grad_drop else "atp",
            "direction": self.direction,
            "source": self.source,
            "absolute": self.absolute or self.grad_drop,
            "qk_fix": self.qk_fix,
            "grad_drop": self.grad_drop,
            "positions": self.positions,
            **({} if self.layers is None else {"layers": list(np.atleast_1d(self.layers).tolist())}),
            **({"spans": list(self.spans)} if self.spans else {}),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Where an attribution stands after a batch."""

    done: int
    total: int
    """Pairs."""
    maps: "Maps"

    def grids(self) -> dict[str, Grid]:
        """The maps of the pairs done so far, by site."""
        return self.maps.grids()


class Maps:
    """Every pair's scores as they come in: NaN where a pair is not done, or has no such position."""

    def __init__(self, maps: Sequence[Map], metric: Metric, options: Options, pairs: int, dtype: torch.dtype) -> None:
        self.maps, self.metric, self.options = tuple(maps), metric, options
        self.rounding = torch.finfo(dtype).eps ** 0.75
        """Scores below this share of the baselines' difference are what rounding leaves of nothing."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        self.scores = {one.site: np.full((pairs, *one.shape), np.nan, kind) for one in maps}
        self.clean, self.corrupted = np.full(pairs, np.nan, kind), np.full(pairs, np.nan, kind)

    def put(self, numbers: Sequence[int], found: Found, members: Sequence[TokenizedPair]) -> None:
        """A batch's numbers, whose pairs are of one length."""
        clean_is_source = self.options.direction == "denoising"
        runs = (found.source, found.destination) if clean_is_source else (found.destination, found.source)
        self.clean[list(numbers)], self.corrupted[list(numbers)] = map(to_numpy, runs)
        for one in self.maps:
            self.scores[one.site][list(numbers)] = one.put(to_numpy(found.scores[one.site]), members)

    def grids(self) -> dict[str, Grid]:
        """One grid a site; means are over the pairs that are done and have the cell."""
        facts = {**self.options.facts, "pairs": int(np.isfinite(self.clean).sum()), "warnings": list(self.warnings())}
        return {
            one.site: grid(one, self.scores[one.site], (self.clean, self.corrupted), self.metric.facts, facts)
            for one in self.maps
        }

    def warnings(self) -> Iterator[str]:
        """What a reader of the maps should know."""
        done = np.isfinite(self.clean)
        span = float(np.abs(self.clean[done] - self.corrupted[done]).mean()) if done.any() else 0.0
        largest = max(
            (float(np.nanmax(np.abs(scores[done]), initial=0.0)) for scores in self.scores.values()), default=0
        )
        if span and largest <= self.rounding * span:
            yield (
                f"Every score is zero but for rounding: {self.metric.facts.name} has no slope at the run that is "
                f"patched ({'corrupted' if self.options.direction == 'denoising' else 'clean'}), which says nothing of "
                "the effects. Take another metric, such as logit_diff, or the other direction."
            )
        for name, values in (("clean", self.clean), ("corrupted", self.corrupted)):
            if not np.isfinite(values[done]).all():
                yield f"The {name} metric is not a number for some pairs."


def attribution_steps(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    sites: Sequence[str] = ("resid_pre",),
    over: Sequence[str] = ("layer", "position"),
    options: Options = Options(),
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Step]:
    """The attribution after every batch of pairs; arguments and errors as of `attribution_patching`.

    Everything that can be refused is refused at the call, before the first step is asked for.
    """
    _check(sites, over, options, batch)
    axes = axes_of(sites, over, options.layers)
    tokenized = ready(model, pairs)
    measure = get(metric)
    if measure.facts.needs_foil:
        require_usable(tokenized, measure.facts.name)
    groups = _groups(tokenized)
    partner = partners(groups, options.seed) if options.source == "resample" else {}
    from_end = options.positions == "end"
    maps = [
        map_of(
            site, axes, model.facts, tokenized, count=len(spots(model, site)), layers=options.layers,
            spans=options.spans, from_end=from_end,
        )
        for site in sites
    ]  # fmt: skip
    request = _request(model, maps, options)
    kept = Maps(maps, measure, options, len(tokenized), model.dtype)
    run = _Run(model, request, measure, options, tokenized, partner, should_stop or (lambda: False))
    return _steps(run, kept, groups, batch)


@dataclass(slots=True, eq=False)
class _Run:
    """What every batch of one attribution has in common."""

    model: LanguageModel
    request: Request
    metric: Metric
    options: Options
    pairs: tuple[TokenizedPair, ...]
    partner: dict[int, int]
    should_stop: Callable[[], bool]
    source: Any = None

    def inputs(self, numbers: Sequence[int], *, source: bool) -> dict[str, Tensor]:
        """The source's or the destination's prompts."""
        clean = source == (self.options.direction == "denoising")
        members = [self.pairs[n] for n in numbers]
        return inputs_of(self.model, members, clean=clean)

    def batch(self, numbers: Sequence[int]) -> Found:
        members = [self.pairs[n] for n in numbers]
        others = self.inputs([self.partner[n] for n in numbers], source=True) if self.partner else {}
        inputs = Inputs(
            self.inputs(numbers, source=True), self.inputs(numbers, source=False), members[0].answer_position, others
        )
        source = self.source and self.source(members)
        found = run_batch(
            self.model, self.request, self.metric, inputs, Targets.of(members),
            clean_is_source=self.options.direction == "denoising", source=source,
        )  # fmt: skip
        for values, place in ((found.source, "the run patched from"), (found.destination, "the run patched into")):
            require_numbers(values, members, self.metric, place)
        return found


def _steps(run: _Run, kept: Maps, groups: Sequence[Sequence[int]], batch: int | Literal["auto"]) -> Iterator[Step]:
    if run.options.source == "zero":
        run.source = zero_source
    elif run.options.source == "mean":
        run.source = mean_source(
            run.model, run.request.plain(run.model), run.pairs, groups, run.inputs, run.should_stop,
            from_end=run.options.positions == "end",
        )  # fmt: skip
    waiting = [
        list(group[lo : lo + size])
        for group in groups
        for size in [at_once(run.model, run.request, run.pairs[group[0]]) if batch == "auto" else batch]
        for lo in range(0, len(group), size)
    ]
    done = 0
    while waiting:
        if run.should_stop():
            raise Stopped
        numbers = waiting.pop(0)
        found = _try(run, numbers)
        if found is None:
            free(run.model.device)
            half = len(numbers) // 2
            waiting[:0] = [numbers[:half], numbers[half:]]
            continue
        kept.put(numbers, found, [run.pairs[n] for n in numbers])
        done += len(numbers)
        yield Step(done, len(run.pairs), kept)


def _try(run: _Run, numbers: Sequence[int]) -> Found | None:
    """One batch's numbers, or None where it does not fit and can be halved."""
    try:
        return run.batch(numbers)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(numbers) == 1:
            length = len(run.pairs[numbers[0]].clean_ids)
            raise OutOfMemoryError(
                f"The gradients of one prompt of {length} tokens do not fit in the memory of {run.model.device}.",
                remedy=REMEDY,
            ) from error
    return None


class Keywords(TypedDict, total=False):
    """The keyword arguments of `attribution_patching` beside its sites."""

    over: Sequence[str]
    direction: Direction
    source: SourceName
    absolute: bool
    qk_fix: bool
    grad_drop: bool
    positions: Literal["start", "end"]
    layers: int | Sequence[int] | None
    spans: Sequence[str]
    seed: int
    batch: int | Literal["auto"]
    should_stop: Callable[[], bool] | None
    progress: Progress | None


Measure = str | Callable[..., Any]


@overload
def attribution_patching(
    model: LanguageModel, pairs: Pairs, metric: Measure = ..., *, sites: str = ..., **options: Unpack[Keywords]
) -> Grid: ...
@overload
def attribution_patching(
    model: LanguageModel,
    pairs: Pairs,
    metric: Measure = ...,
    *,
    sites: tuple[str, ...] | list[str],
    **options: Unpack[Keywords],
) -> dict[str, Grid]: ...
def attribution_patching(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    sites: str | tuple[str, ...] | list[str] = "resid_pre",
    over: Sequence[str] = ("layer", "position"),
    direction: Direction = "denoising",
    source: SourceName = "interchange",
    absolute: bool = False,
    qk_fix: bool = False,
    grad_drop: bool = False,
    positions: Literal["start", "end"] = "end",
    layers: int | Sequence[int] | None = None,
    spans: Sequence[str] = (),
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> Grid | dict[str, Grid]:
    """Estimate the effect of patching every cell: a `Grid` for one site's name, a dict of them for several.

    A cell's `score` is the mean over pairs of (source − destination) · gradient at the destination, in the metric's
    unit: about metric(patched) − metric(unpatched). `estimated_recovery` is the same in a sweep's terms,
    (unpatched + score − corrupted) / (clean − corrupted). `grid.examples` `[pair, row, column]` are each pair's scores.

    `sites` are the standard sites that have layers, and "neurons" (the input of an MLP's last projection).
    `over` are the axes of the map as of a sweep: any of "example", "layer", "head", "position" or "span", "neuron", in
    this order, the last one its columns. What is not named is summed over: the estimate for patching all of it at once.
    `layers` are those of the map, by default all; without the axis "layer", one. `spans` are those of the axis "span".
    `direction`: "denoising" takes gradients in the corrupted run, "noising" in the clean one.
    `source`: "interchange" patches the pair's other run in, "zero" zeros, "mean" the mean over the pairs of the other
    run's activations at each position, "resample" another pair's other run (of the same length, by `seed`).
    `absolute` takes |scores| of each pair before the mean. `batch` is how many pairs run together, by default as fit.
    `qk_fix` (AtP*) takes q and k through the softmax exactly: the pattern after one replaced query or key, times the
    gradient of the pattern. `grad_drop` (AtP*) takes, for each layer, a backward without the gradient through what that
    layer writes, and gives 1/(L−1) times the sum of the absolute scores, so that paths that cancel show.
    Cost: 2 forwards and 1 backward of each pair, with `grad_drop` L backwards.
    `progress(done, total)` is called with numbers of pairs.

    Raises `SpecError` for axes or options that do not go together, `SiteError` for sites the family does not have (or
    attention that the fix cannot read), `MetricError` for a metric without gradient, `PromptError` for pairs that do
    not align, `OutOfMemoryError` where one pair does not fit, `Stopped` once `should_stop()`.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    options = Options(direction, source, absolute, qk_fix, grad_drop, positions, _fixed(layers), tuple(spans), seed)
    last = None
    for step in attribution_steps(
        model, pairs, metric, sites=names, over=over, options=options, batch=batch, should_stop=should_stop
    ):
        last = step
        if progress is not None:
            progress(step.done, step.total)
    assert last is not None
    found = last.grids()
    return found[sites] if isinstance(sites, str) else found


def atp_star(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    sites: tuple[str, ...] | list[str] = ("q", "k", "v", "z", "mlp_out"),
    **options: Unpack[Keywords],
) -> dict[str, Grid]:
    """AtP* (Kramár et al. 2024): `attribution_patching` with the query and key fix and GradDrop."""
    both: Keywords = {**options, "qk_fix": True, "grad_drop": True}
    return attribution_patching(model, pairs, metric, sites=sites, **both)


def _request(model: LanguageModel, maps: Sequence[Map], options: Options) -> Request:
    request = Request({one.site: one.kept for one in maps}, options.qk_fix, options.grad_drop)
    if options.qk_fix:
        if not request.fixed:
            raise SpecError("The query and key fix concerns the sites q and k.", remedy='Add them: sites=["q", "k"].')
        require_scores(model)
    if options.grad_drop and (model.facts.n_layers < 2 or model.adapter.encoder is not None):
        raise SiteError(
            "GradDrop averages over the other layers of one stack, so it needs two layers of a model without encoder.",
            remedy="Run it without grad_drop.",
        )
    return request


def _check(sites: Sequence[str], over: Sequence[str], options: Options, batch: int | str) -> None:
    if not sites or len(set(sites)) != len(sites):
        raise SpecError("Name at least one site, and each once.", remedy='For example sites=["resid_pre", "z"].')
    if options.direction not in ("denoising", "noising"):
        raise SpecError(f"Unknown direction {options.direction!r}.", remedy='Use "denoising" or "noising".')
    if options.source not in SOURCES:
        raise SpecError(f"Unknown source {options.source!r}.", remedy=f"Use one of {', '.join(SOURCES)}.")
    if options.qk_fix and options.source in ("zero", "mean"):
        raise SpecError(
            f"The query and key fix replaces queries and keys by another run's, not by {options.source} ones.",
            remedy='Use source="interchange" or "resample", or leave qk_fix out.',
        )
    if options.positions not in ("start", "end"):
        raise SpecError(f"Positions cannot be counted from {options.positions!r}.", remedy='Use "start" or "end".')
    if batch != "auto" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise SpecError(f"{batch!r} is no batch size.", remedy='Use "auto" or a number of pairs from 1 up.')


def _fixed(layers: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    return layers if layers is None or isinstance(layers, int | float) else tuple(layers)


def _groups(pairs: Sequence[TokenizedPair]) -> list[list[int]]:
    """Numbers of pairs that can run together, without padding."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for number, pair in enumerate(pairs):
        key = (len(pair.clean_ids), pair.answer_position, len(pair.decoder_ids))
        groups.setdefault(key, []).append(number)
    return list(groups.values())
