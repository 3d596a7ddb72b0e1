"""Aggregation over pairs, and what the axes of a map say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoders import pair
from tracing.patching.axes import aggregate, position_axis

NAN = np.nan


def test_recovery_is_a_ratio_of_means_and_not_a_mean_of_ratios() -> None:
    clean, corrupted = np.array([10.0, 2.0]), np.array([0.0, 1.0])
    recovery, raw = aggregate(np.array([[[5.0]], [[2.0]]]), clean, corrupted)
    assert raw.item() == 3.5
    assert recovery.item() == pytest.approx((3.5 - 0.5) / (6.0 - 0.5))


def test_only_the_pairs_that_have_the_position_count_with_their_own_baselines() -> None:
    clean, corrupted = np.array([10.0, 2.0]), np.array([0.0, 1.0])
    recovery, raw = aggregate(np.array([[[NAN]], [[1.5]]]), clean, corrupted)
    assert raw.item() == 1.5
    assert recovery.item() == 0.5


def test_a_position_that_no_pair_has_is_not_a_number() -> None:
    recovery, raw = aggregate(np.array([[[NAN]]]), np.array([1.0]), np.array([0.0]))
    assert np.isnan(recovery.item())
    assert np.isnan(raw.item())


def test_equal_baselines_give_no_recovery_instead_of_a_huge_number() -> None:
    recovery, raw = aggregate(np.array([[[3.0]]]), np.array([100.0]), np.array([100.0 + 1e-5]))
    assert np.isnan(recovery.item())
    assert raw.item() == 3.0


@given(clean=st.floats(-100, 100), corrupted=st.floats(-100, 100), share=st.floats(-2, 2))
def test_recovery_undoes_the_mix_of_the_baselines(clean: float, corrupted: float, share: float) -> None:
    patched = corrupted + share * (clean - corrupted)
    recovery, _ = aggregate(np.array([[[patched]]]), np.array([clean]), np.array([corrupted]))
    assert np.isnan(recovery.item()) or recovery.item() == pytest.approx(share, abs=1e-6)
    if abs(clean - corrupted) > 1e-3:
        assert not np.isnan(recovery.item())


def test_a_tick_shows_the_clean_token_and_the_corrupted_one_where_they_differ() -> None:
    axis = position_axis([pair([1, 2, 3], [1, 5, 3], (0,)), pair([1, 9, 3], [1, 9, 4], (0,))], from_end=True)
    assert [tick.label for tick in axis.ticks] == ["1", "2", "3"]
    assert [tick.corrupted for tick in axis.ticks] == [None, "5", None]
    assert [tick.differs for tick in axis.ticks] == [False, True, True]
    assert [tick.varies for tick in axis.ticks] == [False, True, False]
    assert axis.title == "position"


@pytest.mark.parametrize(
    ("from_end", "labels", "varies"),
    [(True, ["7", "1", "2"], [True, True, True]), (False, ["1", "2", "9"], [True, True, True])],
)
def test_uneven_prompts_line_up_at_the_end_or_at_the_start(
    from_end: bool, labels: list[str], varies: list[bool]
) -> None:
    axis = position_axis([pair([1, 2], [1, 3], (0,)), pair([7, 8, 9], [7, 8, 1], (0,))], from_end=from_end)
    assert [tick.label for tick in axis.ticks] == labels
    assert [tick.varies for tick in axis.ticks] == varies
    assert axis.title == f"position from the {'end' if from_end else 'start'}"
