"""Two timings give a rate and an overhead; measuring takes less than a second."""

import re
import time
from pathlib import Path

import pytest

from tracing import experiments
from tracing.experiments.calibration import ENGINES, FIXED_SECONDS, Habit, Rates, measure, preload, solve
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


def test_long_runs_teach_the_factor_the_first_whole_and_later_ones_half():
    first = Habit().after(plain=10.0, real=30.0 + FIXED_SECONDS)
    assert first.factor == pytest.approx(3.0)
    assert first.after(plain=10.0, real=10.0 + FIXED_SECONDS).factor == pytest.approx(2.0)
    assert Habit().after(plain=1.0, real=1e9).factor == 50.0


def test_a_short_slow_run_teaches_what_is_fixed_and_promises_no_hours_for_a_long_one():
    habit = Habit().after(plain=0.01, real=0.71)
    assert habit.seconds(0.01) == pytest.approx(0.71)
    assert habit.seconds(100.0) < 1.5 * 100.0 + 0.72


def test_a_short_run_that_was_faster_than_told_lowers_the_whole_prediction():
    told = Habit().seconds(0.1)
    habit = Habit().after(plain=0.1, real=told / 4)
    assert habit.seconds(0.1) == pytest.approx(told / 4)
    assert habit.seconds(10.0) < 3.0
    assert habit.runs == 1


def test_measuring_a_model_takes_less_than_a_second(tiny_folder):
    model = LanguageModel(tiny_folder)
    preload()  # imports are no part of it
    started = time.perf_counter()
    found = measure(model)
    assert time.perf_counter() - started < 1.0
    assert isinstance(found, Rates)
    assert found.flops_per_second > 0


def test_no_first_run_pays_for_what_its_method_imports():
    lazy = set()
    for path in Path(experiments.__file__).parent.glob("*.py"):
        lazy |= set(
            re.findall(r"^    +from (tracing\.(?:circuits|lenses|patching)\.\w+) import", path.read_text(), re.M)
        )
    typing_only = {"tracing.lenses.steps"}
    own = {"tracing.patching.flops"}  # of the measuring itself
    assert lazy - typing_only - own == set(ENGINES)
