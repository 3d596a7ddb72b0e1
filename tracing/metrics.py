"""Metrics of the answer position: each is a per-example function of logits `[row, vocab]`, by name.

Several answers or foils: logits are averaged over them, probabilities are summed.
A Python user may pass any function `(logits) -> [row]` or `(logits, targets) -> [row]` in place of a name.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from tracing.errors import MetricError
from tracing.metric_facts import METRICS, MetricFacts, metric_facts
from tracing.prompts import TokenizedPair


@dataclass(frozen=True, slots=True)
class Targets:
    """What each row of logits is judged by. `answers` and `foils` are lists of ids, one list a row.

    `reference` `[row, vocab]` holds the clean run's logits of the same pair, for metrics that `needs_reference`.
    """

    answers: tuple[tuple[int, ...], ...]
    foils: tuple[tuple[int, ...], ...]
    reference: Tensor | None = None

    @classmethod
    def of(cls, pairs: Sequence[TokenizedPair], reference: Tensor | None = None) -> "Targets":
        """The targets of pairs, one row a pair."""
        return cls(tuple(p.answer_ids for p in pairs), tuple(p.foil_ids for p in pairs), reference)

    def rows(self, lo: int, hi: int) -> "Targets":
        """The targets of rows `lo` … `hi` − 1."""
        reference = None if self.reference is None else self.reference[lo:hi]
        return Targets(self.answers[lo:hi], self.foils[lo:hi], reference)

    def repeated(self, times: int) -> "Targets":
        """Each row `times` times in a row, as patched logits `[pair, patch, vocab]` lie when flattened."""
        reference = None if self.reference is None else self.reference.repeat_interleave(times, 0)
        return Targets(
            tuple(ids for ids in self.answers for _ in range(times)),
            tuple(ids for ids in self.foils for _ in range(times)),
            reference,
        )

    def columns(self) -> list[int]:
        """The ids that a metric with `targets_only` reads, in order."""
        return sorted({id_ for ids in (*self.answers, *self.foils) for id_ in ids})

    def within(self, columns: Sequence[int]) -> "Targets":
        """The same targets for logits that keep only those vocabulary columns."""
        index = {id_: n for n, id_ in enumerate(columns)}
        return Targets(
            tuple(tuple(index[i] for i in ids) for ids in self.answers),
            tuple(tuple(index[i] for i in ids) for ids in self.foils),
        )


MetricFunction = Callable[[Tensor, Targets], Tensor]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its facts and its function `(logits [row, vocab], targets) -> [row]`."""

    facts: MetricFacts
    function: MetricFunction

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Values `[row]`. Raises `MetricError` where the function gives another shape."""
        values = self.function(logits, targets)
        shape = getattr(values, "shape", None)  # a user's function may return anything
        if shape != logits.shape[:1]:
            got = type(values).__name__ if shape is None else f"shape {list(shape)}"
            raise MetricError(
                f"The metric {self.facts.name!r} gave {got} for {logits.shape[0]} rows of logits.",
                remedy="It must return one number a row.",
            )
        return values


def _gather(values: Tensor, ids: tuple[tuple[int, ...], ...]) -> tuple[Tensor, Tensor]:
    """Values at each row's ids `[row, id]`, and which of them are there (rows may have unequal numbers of ids)."""
    width = max(len(row) for row in ids)
    index = torch.tensor([row + (row[0],) * (width - len(row)) for row in ids], device=values.device)
    counts = torch.tensor([len(row) for row in ids], device=values.device)
    there = torch.arange(width, device=values.device)[None, :] < counts[:, None]
    return values.gather(1, index), there


def _sum_at(values: Tensor, ids: tuple[tuple[int, ...], ...]) -> Tensor:
    found, there = _gather(values, ids)
    return found.masked_fill(~there, 0.0).sum(1)


def _mean_at(values: Tensor, ids: tuple[tuple[int, ...], ...]) -> Tensor:
    found, there = _gather(values, ids)
    return found.masked_fill(~there, 0.0).sum(1) / there.sum(1)


def _logit_diff(logits: Tensor, targets: Targets) -> Tensor:
    return _mean_at(logits, targets.answers) - _mean_at(logits, targets.foils)


def _logit(logits: Tensor, targets: Targets) -> Tensor:
    return _mean_at(logits, targets.answers)


def _prob(logits: Tensor, targets: Targets) -> Tensor:
    return _sum_at(logits.softmax(-1), targets.answers)


def _prob_diff(logits: Tensor, targets: Targets) -> Tensor:
    probabilities = logits.softmax(-1)
    return _sum_at(probabilities, targets.answers) - _sum_at(probabilities, targets.foils)


def _log_prob(logits: Tensor, targets: Targets) -> Tensor:
    found, there = _gather(logits.log_softmax(-1), targets.answers)
    return found.masked_fill(~there, -torch.inf).logsumexp(1)


def best_answer(logits: Tensor, targets: Targets) -> Tensor:
    """The largest logit of each row's answers, `[row]`."""
    found, there = _gather(logits, targets.answers)
    return found.masked_fill(~there, -torch.inf).amax(1)


def _rank(logits: Tensor, targets: Targets) -> Tensor:
    return (logits > best_answer(logits, targets)[:, None]).sum(-1).to(logits.dtype)


def _accuracy(logits: Tensor, targets: Targets) -> Tensor:
    return (best_answer(logits, targets) >= logits.amax(-1)).to(logits.dtype)


def _kl_divergence(logits: Tensor, targets: Targets) -> Tensor:
    assert targets.reference is not None, "kl_divergence compares with the clean run's logits"
    clean, patched = targets.reference.log_softmax(-1), logits.log_softmax(-1)
    return (clean.exp() * (clean - patched)).sum(-1)


_FUNCTIONS: Final[dict[str, MetricFunction]] = {
    "logit_diff": _logit_diff,
    "logit": _logit,
    "prob": _prob,
    "prob_diff": _prob_diff,
    "log_prob": _log_prob,
    "rank": _rank,
    "kl_divergence": _kl_divergence,
    "accuracy": _accuracy,
}
assert _FUNCTIONS.keys() == METRICS.keys(), "every metric has facts and a function"


def get(metric: str | Callable[..., Any]) -> Metric:
    """A metric by name, or made from a function of `(logits)` or `(logits, targets)`.

    Raises `MetricError` for an unknown name, or what is neither a name nor a function.

    >>> get("logit_diff").facts.needs_foil
    True
    """
    if isinstance(metric, str):
        return Metric(metric_facts(metric), _FUNCTIONS[metric_facts(metric).name])
    if not callable(metric):
        raise MetricError(
            f"A metric cannot be {metric!r}.", remedy=f"Use a function of the logits, or one of {', '.join(METRICS)}."
        )
    name = getattr(metric, "__name__", "custom")
    title = "Custom metric" if name == "<lambda>" else name
    takes_targets = len(inspect.signature(metric).parameters) > 1
    facts = MetricFacts(name, title, inspect.getdoc(metric) or "", "", "symmetric", needs_reference=takes_targets)
    return Metric(facts, metric if takes_targets else lambda logits, _targets: metric(logits))


def require_numbers(values: Tensor, pairs: Sequence[TokenizedPair], metric: Metric, place: str) -> None:
    """Raises `MetricError` naming the first pair whose value (`[pair, …]`) is not a finite number."""
    finite = values.isfinite().reshape(len(pairs), -1).all(1)
    if bool(finite.all()):
        return
    first = int((~finite).nonzero()[0, 0])
    pair = pairs[first]
    bad = int((~finite).sum())
    raise MetricError(
        f"The metric {metric.facts.name!r} is not a number for pair {pair.number} ({place})"
        + (f", and for {bad - 1} more pairs." if bad > 1 else "."),
        remedy="Look at the prompts and answers of that pair, choose another metric, or run in float32.",
        where={"pair": pair.number, "place": place},
    )
