"""Direct logit attribution: what each component, head or neuron adds to a logit by itself (Elhage et al. 2021).

The final residual at the answer is r = embed + Σ writes. With the scale σ of the final norm frozen at the run's own,

    logit(a) − logit(f) = Σ_w  w · d  +  bias,     d = c(g ∘ u) / σ(r),   u = W_U[a] − W_U[f]

(means over several answers or foils; g the norm's gain, c its centring, bias = u · β + b_U[a] − b_U[f]). The sum is
exact, and every run says by how much it misses the metric (`error`). Steps, for each batch of pairs and each run:
1. one forward; the writes are read at the answer position only;
2. d, and behind a norm after a sublayer (sandwich norms) the direction before that norm, its scale frozen as well;
3. heads are z_h W_O[h] · d, neurons act_n W_out[n] · d, biases of projections a bar of their own.
The metric is that of the logits before a softcap, where the model has one: tanh is no sum of parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracing.errors import AdapterError, MetricError, SiteError, SpecError, Stopped
from tracing.events import Axis, Quantity, Tick
from tracing.families.certificate import TOLERANCE
from tracing.lenses.frozen import FrozenNorm
from tracing.lenses.places import heads_axis, layers_axis
from tracing.lenses.prompts import Batch, batches, is_whole, pairs_of, position_in, prompts_of
from tracing.lenses.readout import Readout
from tracing.lenses.steps import Step, Steps, finish
from tracing.lenses.writes import Part, parts_of, read_writes
from tracing.metrics import Targets, get, require_numbers
from tracing.models.pretrained import Pretrained
from tracing.prompts import TokenizedPair
from tracing.results import Bars, Grid

By = Literal["component", "head", "neuron"]
DirectMetric = Literal["logit_diff", "logit"]
RUNS: Final = ("clean", "corrupted", "difference")
KEPT: Final = 20_000
"""Contributions of every single pair are kept where there are at most this many a pair."""


@dataclass(frozen=True, slots=True, eq=False)
class DirectAttribution:
    """Contributions to the metric, in logits, of the clean run, the corrupted run and their difference.

    `bars` has one bar a part and one for the bias; the `grid` is layer × head (or sublayer), None for neurons.
    `examples[run]` is `[pair, bar]` where it was small enough to keep. `measured[run]` `[pair]` is the metric before
    any softcap; `error` the largest |Σ bars − measured| of a pair, relative to its Σ |bars|.
    """

    bars: Bars
    grid: Grid | None
    examples: dict[str, NDArray[Any]]
    measured: dict[str, NDArray[Any]]
    error: float


@dataclass(slots=True, eq=False)
class _Tally:
    """Sums over pairs by run, `[part]`, and of their squares."""

    total: dict[str, NDArray[Any]] = field(default_factory=dict)
    squares: dict[str, NDArray[Any]] = field(default_factory=dict)
    every: dict[str, list[tuple[tuple[int, ...], NDArray[Any]]]] = field(default_factory=dict)
    pairs: int = 0

    def add(self, numbers: tuple[int, ...], found: dict[str, NDArray[Any]]) -> None:
        self.pairs += len(numbers)
        for run, values in found.items():
            self.total[run] = self.total.get(run, 0.0) + values.sum(0)
            self.squares[run] = self.squares.get(run, 0.0) + np.square(values).sum(0)
            if values.shape[1] <= KEPT:
                self.every.setdefault(run, []).append((numbers, values))

    def mean(self, run: str) -> NDArray[Any]:
        found: NDArray[Any] = self.total[run] / self.pairs
        return found

    def error(self, run: str) -> NDArray[Any]:
        """Standard error of the mean."""
        spread = np.maximum(self.squares[run] / self.pairs - np.square(self.mean(run)), 0.0)
        found: NDArray[Any] = np.sqrt(spread / max(1, self.pairs - 1))
        return found

    def examples(self) -> dict[str, NDArray[Any]]:
        """`[pair, part]` by run, in the order of the pairs."""
        found = {}
        for run, parts in self.every.items():
            whole = np.zeros((self.pairs, parts[0][1].shape[1]))
            for numbers, values in parts:
                whole[list(numbers)] = values
            found[run] = whole
        return found


def direct_logit_attribution(
    model: Pretrained,
    pairs: Any,
    metric: DirectMetric = "logit_diff",
    *,
    by: By = "head",
    top: int = 20,
    position: int | None = None,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DirectAttribution:
    """Which components, heads or neurons write the answer into the residual stream themselves.

    `by` "component" splits into embedding, attention and MLP of each layer; "head" splits attention further; "neuron"
    splits MLPs, shows the `top` neurons by the size of their mean clean − corrupted difference, and adds up the others
    of a layer (`m3.rest`). `position` is where the metric is read (None: where the model answers). `progress(done,
    total)` counts pairs.

    Raises `SiteError` where the residual stream is no sum (post-norm models), the unembedding is not linear, or the
    family has no such parts; `MetricError` for a metric that is not linear in the logits; `PromptError` for unusable
    pairs; `AdapterError` where contributions do not add up to the metric; `Stopped` once `should_stop()`.
    """
    return finish(
        direct_steps(model, pairs, metric, by=by, top=top, position=position, batch=batch, should_stop=should_stop),
        progress,
    )


def direct_steps(
    model: Pretrained,
    pairs: Any,
    metric: DirectMetric = "logit_diff",
    *,
    by: By = "head",
    top: int = 20,
    position: int | None = None,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
) -> Steps[DirectAttribution]:
    """`direct_logit_attribution` step by step: the same arguments and errors, raised by the first step."""
    if metric not in ("logit_diff", "logit"):
        raise MetricError(
            f"Contributions to {metric!r} do not add up: it is not linear in the logits.",
            remedy="Use logit_diff or logit.",
        )
    if by not in ("component", "head", "neuron"):
        raise SpecError(f"by={by!r} is no split.", remedy='Split by "component", "head" or "neuron".')
    if not is_whole(top) or top < 1:
        raise SpecError(f"top={top!r} is no number of neurons.", remedy="Give 1 or more; 20 is usual.")
    readout = _readout(model)
    parts = parts_of(model, by)
    tokenized = pairs_of(model, pairs, needs_foil=metric if metric == "logit_diff" else "")
    runs = {run: prompts_of(model, tokenized, run=run) for run in ("clean", "corrupted")}
    for prompt in runs["clean"]:
        position_in(prompt, position, model)
    tally, done, worst = _Tally(), 0, 0.0
    measured = {run: np.zeros(len(tokenized)) for run in RUNS}
    capped = {run: np.zeros(len(tokenized)) for run in RUNS[:2]}
    width = sum(part.size for part in parts) * 8
    tokens = max(1, min(8192, 2**28 // width * min(prompt.length for prompt in runs["clean"])))
    for one, other in zip(*(batches(runs[run], batch, model.device, tokens) for run in runs), strict=True):
        if should_stop is not None and should_stop():
            raise Stopped
        found = {}
        for run, now in (("clean", one), ("corrupted", other)):
            places = [position_in(runs[run][number], position, model) for number in now.numbers]
            values, before, after = _contributions(model, readout, parts, now, places, tokenized, metric)
            found[run] = values
            measured[run][list(now.numbers)], capped[run][list(now.numbers)] = before, after
            off = np.abs(values.sum(1) - before) / np.maximum(np.abs(values).sum(1), 1e-30)
            worst = max(worst, float(off.max()))
        found["difference"] = found["clean"] - found["corrupted"]
        tally.add(one.numbers, found)
        done += one.rows
        yield Step(done, len(tokenized), partial(_grids, model, tally, parts, by, metric, {"pairs": done}))
    _require_sum(model, readout.norm, worst)
    measured["difference"] = measured["clean"] - measured["corrupted"]
    facts = {
        "metric": metric, "by": by, "pairs": len(tokenized), "sum_error": worst, "softcap": readout.cap,
        "before_softcap": bool(readout.cap), **{run: float(measured[run].mean()) for run in RUNS},
        **{f"{run}_after_softcap": float(capped[run].mean()) for run in capped if readout.cap},
    }  # fmt: skip
    bars = _bars(tally, parts, by, metric, top, facts)
    grid = next(iter(_grids(model, tally, parts, by, metric, facts)), None)
    return DirectAttribution(bars, grid, tally.examples(), measured, worst)


def _readout(model: Pretrained) -> Readout:
    """The readout. Raises `SiteError` where logits are not linear in what is written to the residual stream."""
    if model.adapter.residual == "post_norm":
        raise SiteError(
            f"Blocks of {model.family} norm the sum of residual and sublayer, so its final hidden state is no sum of "
            "what components write.",
            remedy="Direct contributions exist in pre-norm models; patch components instead.",
        )
    readout = Readout(model)
    if not readout.linear:
        raise SiteError(
            f"The head of {model.family} ({type(readout.unembed).__name__}) is not linear, so parts do not add up.",
            remedy="Use the logit lens, which reads through any head.",
        )
    return readout


def _contributions(
    model: Pretrained,
    readout: Readout,
    parts: Sequence[Part],
    batch: Batch,
    places: Sequence[int],
    pairs: Sequence[TokenizedPair],
    metric: str,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Contributions `[pair, part]` of one run, and its metric `[pair]` before and after the softcap."""
    writes = read_writes(model, parts, batch, places)
    chosen = [pairs[number] for number in batch.numbers]
    with torch.inference_mode():
        targets = Targets.of(chosen)
        columns = targets.columns()
        weight, bias = readout.columns(columns, writes.final.device)
        mixing = _mixing(targets.within(columns), len(columns), metric).to(writes.final.device)
        direction = mixing @ weight.double() * readout.scale
        constant = torch.zeros(len(chosen), dtype=torch.float64, device=writes.final.device)
        if bias is not None:
            constant = constant + mixing @ bias.double()
        if readout.norm is not None:
            direction, more = FrozenNorm.of(readout.norm).before(writes.final.double(), direction)
            constant = constant + more
        found = torch.cat([*(part.along(writes, direction) for part in parts), constant[:, None]], 1)
        measure, inner = get(metric), targets.within(columns)
        both = [measure(readout(writes.final, columns, capped=capped).double(), inner) for capped in (False, True)]
        require_numbers(both[0], chosen, measure, "its direct contributions")
    return found.cpu().numpy(), both[0].cpu().numpy(), both[1].cpu().numpy()


def _mixing(targets: Targets, columns: int, metric: str) -> Tensor:
    """The metric as weights of the columns' logits, `[pair, column]`."""
    mixing = torch.zeros(len(targets.answers), columns, dtype=torch.float64)
    for row, (answers, foils) in enumerate(zip(targets.answers, targets.foils, strict=True)):
        for column in answers:
            mixing[row, column] += 1 / len(answers)
        for column in foils if metric == "logit_diff" else ():
            mixing[row, column] -= 1 / len(foils)
    return mixing


def _require_sum(model: Pretrained, norm: nn.Module | None, error: float) -> None:
    allowed = TOLERANCE[model.dtype]
    if norm is not None and FrozenNorm.of(norm).rounding > 1e-12:
        allowed = max(allowed, TOLERANCE[torch.float32])
    if not error <= allowed:
        raise AdapterError(
            f"The contributions do not add up to the metric (off by {error:.1e} of their sizes).",
            remedy=f"The adapter of {model.family} leaves out something that is written to the residual stream.",
        )


# -- results ----------------------------------------------------------------------------------------------------------
TITLES: Final = {"clean": "Clean run", "corrupted": "Corrupted run", "difference": "Clean − corrupted"}


def _quantities(means: Sequence[NDArray[Any]]) -> tuple[Quantity, ...]:
    reach = max((float(np.abs(values).max(initial=0.0)) for values in means), default=0.0) or 1.0
    return tuple(
        Quantity(run, TITLES[run], "logits", "diverging", (-reach, reach), {"0": "adds nothing"}) for run in RUNS
    )


def _bars(tally: _Tally, parts: Sequence[Part], by: str, metric: str, top: int, facts: dict[str, Any]) -> Bars:
    names = [*(name for part in parts for name in part.names), "bias"]
    groups: list[tuple[str, list[int]]] = [(name, [n]) for n, name in enumerate(names)]
    if by == "neuron":
        groups = _top_neurons(parts, tally.mean("difference"), names, top)
    means = {run: np.array([tally.mean(run)[members].sum() for _, members in groups]) for run in RUNS}
    low = high = None
    if tally.pairs > 1 and by != "neuron":
        low = {run: means[run] - tally.error(run) for run in RUNS}
        high = {run: means[run] + tally.error(run) for run in RUNS}
    what = {"component": "component", "head": "head", "neuron": "neuron"}[by]
    return Bars(
        name=f"direct_{by}",
        title=f"Direct contribution of each {what} to the {get(metric).facts.title.lower()}",
        axis=Axis(what, what, tuple(Tick(name) for name, _ in groups)),
        quantities=_quantities(list(means.values())),
        values=means,
        low=low,
        high=high,
        facts={**facts, "bounds": "one standard error of the mean over pairs" if low else None},
    )


def _top_neurons(
    parts: Sequence[Part], difference: NDArray[Any], names: Sequence[str], top: int
) -> list[tuple[str, list[int]]]:
    """The strongest neurons by name, best first, and the others of each layer together; then everything else."""
    start, neurons, rest = 0, [], {}
    other: list[tuple[str, list[int]]] = []
    for part in parts:
        own = list(range(start, start + part.size))
        start += part.size
        if part.kind == "neuron":
            neurons += own
            rest[part.layer] = own
        else:
            other += [(names[n], [n]) for n in own]
    best = sorted(neurons, key=lambda n: -abs(float(difference[n])))[:top]
    shown = set(best)
    left = [(f"m{layer}.rest", [n for n in own if n not in shown]) for layer, own in rest.items()]
    return [*((names[n], [n]) for n in best), *left, *other, ("bias", [start])]


def _grids(
    model: Pretrained, tally: _Tally, parts: Sequence[Part], by: str, metric: str, facts: dict[str, Any]
) -> tuple[Grid, ...]:
    """Layer × head, or layer × sublayer."""
    if by == "neuron":
        return ()
    kinds = [kind for kind in dict.fromkeys(part.kind for part in parts) if kind not in ("embed", "bias")]
    columns = heads_axis(range(model.facts.n_heads))
    if by == "component":
        columns = Axis("sublayer", "sublayer", tuple(Tick(kind.removesuffix("_out")) for kind in kinds))
    planes = {run: np.full((model.facts.n_layers, len(columns)), np.nan) for run in RUNS}
    start = 0
    for part in parts:
        own = slice(start, start + part.size)
        start += part.size
        for run in RUNS:
            if by == "head" and part.kind == "head":
                planes[run][part.layer] = tally.mean(run)[own]
            elif by == "component" and part.kind in kinds:
                planes[run][part.layer, kinds.index(part.kind)] = tally.mean(run)[own][0]
    what = "head" if by == "head" else "sublayer"
    found = Grid(
        name=f"direct_layer_{what}",
        title=f"Direct contribution to the {get(metric).facts.title.lower()}, by layer and {what}",
        rows=layers_axis(range(model.facts.n_layers)),
        columns=columns,
        quantities=_quantities(list(planes.values())),
        planes=planes,
        facts=facts,
    )
    return (found,)
