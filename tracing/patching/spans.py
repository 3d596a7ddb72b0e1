"""Warns where recovery divides by (almost) nothing. Torch-free.

Each column's recovery has the baselines of the pairs that have that position. With prompts of different lengths one
column may stand on a few pairs whose clean and corrupted metrics cancel, while the map as a whole is sound.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tracing.patching.axes import TINY, means, sizes

FAINT: Final = 0.05
"""A column's difference below this share of what one pair typically shows is magnified noise."""
NOISE: Final = 16
"""So many roundings of the model's precision, relative to the metric's size, may lie in a difference."""
MOST_NAMED: Final = 8


def span_warnings(
    metric: str,
    labels: Sequence[str],
    clean: NDArray[Any],
    corrupted: NDArray[Any],
    has: NDArray[np.bool_],
    eps: float,
) -> tuple[str, ...]:
    """What to say of the columns (`labels`) whose clean − corrupted is tiny (recovery is NaN) or faint (it is huge).

    `clean` and `corrupted` are `[pair]`, `has` `[pair, column]` says which pair has which position, `eps` is the
    relative spacing of numbers in the model's precision.
    """
    clean_means, corrupted_means = means(clean[:, None], has), means(corrupted[:, None], has)
    span = np.abs(clean_means - corrupted_means)
    size = sizes(clean_means, corrupted_means)
    typical = float(np.abs(clean.astype(np.float64) - corrupted).mean())
    tiny = span <= TINY * size
    faint = ~tiny & (span <= np.maximum(NOISE * eps * size, FAINT * typical))
    baselines = f"The metric {metric} is {clean.mean():.6g} on the clean prompts and {corrupted.mean():.6g} on the "
    if tiny.all():
        return (
            f"{baselines}corrupted ones: too close to divide by their difference, so recovery is not a number. "
            "Read the raw plane.",
        )
    if faint.all():
        return (
            f"{baselines}corrupted ones: so close that recovery magnifies small changes and rounding. "
            "Read the raw plane.",
        )
    found = []
    if tiny.any():
        found.append(
            f"In {_named(labels, tiny)} the clean and corrupted {metric} of the pairs that reach there are too close "
            "to divide by their difference, so recovery is not a number. Read the raw plane there."
        )
    if faint.any():
        found.append(
            f"In {_named(labels, faint)} the clean and corrupted {metric} of the pairs that reach there differ by no "
            f"more than {float(span[faint].max()):.3g}, so recovery magnifies small changes and rounding. "
            "Read the raw plane there."
        )
    return tuple(found)


def _named(labels: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    numbers = [int(n) for n in np.flatnonzero(chosen)]
    names = ", ".join(f"{n} ({labels[n]!r})" for n in numbers[:MOST_NAMED])
    more = len(numbers) - MOST_NAMED
    return f"column{'s' * (len(numbers) > 1)} {names}" + (f" and {more} more" if more > 0 else "")
