"""What is opened by `with` says so where it is not: a call alone would do nothing, silently."""

import warnings
from typing import Any

from tracing.errors import OperationError
from tracing.graph.lines import Line, user_line
from tracing.models.foreign import TRACERS


class Block:
    """Something that takes effect as a `with` block. `_line` is where it was made."""

    _line: Line
    _entered: bool = True
    """Whether it was opened; True until it is wholly made, so that an error in making it warns of nothing more."""
    _call: str
    """The call that made it, and, after `with`, what it is usually called: "model.trace(...) as tracer"."""

    def __repr__(self) -> str:
        return f"<{self._call.partition(' as ')[0]}, made at {self._line}>"

    def __getattr__(self, name: str) -> Any:
        if name not in TRACERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        raise OperationError(
            f"{self._call.partition('(')[0]}(...) has no {name!r} (at {user_line()}).", remedy=TRACERS[name]
        )

    def __del__(self) -> None:
        if not self._entered:
            warnings.warn_explicit(
                f"{self._call.partition(' as ')[0]} was called without `with`, so nothing ran. Write "
                f"`with {self._call}:`.",
                RuntimeWarning,
                self._line.file,
                self._line.number,
            )
