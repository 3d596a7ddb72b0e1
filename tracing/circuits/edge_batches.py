"""Edge scores of one batch of equally long pairs: its runs, their gradients, and the contraction.

Let w be how much of the patch is in place: 0 is the unpatched run, 1 the patched values. Each method takes gradients at
some w and multiplies them with what patching changes at a source, patched − unpatched.

    eap                 w = 0 only; 2 forwards, 1 backward
    eap-ig-inputs       the token embedding is moved to w; mean of the gradients over the steps
    eap-ig-activations  one layer's heads, or one MLP, or the embedding is moved to w: the gradients for its own edges
    ig-mask             every edge at once is moved to w, with live values; the difference is taken at each step, too
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from torch import Tensor

from tracing.circuits.contraction import Readers, Sources, Weights, contract
from tracing.circuits.layout import Layout
from tracing.circuits.parts import Block, blocks_of
from tracing.circuits.readout import Answer
from tracing.circuits.runs import Writes
from tracing.circuits.taps import Point, Seen, forward
from tracing.errors import Stopped
from tracing.metrics import Metric, Targets, require_numbers
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

Method = Literal["eap", "eap-ig-inputs", "eap-ig-activations", "ig-mask"]
Rule = Literal["left", "right", "midpoint"]
Direction = Literal["noising", "denoising"]
SourceName = Literal["interchange", "zero", "mean"]
Aggregation = Literal["signed", "absolute"]
METHODS: Final = ("eap", "eap-ig-inputs", "eap-ig-activations", "ig-mask")


@dataclass(frozen=True, slots=True)
class Options:
    """How scores are made."""

    method: Method = "eap"
    steps: int = 5
    rule: Rule = "left"
    direction: Direction = "noising"
    source: SourceName = "interchange"
    aggregation: Aggregation = "signed"

    def weights(self) -> list[float]:
        """The w of each step. α runs from 0 at the corrupted (or zero, or mean) end to 1 at the other end."""
        if self.method == "eap":
            return [0.0]
        shift = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[self.rule]
        alphas = [(step + shift) / self.steps for step in range(self.steps)]
        from_patch = self.source != "interchange" or self.direction == "noising"
        return [1 - alpha if from_patch else alpha for alpha in alphas]

    def passes(self, layout: Layout) -> int:
        """How many forwards with a backward one batch takes."""
        groups = 2 * layout.n_layers + 1 if self.method == "eap-ig-activations" else 1
        return groups * len(self.weights())


@dataclass(slots=True)
class Batch:
    """What one batch gives."""

    scores: Tensor
    """Sum over its pairs, `[source, reader]`."""
    spans: Tensor | None
    """The same split over spans, `[span, source, reader]`."""
    clean: Tensor
    """The metric of each pair."""
    corrupted: Tensor
    gradient: bool
    """Whether any gradient was other than zero."""


@dataclass(slots=True, eq=False)
class Work:
    """What all batches of one attribution have in common."""

    model: LanguageModel
    metric: Metric
    options: Options
    n_spans: int = 0
    answer: Answer = "pair"
    should_stop: Callable[[], bool] = lambda: False
    passed: Callable[[], None] = lambda: None
    """Called after each forward with a backward."""
    layout: Layout = field(init=False)
    blocks: list[Block] = field(init=False)
    weights: Weights = field(init=False)

    def __post_init__(self) -> None:
        """Raises `SiteError` for a family without edges."""
        model = self.model
        self.layout = Layout.of(model.facts, model.adapter)
        self.blocks = blocks_of(model)
        self.weights = Weights(self.blocks, self.layout, model.facts, model.dtype, model.device)

    def ids(self, members: Sequence[TokenizedPair], *, clean: bool) -> Tensor:
        """`[pair, T]`"""
        rows = [list(pair.clean_ids if clean else pair.corrupted_ids) for pair in members]
        return torch.tensor(rows, device=self.model.device)

    def run(self, ids: Tensor, members: Sequence[TokenizedPair], *, taps: bool, point: Point | None = None) -> Seen:
        """One forward. Raises `Stopped` where it is time to."""
        if self.should_stop():
            raise Stopped
        answer = members[0].answer_position if self.answer == "pair" else self.answer
        return forward(self.model, self.blocks, ids, taps=taps, point=point, answer=answer)

    def mean_writes(self, members: Sequence[TokenizedPair], at_once: int) -> Writes:
        """The mean over pairs, at each position, of what the sources write in the run that patches come from."""
        total: list[Tensor] = []
        for lo in range(0, len(members), at_once):
            some = members[lo : lo + at_once]
            seen = self.run(self.ids(some, clean=self.options.direction == "denoising"), some, taps=False)
            found = [value.sum(0, keepdim=True) for value in _all(seen.writes)]
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        means, layers = [value / len(members) for value in total], self.layout.n_layers
        return Writes(means[0], means[1 : 1 + layers], means[1 + layers :])

    def batch(self, members: Sequence[TokenizedPair], spans: Tensor | None, mean: Writes | None) -> Batch:
        """Scores of pairs of one length; `spans` `[pair, T]` is the number of each token's span."""
        return _BatchRun(self, members, spans, mean).scores()


def _all(writes: Writes) -> list[Tensor]:
    return [writes.embedding, *writes.z, *writes.mlp]


class _BatchRun:
    """The runs of one batch."""

    def __init__(self, work: Work, members: Sequence[TokenizedPair], spans: Tensor | None, mean: Writes | None) -> None:
        self.work, self.members, self.spans, self.mean = work, members, spans, mean
        self.targets = Targets.of(members)
        self.readers = Readers.empty(work.weights)
        self.steps = work.options.weights()
        self.gradient = False
        self.clean = self.corrupted = torch.empty(0)
        self.own, self.patched, self.before_norm = self._baselines()

    @property
    def _own_ids(self) -> Tensor:
        return self.work.ids(self.members, clean=self.work.options.direction == "noising")

    def _baselines(self) -> tuple[Writes, Writes, list[Tensor]]:
        """Both unpatched runs, the clean one first: some metrics compare with its logits. Their gradients, if used."""
        options, found = self.work.options, {}
        for clean in (True, False):
            own = clean == (options.direction == "noising")
            inputs = options.method in ("eap", "eap-ig-inputs")
            at = 0.0 if own else 1.0
            taps = inputs and at in self.steps and (own or options.source == "interchange")
            seen = self.work.run(self.work.ids(self.members, clean=clean), self.members, taps=taps)
            if clean and self.work.metric.facts.needs_reference:
                self.targets = replace(self.targets, reference=seen.logits.detach())
            values = self.work.metric(seen.logits, self.targets).detach()
            require_numbers(values, self.members, self.work.metric, f"the {'clean' if clean else 'corrupted'} prompt")
            if clean:
                self.clean = values
            else:
                self.corrupted = values
            if taps:
                self._add(self.readers, seen)
            found[own] = (seen.writes, seen.before_norm)
        own_writes, before_norm = found[True]
        return own_writes, self._patched(found[False][0]), before_norm

    def _patched(self, other: Writes) -> Writes:
        source = self.work.options.source
        if source == "zero":
            return other.map(torch.zeros_like)
        if self.mean is not None:
            return self.mean.map(lambda value: value.expand(len(self.members), *value.shape[1:]))
        return other

    def _add(self, readers: Readers, seen: Seen, first: int = 0) -> None:
        gradients = seen.gradients(self.work.metric, self.targets)
        readers.add(gradients, first)
        self.gradient = self.gradient or bool((gradients.final != 0).any())
        self.work.passed()

    def _between(self) -> Sources:
        return Sources.between(self.work.weights, self.own, self.patched, self.before_norm)

    def scores(self) -> Batch:
        """Run the method's steps and contract."""
        method = self.work.options.method
        makers = {"eap": self._inputs, "eap-ig-inputs": self._inputs, "ig-mask": self._mask}
        sums = _Sums(self.work, self.members, self.spans)
        for sources, readers, rows in makers.get(method, self._activations)():
            sums.add(sources, readers, rows)
        total, spans = sums.totals(1 / len(self.steps))
        return Batch(total, spans, self.clean, self.corrupted, self.gradient)

    def _point(self, point: Point) -> Seen:
        return self.work.run(self._own_ids, self.members, taps=True, point=point)

    def _inputs(self) -> "Iterator[_Term]":
        options = self.work.options
        known = {0.0} | ({1.0} if options.source == "interchange" else set())
        moved = self.patched.embedding - self.own.embedding
        for w in self.steps:
            if w not in known:
                self._add(self.readers, self._point(Point(entering=w * moved)))
        yield self._between(), self.readers, None

    def _mask(self) -> "Iterator[_Term]":
        for w in self.steps:
            readers = Readers.empty(self.work.weights)
            seen = self._point(Point(masked=(w, self.patched)))
            self._add(readers, seen)
            yield Sources.between(self.work.weights, seen.writes, self.patched, seen.before_norm), readers, None

    def _activations(self) -> "Iterator[_Term]":
        sources = self._between()
        for layer, rows, at in self._groups():
            readers = Readers.empty(self.work.weights)
            for w in self.steps:
                self._add(readers, self._point(at(w)), max(0, layer))
            yield sources, readers, rows

    def _groups(self) -> "Iterator[tuple[int, slice, Callable[[float], Point]]]":
        """Sources that move together: their layer, their rows, and the point at a w."""
        own, patched, layout = self.own, self.patched, self.work.layout

        def between(a: Tensor, b: Tensor, w: float) -> Tensor:
            return a + w * (b - a)

        yield -1, slice(0, 1), lambda w: Point(entering=w * (patched.embedding - own.embedding))
        for n in range(layout.n_layers):
            yield (
                n,
                layout.heads(n),
                lambda w, n=n: Point(z=(n, between(own.z[n], patched.z[n], w).flatten(2))),  # type: ignore[misc]
            )
            mlp = layout.mlp(n)
            yield n, slice(mlp, mlp + 1), lambda w, n=n: Point(mlp=(n, between(own.mlp[n], patched.mlp[n], w)))  # type: ignore[misc]


_Term = tuple[Sources, Readers, slice | None]


class _Sums:
    """Sums of contractions, kept apart where aggregation or spans ask for it."""

    def __init__(self, work: Work, members: Sequence[TokenizedPair], spans: Tensor | None) -> None:
        self.work, self.absolute = work, work.options.aggregation == "absolute"
        rows, length = len(members), members[0].length
        numbers = torch.zeros(rows, length, dtype=torch.long) if spans is None else spans
        numbers = numbers.flatten()
        example = torch.arange(rows).repeat_interleave(length) if self.absolute else torch.zeros_like(numbers)
        self.split = spans is not None
        self.slots: list[tuple[int, int, slice | Tensor]] = []
        for n in range(rows if self.absolute else 1):
            for span in range(max(1, work.n_spans)):
                tokens = ((example == n) & (numbers == span)).nonzero()[:, 0]
                if len(tokens):
                    self.slots.append((n, span, _neighbours(tokens, work.model.device)))
        self.parts: list[Tensor | None] = [None] * len(self.slots)

    def add(self, sources: Sources, readers: Readers, rows: slice | None) -> None:
        """Contract one term for every slot."""
        for number, (_, _, tokens) in enumerate(self.slots):
            found, before = contract(sources, readers, tokens, rows=rows), self.parts[number]
            self.parts[number] = found if before is None else before.add_(found)

    def totals(self, factor: float) -> tuple[Tensor, Tensor | None]:
        """Scores summed over pairs, in all and by span."""
        first = self.parts[0]
        assert first is not None
        examples: dict[int, Tensor] = {}
        spans = first.new_zeros(self.work.n_spans, *first.shape) if self.split else None
        for (example, span, _), part in zip(self.slots, self.parts, strict=True):
            assert part is not None
            part = part * factor
            examples[example] = examples[example] + part if example in examples else part
            if spans is not None:
                spans[span] += part.abs() if self.absolute else part
        total = torch.stack([one.abs() if self.absolute else one for one in examples.values()]).sum(0)
        return total, spans


def _neighbours(tokens: Tensor, device: torch.device) -> slice | Tensor:
    """The same tokens as a slice where they lie side by side: nothing is then copied to pick them."""
    first, last = int(tokens[0]), int(tokens[-1])
    return slice(first, last + 1) if last - first + 1 == len(tokens) else tokens.to(device)
