"""Looks that can be watched: a generator of steps, one a batch, that returns the result at its end."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from tracing.results import Grid

T = TypeVar("T")


def _no_grids() -> tuple[Grid, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Step:
    """A batch is done: how many prompts of how many, and the maps as they are now (of the prompts that are done)."""

    done: int
    total: int
    grids: Callable[[], tuple[Grid, ...]] = _no_grids


Steps = Generator[Step, None, T]


def finish(steps: Steps[T], progress: Callable[[int, int], None] | None) -> T:
    """Run all steps, tell `progress(done, total)` after each, and return the result."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if progress is not None:
            progress(step.done, step.total)
