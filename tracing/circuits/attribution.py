"""Edge attribution: an estimate of the effect of patching every edge, from a few forwards and backwards.

    S(u→v) = Σ over positions of (u_patched − u) · ∂metric/∂(reader v's own copy of the residual stream)

`edge_attribution` gives the scores, `attribution_steps` the same after every batch (what the experiment streams).
Sources: Syed et al. 2023 (arXiv 2310.10348), EAP; Hanna et al. 2024 (arXiv 2403.17806), EAP-IG; Marks et al. 2024
(arXiv 2403.19647), interpolating a source's own activation; Miller et al. 2024 (arXiv 2407.08734), edge masks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.circuits.costs import CPU_BYTES, graph_numbers
from tracing.circuits.edge_batches import (
    Aggregation,
    Batch,
    Direction,
    Method,
    Options,
    Rule,
    SourceName,
    Work,
)
from tracing.circuits.exact import Pairs, tokenized
from tracing.circuits.gradients import BLIND
from tracing.circuits.readout import Answer, check_answer, float_kind
from tracing.circuits.runs import Writes
from tracing.engines.allocation import device_bytes, free, is_out_of_memory
from tracing.errors import MetricError, OutOfMemoryError, PromptError, SpecError, Stopped
from tracing.metrics import get
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair, require_usable
from tracing.results import EdgeScores

Spans = Literal["position"] | Sequence[str] | None
SPAN_BYTES: Final = 2**31
STEPLESS: Final = ("rank", "accuracy")
REST: Final = "elsewhere"
"""The span of positions that no named span has."""
TITLES: Final = {
    "eap": "Edge attribution patching",
    "eap-ig-inputs": "Edge attribution patching, integrated over inputs",
    "eap-ig-activations": "Edge attribution patching, integrated over activations",
    "ig-mask": "Integrated gradients of edge masks",
}


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Where an attribution stands after a batch."""

    done: int
    total: int
    """Forwards with a backward."""
    pairs: int
    """How many pairs the scores are the mean of."""
    scores: EdgeScores


def edge_attribution(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    method: Method = "eap",
    steps: int = 5,
    rule: Rule = "left",
    direction: Direction = "noising",
    source: SourceName = "interchange",
    aggregation: Aggregation = "signed",
    spans: Spans = None,
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EdgeScores:
    """Estimate metric(edge patched) − metric(unpatched) for every edge: `scores [source, reader]`, in metric units.

    A pair's score is a sum over positions and features; scores are means over pairs, of absolute values with
    `aggregation="absolute"`. They do not depend on how pairs are batched. An edge that the answer needs is negative
    under noising and positive under denoising.

    `method`, with w from 0 (nothing patched) to 1 and means over `steps` of the gradients there:
    "eap", gradients at w = 0 alone; "eap-ig-inputs", the token embedding is moved to w; "eap-ig-activations", what the
    edge's own source writes (all heads of a layer together) is moved to w; "ig-mask", all edges are moved to w at once
    and the difference is that from the live value. Only the last two are exact sums of what they integrate.
    `rule` says where steps lie, counted from the corrupted (or zero, or mean) end: "left" begins there, as EAP-IG does,
    "right" ends at the other one, "midpoint" is the most exact. Plain EAP has neither steps nor rule.
    `direction`: "noising" patches edges of the clean run, "denoising" of the corrupted one.
    `source` is what a patched edge carries: "interchange" the source's value in the pair's other prompt, "mean" the
    mean over those prompts of equally long pairs at each position, "zero" nothing. Of `input` that is the token
    embedding; position embeddings stay.
    `spans`: "position", or names of the pairs' spans, gives `span_scores [span, source, reader]` too, whose sum is
    `scores` where signed; positions in no named span are "elsewhere". Positions of pairs of unequal lengths count from
    the end. `answer` is the position whose logits the metric reads, "pair" the pair's own; "all" gives a metric
    function `[pair, position, vocab]`.
    Where a norm follows attention (Gemma, OLMo 2), a head's write is taken through that norm's derivative at the
    unpatched run. `batch` is how many pairs run together. `progress(done, total)` counts forwards with a backward.

    Cost: 2 forwards and 1 backward a batch, with `steps` m at most 2 + m forwards and m backwards
    ("eap-ig-activations": 2L + 1 times m of each), and the contraction. Memory beyond the activations does not grow
    with the prompts.
    Raises `SiteError` where the family has no edges, `MetricError` for a metric without gradient, `PromptError` for
    pairs that do not align or lack a foil or a span, `SpecError`, `OutOfMemoryError` where one pair does not fit,
    `Stopped` once `should_stop()`.
    """
    *_, last = attribution_steps(
        model, pairs, metric, method=method, steps=steps, rule=rule, direction=direction, source=source,
        aggregation=aggregation, spans=spans, answer=answer, batch=batch, should_stop=should_stop, progress=progress,
    )  # fmt: skip
    return last.scores


def attribution_steps(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    method: Method = "eap",
    steps: int = 5,
    rule: Rule = "left",
    direction: Direction = "noising",
    source: SourceName = "interchange",
    aggregation: Aggregation = "signed",
    spans: Spans = None,
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Step]:
    """The mean scores after every batch; arguments and errors as of `edge_attribution`.

    Everything that can be refused is refused at the call, before the first step is asked for.
    """
    options = Options(method, steps, rule, direction, source, aggregation)
    check_options(options, batch)
    found = tokenized(model, pairs)
    measure = get(metric)
    check_answer(measure, answer, isinstance(metric, str), found)
    if isinstance(metric, str) and metric in STEPLESS:
        raise MetricError(
            f"The metric {metric!r} has no gradient: it does not change smoothly with the logits.",
            remedy="Use logit_diff, log_prob or prob_diff.",
        )
    if measure.facts.needs_foil:
        require_usable(found, measure.facts.name)
    names, numbers = _spans(found, spans)
    work = Work(model, measure, options, len(names), answer, should_stop or (lambda: False))
    _check_span_bytes(work, names)
    return _Run(work, found, names, numbers, batch, progress).steps()


def check_options(options: Options, batch: int | str = "auto") -> None:
    """Raises `SpecError` for an option that does not exist."""
    known = {"method": Method, "rule": Rule, "direction": Direction, "source": SourceName, "aggregation": Aggregation}
    for name, values in known.items():
        value = getattr(options, name)
        if value not in get_args(values):
            raise SpecError(f"Unknown {name} {value!r}.", remedy=f"Use one of {', '.join(get_args(values))}.")
    if not _counts(options.steps):
        raise SpecError(f"{options.steps!r} is no number of steps.", remedy="Use 1 or more; 5 is usual.")
    if batch != "auto" and not _counts(batch):
        raise SpecError(f"{batch!r} is no batch size.", remedy='Use "auto" or a number of pairs from 1 up.')


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class _Run:
    """Batch after batch, with what they add up to."""

    def __init__(
        self,
        work: Work,
        pairs: Sequence[TokenizedPair],
        spans: tuple[str, ...],
        numbers: list[Tensor],
        batch: int | Literal["auto"],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.work, self.pairs, self.spans, self.numbers = work, pairs, spans, numbers
        self.batch, self.progress = batch, progress
        self.done = self.total = self.pairs_done = 0
        self.sums = torch.zeros(())
        self.span_sums: Tensor | None = None
        self.clean: list[Tensor] = []
        self.corrupted: list[Tensor] = []
        self.gradient = False
        work.passed = self._passed

    def _passed(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def steps(self) -> Iterator[Step]:
        """Run batch after batch; one that does not fit is halved."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, pair in enumerate(self.pairs):
            groups.setdefault((pair.length, pair.answer_position), []).append(number)
        sizes = {key: self._size(key[0]) for key in groups}
        passes = self.work.options.passes(self.work.layout)
        self.total = sum(-(-len(numbers) // sizes[key]) for key, numbers in groups.items()) * passes
        for key, numbers in groups.items():
            size = sizes[key]
            mean = None
            if self.work.options.source == "mean":
                # Positions are the same places in all pairs of one length, wherever their answers are.
                same = [pair for pair in self.pairs if pair.length == key[0]]
                mean = self.work.mean_writes(same, size)
            waiting = _cut(numbers, size)
            while waiting:
                some = waiting.pop(0)
                found = self._try(some, mean)
                if found is None:
                    free(self.work.model.device)
                    waiting[:0] = _cut(some, -(-len(some) // 2))
                    self.total += passes
                    continue
                self._put(some, found)
                yield Step(self.done, self.total, self.pairs_done, self.scores())

    def _size(self, length: int) -> int:
        if self.batch != "auto":
            return self.batch
        facts, device = self.work.model.facts, self.work.model.device
        room = CPU_BYTES if device.type == "cpu" else (device_bytes(device) or 4 * CPU_BYTES) // 3
        numbers = graph_numbers(facts)
        if self.work.model.attention == "eager":
            numbers += facts.n_layers * 3 * facts.n_heads * length
        return max(1, room // (numbers * length * self.work.model.dtype.itemsize))

    def _try(self, numbers: Sequence[int], mean: Writes | None) -> Batch | None:
        """One batch, or None where it does not fit and can be halved."""
        members = [self.pairs[n] for n in numbers]
        spans = torch.stack([self.numbers[n] for n in numbers]) if self.spans else None
        before = self.done
        try:
            return self.work.batch(members, spans, mean)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(numbers) == 1:
                raise OutOfMemoryError(
                    f"The activations of one pair of {members[0].length} tokens, with what their gradients need, do "
                    f"not fit in the memory of {self.work.model.device}.",
                    remedy="Use shorter prompts or a smaller precision.",
                    where={"tokens": members[0].length},
                ) from error
        self.done = before
        return None

    def _put(self, numbers: Sequence[int], found: Batch) -> None:
        self.sums = self.sums.to(found.scores) + found.scores
        if found.spans is not None:
            self.span_sums = found.spans if self.span_sums is None else self.span_sums + found.spans
        self.pairs_done += len(numbers)
        self.clean.append(found.clean)
        self.corrupted.append(found.corrupted)
        self.gradient = self.gradient or found.gradient

    def _blind(self) -> bool:
        """Whether gradients were zero, or so small that they are rounding errors."""
        whole = (torch.cat(self.clean) - torch.cat(self.corrupted)).abs().double().mean()
        total = self.sums.abs().sum() / self.pairs_done
        return not self.gradient or 0 < float(total) <= BLIND * float(whole)

    def scores(self) -> EdgeScores:
        """The mean over the pairs so far."""
        work, options = self.work, self.work.options
        kind = float_kind(work.model)
        stepped = options.method != "eap"
        facts = {
            "method": options.method,
            "steps": options.steps if stepped else None,
            "rule": options.rule if stepped else None,
            "metric": work.metric.facts.name,
            "unit": work.metric.facts.unit,
            "direction": options.direction,
            "source": options.source,
            "aggregation": options.aggregation,
            "pairs": self.pairs_done,
            "clean": float(torch.cat(self.clean).double().mean()),
            "corrupted": float(torch.cat(self.corrupted).double().mean()),
            "dtype": str(work.model.dtype).removeprefix("torch."),
            "edges": work.layout.n_edges,
            "warnings": [_no_gradient(work)] if self._blind() else [],
        }
        return EdgeScores(
            name="edges",
            title=TITLES[options.method],
            sources=work.layout.sources,
            readers=work.layout.readers,
            real=work.layout.real,
            scores=_array(self.sums / self.pairs_done, kind),
            spans=self.spans,
            span_scores=None if self.span_sums is None else _array(self.span_sums / self.pairs_done, kind),
            facts=facts,
        )


def _array(values: Tensor, kind: Any) -> NDArray[Any]:
    found: NDArray[Any] = values.cpu().numpy().astype(kind)
    return found


def _no_gradient(work: Work) -> str:
    return (
        f"The gradient of {work.metric.facts.name} is zero wherever it was taken, so every score is zero or a "
        "rounding error: the metric is at a minimum (as a divergence from that very run is) or saturated. Use "
        "logit_diff, or integrate."
    )


def _cut(numbers: Sequence[int], size: int) -> list[list[int]]:
    return [list(numbers[lo : lo + size]) for lo in range(0, len(numbers), size)]


def _spans(pairs: Sequence[TokenizedPair], spans: Spans) -> tuple[tuple[str, ...], list[Tensor]]:
    """Names of the spans, and a span's number for each token of each pair."""
    if spans is None:
        return (), []
    if spans == "position":
        longest = max(pair.length for pair in pairs)
        from_end = any(pair.length != longest for pair in pairs)
        names = tuple(str(t - longest) if from_end else str(t) for t in range(longest))
        return names, [torch.arange(longest - pair.length, longest) for pair in pairs]
    wanted = tuple(spans) if not isinstance(spans, str) else ()
    if not wanted or len(set(wanted)) != len(wanted) or REST in wanted:
        raise SpecError(
            f"{spans!r} are no spans.", remedy='Use "position", or a list of names of the pairs\' spans, each once.'
        )
    numbers = [_numbers(pair, wanted) for pair in pairs]
    rest = any(bool((one == len(wanted)).any()) for one in numbers)
    return (*wanted, REST) if rest else wanted, numbers


def _numbers(pair: TokenizedPair, wanted: Sequence[str]) -> Tensor:
    """The number of each token's span; those of none get the one behind the last."""
    found = np.full(pair.length, len(wanted))
    there = {name: (first, stop) for name, first, stop in pair.spans}
    for number, name in enumerate(wanted):
        if name not in there:
            known = ", ".join(there) or "none"
            raise PromptError(
                f"Pair {pair.number} has no span {name!r}.",
                remedy=f"Its spans: {known}. Give every pair the spans that scores are split by.",
                where={"pair": pair.number, "field": "spans"},
            )
        first, stop = there[name]
        if (found[first:stop] != len(wanted)).any():
            raise PromptError(
                f"Pair {pair.number}: the span {name!r} shares a position with another one.",
                remedy="Scores are split over spans, so those must not overlap.",
                where={"pair": pair.number, "field": "spans"},
            )
        found[first:stop] = number
    return torch.from_numpy(found)


def _check_span_bytes(work: Work, names: Sequence[str]) -> None:
    layout = work.layout
    size = len(names) * len(layout.sources) * len(layout.readers) * work.weights.sums.itemsize
    if size > SPAN_BYTES:
        raise SpecError(
            f"Scores of {len(names)} spans × {layout.n_edges:,} edges would take {size / 2**30:.1f} GiB.",
            remedy="Name a few spans instead of every position, or use shorter prompts.",
            where={"bytes": size, "limit": SPAN_BYTES},
        )


__all__ = ["Step", "Stopped", "attribution_steps", "check_options", "edge_attribution"]
