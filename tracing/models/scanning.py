"""`with model.scan(prompt):`, a trace that checks shapes while it is recorded and runs nothing."""

from typing import TYPE_CHECKING, Any

from tracing.engines.program import compile_graph
from tracing.errors import RecordError
from tracing.models.tracer import Tracer

if TYPE_CHECKING:
    from tracing.models.base import Model


class Scanner(Tracer):
    """A trace without a run; made by `model.scan`."""

    def __init__(self, model: "Model", inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        super().__init__(model, "forward", inputs, {**options, "validate": True})
        self._call = "model.scan(...) as tracer"
        if self._in_session:
            self._entered = True
            raise RecordError(
                f"A scan cannot be part of a session (at {self._line}).",
                remedy="Use model.trace(..., validate=True) in the session.",
            )

    def _run(self) -> None:
        scan = self.recorder.validator
        compile_graph(self.recorder.graph, self.model, looked_at=scan.looked_at)
        scan.fill(self.recorder.cells)
