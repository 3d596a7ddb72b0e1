"""Where recovery divides by almost nothing, the reader is told which columns."""

import numpy as np

from tracing.patching.axes import aggregate
from tracing.patching.spans import span_warnings

SINGLE, HALF = 2.0**-23, 2.0**-7
"""Relative spacing of float32 and of bfloat16."""
LABELS = ["a", "b", "c"]
CLEAN, CORRUPTED = np.array([3.0, 2.0, -2.0]), np.array([-1.0, -2.0, 2.0])


def warn(clean: np.ndarray, corrupted: np.ndarray, has: np.ndarray, eps: float = SINGLE) -> tuple[str, ...]:
    return span_warnings("logit_diff", LABELS, clean, corrupted, has, eps)


def everywhere(pairs: int) -> np.ndarray:
    return np.ones((pairs, len(LABELS)), bool)


def test_sound_baselines_need_no_warning() -> None:
    assert warn(CLEAN, CORRUPTED, everywhere(3)) == ()
    assert warn(CLEAN, CORRUPTED, everywhere(3), HALF) == ()


def test_a_column_whose_pairs_cancel_is_named() -> None:
    has = everywhere(3)
    has[0, 1] = False
    [warning] = warn(CLEAN, CORRUPTED, has)
    assert warning.startswith("In column 1 ('b') ")
    assert "not a number" in warning


def test_a_column_whose_pairs_nearly_cancel_is_named_because_recovery_is_huge() -> None:
    has = everywhere(3)
    has[0, 1] = False
    clean = CLEAN + np.array([0.0, 0.01, 0.0])
    [warning] = warn(clean, CORRUPTED, has)
    assert warning.startswith("In column 1 ('b') ")
    assert "differ by no more than 0.005" in warning
    examples = np.where(has, clean[:, None] + 1.0, np.nan)[:, None, :]
    recovery, _ = aggregate(examples, clean, CORRUPTED)
    assert abs(recovery[0, 1]) > 100


def test_a_column_that_no_pair_reaches_is_not_named() -> None:
    has = everywhere(3)
    has[:, 2] = False
    assert warn(CLEAN, CORRUPTED, has) == ()


def test_a_small_difference_is_sound_in_float32_and_rounding_in_bfloat16() -> None:
    clean, corrupted = np.array([10.1, 10.2]), np.array([10.0, 10.0])
    assert warn(clean, corrupted, everywhere(2)) == ()
    [warning] = warn(clean, corrupted, everywhere(2), HALF)
    assert "so close that recovery magnifies" in warning


def test_many_columns_are_counted() -> None:
    has = np.ones((3, 20), bool)
    has[0, :12] = False
    [warning] = span_warnings("logit", [str(n) for n in range(20)], CLEAN, CORRUPTED, has, SINGLE)
    assert "In columns 0 ('0'), 1 ('1')" in warning
    assert "7 ('7') and 4 more" in warning
