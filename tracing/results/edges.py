"""Scores of the edges of a model's computation graph, from every source's output to every reader's input."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tracing.errors import SiteError, SpecError
from tracing.results.parts import Array, TypedResult, number, require_floats, require_names, require_shape, table

Edge = tuple[str, str, float]


@dataclass(frozen=True, slots=True, eq=False)
class EdgeScores(TypedResult):
    """`scores [source, reader]`, meant only where `real [source, reader]` says that there is such an edge.

    `span_scores [span, source, reader]` splits them over `spans` of positions, where a method does.
    """

    FORMAT: ClassVar[str] = "edges/1"

    name: str
    title: str
    sources: tuple[str, ...]
    readers: tuple[str, ...]
    real: NDArray[np.bool_]
    scores: Array
    spans: tuple[str, ...] = ()
    span_scores: Array | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where shapes and names do not fit, or a real edge's score is not finite."""
        require_names("sources", self.sources)
        require_names("readers", self.readers)
        shape = (len(self.sources), len(self.readers))
        require_shape("real", self.real, shape, "source, reader")
        require_shape("scores", self.scores, shape, "source, reader")
        require_floats("scores", self.scores)
        if self.real.dtype != np.bool_:
            raise ValueError(f"real is {self.real.dtype}; it must be bool.")
        if bool(self.spans) != (self.span_scores is not None):
            raise ValueError("`spans` and `span_scores` go together.")
        if self.span_scores is not None:
            require_names("spans", self.spans)
            require_shape("span_scores", self.span_scores, (len(self.spans), *shape), "span, source, reader")
            require_floats("span_scores", self.span_scores)

    def score(self, source: str, reader: str) -> float:
        """The score of one edge. Raises `SiteError` for an unknown end, or ends that no edge joins."""
        row = _index(self.sources, source, "source")
        column = _index(self.readers, reader, "reader")
        if not self.real[row, column]:
            raise SiteError(
                f"There is no edge from {source} to {reader}: {reader} runs before it, or beside it.",
                where={"source": source, "reader": reader},
            )
        return float(self.scores[row, column])

    def top(self, n: int, absolute: bool = True) -> list[Edge]:
        """The `n` best edges as (source, reader, score), by absolute score or by score; ties in the graph's order.

        Raises `SpecError` unless `n` is a whole number from 0 up.
        """
        given: object = n
        if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 0:
            raise SpecError(f"{n!r} is no number of edges.", remedy="Give a whole number from 0 up.")
        places = np.argwhere(self.real & np.isfinite(self.scores))
        found = self.scores[places[:, 0], places[:, 1]]
        order = np.argsort(-(np.abs(found) if absolute else found), kind="stable")[:n]
        return [
            (self.sources[row], self.readers[column], float(self.scores[row, column]))
            for row, column in places[order].tolist()
        ]

    def parts(self) -> dict[str, Any]:
        """Names of sources, readers and spans."""
        return {"sources": list(self.sources), "readers": list(self.readers), "spans": list(self.spans)}

    def arrays(self) -> dict[str, Array]:
        """`real`, `scores`, and `span_scores` where there are such."""
        spans = {} if self.span_scores is None else {"span_scores": self.span_scores}
        return {"real": self.real, "scores": self.scores, **spans}

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """Edge scores from their parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            sources=tuple(data["sources"]),
            readers=tuple(data["readers"]),
            real=arrays["real"],
            scores=arrays["scores"],
            spans=tuple(data["spans"]),
            span_scores=arrays.get("span_scores"),
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a real edge, in the graph's order: source, reader, score, then the score of each span."""
        places = np.argwhere(self.real).tolist()
        return table(
            ["source", "reader", "score", *(f"score {span}" for span in self.spans)],
            (
                [
                    self.sources[row],
                    self.readers[column],
                    number(self.scores[row, column]),
                    *(
                        number(value)
                        for value in (() if self.span_scores is None else self.span_scores[:, row, column])
                    ),
                ]
                for row, column in places
            ),
        )


def _index(names: tuple[str, ...], name: str, what: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        few = ", ".join(names[:6])
        raise SiteError(f"There is no {what} {name!r} in these scores.", remedy=f"The {what}s: {few}, ….") from None
