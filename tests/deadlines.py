"""Waiting without sleeping blindly: poll a condition until it holds or a deadline passes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, seconds: float, every: float = 0.05, what: str = "") -> T:
    """The first truthy value of `condition`. Raises `AssertionError` with its last value after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}; last value: {value!r}")
        time.sleep(every)
