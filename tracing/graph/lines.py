"""Which line of the user's code recorded something: kept with every node, so that errors can point at it."""

import sys
from typing import NamedTuple

_OURS = ("tracing.", "torch.", "contextlib")
"""Modules whose frames stand between the user's line and us. (`tracing` itself has no code that records.)"""


class Line(NamedTuple):
    """A place in the user's code."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        name = self.file.replace("\\", "/").rsplit("/", 1)[-1]
        where = "" if self.function == "<module>" else f" in {self.function}"
        return f"{name}:{self.number}{where}"


NOWHERE = Line("<graph>", 0, "<module>")
"""The line of nodes that no user wrote, or whose graph was read from a file without lines."""


def user_line() -> Line:
    """The innermost frame outside this library, torch and contextlib."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith(_OURS) and frame.f_back is not None:
        frame = frame.f_back
    code = frame.f_code
    return Line(code.co_filename, frame.f_lineno, code.co_name)
