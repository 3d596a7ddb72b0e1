"""Points and weights of an integral over [0, 1]. Torch-free."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["midpoint", "left", "right", "trapezoid", "gauss_legendre"]
RULES: Final = ("midpoint", "left", "right", "trapezoid", "gauss_legendre")


def points(steps: int, rule: Rule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where to evaluate and with which weights (they sum to 1); `trapezoid` has a point more than `steps`.

    >>> points(2, "midpoint")
    (array([0.25, 0.75]), array([0.5, 0.5]))
    """
    if rule == "gauss_legendre":
        where, weights = np.polynomial.legendre.leggauss(steps)
        return (where + 1) / 2, weights / 2
    if rule == "trapezoid":
        weights = np.full(steps + 1, 1 / steps)
        weights[[0, -1]] /= 2
        return np.arange(steps + 1) / steps, weights
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (np.arange(steps) + shift) / steps, np.full(steps, 1 / steps)
