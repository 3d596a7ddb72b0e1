"""How well edge scores tell a known circuit's edges from the others: the area under the ROC curve, two ways.

    AUROC = P(score of an edge of the circuit > score of another edge) + ½ P(equal)

`auroc` counts ties half, as the trapezoid through all tied edges does. `pessimistic_auroc` counts them as wrong: the
lower staircase, which is what the ACDC paper's figures report. Scores are compared by absolute value by default.
Source: Conmy et al. 2023 (arXiv 2304.14997).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracing.errors import SpecError
from tracing.results import EdgeScores

Scores = EdgeScores | NDArray[Any]


def auroc(
    scores: Scores, truth: NDArray[np.bool_], real: NDArray[np.bool_] | None = None, *, signed: bool = False
) -> float:
    """The tie-averaged area, 0 to 1, over real edges of which `truth` `[source, reader]` are the circuit's.

    `real` is needed for a plain array of scores that has entries that are no edges. `signed` ranks by the score itself.
    Raises `SpecError` where the shapes differ, or every edge or none is the circuit's.
    """
    inside, outside = _split(scores, truth, real, signed)
    return (_below(inside, outside, "left") + _below(inside, outside, "right")) / (2 * len(inside) * len(outside))


def pessimistic_auroc(
    scores: Scores, truth: NDArray[np.bool_], real: NDArray[np.bool_] | None = None, *, signed: bool = False
) -> float:
    """The same with every tie counted as wrong."""
    inside, outside = _split(scores, truth, real, signed)
    return _below(inside, outside, "left") / (len(inside) * len(outside))


def _below(inside: NDArray[Any], outside: NDArray[Any], side: Any) -> float:
    """Pairs whose outside score is below ("left") the inside one, or not above it ("right")."""
    return float(np.searchsorted(np.sort(outside), inside, side=side).sum())


def _split(
    scores: Scores, truth: NDArray[np.bool_], real: NDArray[np.bool_] | None, signed: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    if isinstance(scores, EdgeScores):
        found, real = scores.scores, scores.real if real is None else real
    else:
        found = np.asarray(scores)
    real = np.ones(found.shape, bool) if real is None else real
    if truth.shape != found.shape or real.shape != found.shape:
        raise SpecError(f"The truth is {list(truth.shape)}, the scores are {list(found.shape)}.")
    found = found if signed else np.abs(found)
    inside, outside = found[real & truth], found[real & ~truth]
    if not len(inside) or not len(outside):
        raise SpecError(
            f"{len(inside)} of {len(inside) + len(outside)} edges are the circuit's: there is nothing to tell apart.",
            remedy="A ROC curve needs edges of both kinds.",
        )
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise SpecError("Some real edges have no score.", remedy="Score all edges, or pass the scored ones as real=.")
    return inside, outside
