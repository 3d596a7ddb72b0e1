"""`with model.session():` several traces as one program, which runs when the block ends.

Values flow from one trace to a later one as proxies, without being saved.
"""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from tracing.engines.local import execute
from tracing.errors import RecordError
from tracing.graph.lines import Line, user_line
from tracing.graph.nodes import Graph
from tracing.graph.recorder import Recorder, current, push
from tracing.models.blocks import Block

if TYPE_CHECKING:
    from tracing.models.base import Model


class Session(Block):
    """Records traces one after the other; made by `model.session()`."""

    _call = "model.session()"

    def __init__(self, model: "Model") -> None:
        self.model = model
        self.recorder = Recorder(model, session=True)
        self._line = user_line()
        self._entered = False

    def __enter__(self) -> "Session":
        self._entered = True
        if current(self.model.origin) is not None:
            raise RecordError(
                f"A session cannot be opened inside a trace or another session (at {self._line}).",
                remedy="Open the session first, and the traces in it.",
            )
        self._pop: Callable[[], None] = push(self.recorder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.recorder.finish()
                _require_whole(self.recorder.graph)
                execute(self.model, self.recorder.graph, self.recorder.cells)
        finally:
            self._pop()
            self.recorder.close()

    @property
    def graph(self) -> Graph:
        """The recorded program of all traces."""
        return self.recorder.graph


def _require_whole(graph: Graph) -> None:
    """Raises `RecordError` where the program uses a value of a trace that is no part of it."""
    nodes = graph.nodes
    for node in nodes:
        for used in node.deps:
            if used.id >= len(nodes) or nodes[used.id] is not used:
                raise RecordError(
                    f"The value used at {node.line} is of a trace whose block ended with an error, so that it is no "
                    f"part of the session (it was recorded at {used.line}).",
                    remedy="Record it in a trace whose block comes to its end.",
                )


def require_attached(session: "Model", traced: "Model", line: Line) -> None:
    """Raises `RecordError` for a trace of a wrapper with modules that the session's wrapper does not have.

    A session runs on the wrapper that opened it; edits are those of each trace's own.
    """
    own = [path for path, module in traced.attached.items() if session.attached.get(path) is not module]
    if own:
        raise RecordError(
            f"The trace at {line} is of another wrapper than its session, one with modules attached to it alone: "
            f"{', '.join(own)}.",
            remedy="Open the session on that wrapper: edited.session().",
        )
