"""Two timings give a rate and an overhead; measuring takes less than a second."""

import time

import pytest

from tracing.experiments.calibration import Rates, learned, measure, solve
from tracing.experiments.registry import Cost
from tracing.models import LanguageModel


def test_two_timings_of_a_known_machine_give_its_rate_and_overhead():
    rate, overhead, blocks = 2e9, 1e-4, 12
    times = [flops / rate + blocks * overhead for flops in (1e6, 1e9)]
    found = solve(1e6, times[0], 1e9, times[1], blocks)
    assert found.flops_per_second == pytest.approx(rate)
    assert found.seconds_per_launch == pytest.approx(overhead)
    assert found.of(Cost(0, 1e9, 1e9, launches=24)) == pytest.approx(0.5 + 24 * overhead)


def test_a_long_forward_that_was_not_slower_still_gives_a_rate():
    found = solve(1e6, 2e-3, 1e9, 1e-3, 4)
    assert found.flops_per_second == pytest.approx(1e12)
    assert found.seconds_per_launch > 0


def test_a_method_s_factor_is_learned_half_and_half_and_within_bounds():
    assert learned(None, 1.0, 3.0) == 3.0
    assert learned(3.0, 1.0, 1.0) == 2.0
    assert learned(None, 1.0, 1e9) == 50.0
    assert learned(None, 0.0, 0.0) == 0.05


def test_measuring_a_model_takes_less_than_a_second(tiny_folder):
    model = LanguageModel(tiny_folder)
    started = time.perf_counter()
    found = measure(model)
    assert time.perf_counter() - started < 1.0
    assert isinstance(found, Rates)
    assert found.flops_per_second > 0
