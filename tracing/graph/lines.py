"""Which line of the user's code recorded something: kept with every node, so that errors can point at it."""

import sys
from typing import Any, Final, NamedTuple

_OURS: Final = ("tracing.", "torch.", "contextlib", "transformers.", "tokenizers.")
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


_new: Final = tuple.__new__

_is_ours: dict[Any, bool] = {}
"""By module name, whether its frames are skipped: every node asks for several frames."""


def user_line(depth: int = 1) -> Line:
    """The innermost frame outside this library, torch and contextlib.

    The search begins `depth` frames up, past those that the caller knows to be the library's: it is asked often.
    """
    frame = sys._getframe(depth)
    while True:
        name = frame.f_globals.get("__name__")
        ours = _is_ours.get(name)
        if ours is None:
            ours = _is_ours[name] = isinstance(name, str) and name.startswith(_OURS)
        if not ours or frame.f_back is None:
            code = frame.f_code
            return _new(Line, (code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
