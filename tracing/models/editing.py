"""`with model.edit() as edited:` records changes that every later trace of `edited` begins with.

An edit is a graph without a prompt: its sites are those of whatever prompt it is applied to, at every generation step.
Edits stack in the order in which they were made, and are stored as JSON and safetensors like any graph.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracing.errors import GraphFormatError, ModelError, RecordError, SiteError, TraceError
from tracing.graph import codec
from tracing.graph.lines import user_line
from tracing.graph.nodes import Graph, Guard, Invoke, Loop, Node, Site, Stage, substitute
from tracing.graph.recorder import Recorder, current, push
from tracing.models.blocks import Block

if TYPE_CHECKING:
    from tracing.models.base import Model


class Edit(Block):
    """The block of one edit; made by `model.edit()`. Gives the edited model, which shares the wrapped module."""

    _call = "model.edit() as edited"

    def __init__(self, model: "Model", *, inplace: bool) -> None:
        self._model = model
        self._edited = model if inplace else model.copy()
        self._recorder = Recorder(self._edited)
        self._line = user_line()
        self._entered = False

    def __enter__(self) -> "Model":
        self._entered = True
        if current(self._model.origin) is not None:
            raise RecordError(
                f"An edit cannot be made inside a trace (at {self._line}).",
                remedy="Write to the model in the trace itself, or edit it before.",
            )
        recorder = self._recorder
        recorder.stage = Stage(0, "edit", {}, self._line)
        recorder.graph.stages.append(recorder.stage)
        invoke = Invoke(0, 0, None, self._line)
        recorder.graph.invokes.append(invoke)
        recorder.begin_invoke(invoke)
        self._pop: Callable[[], None] = push(recorder)
        return self._edited

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pop()
        self._recorder.close()
        if error is None:
            self._check()
            self._edited.edits.append(self._recorder.graph)

    def _check(self) -> None:
        graph = self._recorder.graph
        if graph.saves or any(node.op in ("backward", "grad") for node in graph.nodes):
            raise RecordError(
                f"An edit changes values; it cannot save any or compute gradients (at {self._line}).",
                remedy="Save and differentiate in a trace of the edited model.",
            )
        if not any(node.op == "skip" or (node.op == "write" and node.site is not None) for node in graph.nodes):
            raise RecordError(
                f"The edit at {self._line} changes nothing.", remedy="Assign to a module in it: module.output[...] = x."
            )


def replay(graph: Graph, recorder: Recorder, steps: int) -> None:
    """Record an edit's nodes for the current prompt of another recorder, at `steps` generation steps.

    A module that a generation calls only once (of an encoder, say) must be reached in the first step, not in others.
    """
    _copy(graph, recorder, None)
    if steps > 1:
        _copy(graph, recorder, Loop(tuple(range(1, steps))))


def _copy(graph: Graph, recorder: Recorder, loop: Loop | None) -> None:
    stage, invoke = recorder.place("edit")
    copies: dict[Node, Node] = {}
    for node in graph.nodes:
        args = tuple(_moved(value, stage.index, invoke.index) for value in substitute(node.args, copies))
        kwargs, guard = substitute(dict(node.kwargs), copies), _guard(node.guard, copies)
        if loop is not None and node.op in ("site", "skip"):
            kwargs["optional"] = True
        copies[node] = recorder.graph.record(node.op, args, kwargs, node.line, invoke.index, guard, loop)


def _moved(value: Any, stage: int, invoke: int) -> Any:
    return value._replace(stage=stage, invoke=invoke) if type(value) is Site else value


def _guard(guard: Guard | None, copies: dict[Node, Node]) -> Guard | None:
    return None if guard is None else Guard(copies[guard.condition], guard.expected, _guard(guard.outer, copies))


def save_edits(edits: list[Graph], path: str | Path) -> None:
    """Store edits as one graph, `path` with .json and .safetensors. Raises `TraceError` where there is none."""
    if not edits:
        raise TraceError("The model has no edits to store.", remedy="Make one: with model.edit() as edited: …")
    folder = Path(path).parent
    if not folder.is_dir():
        raise ModelError(
            f"There is no folder {str(folder)!r} to store the edits in.",
            remedy=f"Make it: Path({str(folder)!r}).mkdir().",
        )
    merged = Graph()
    merged.stages.append(Stage(0, "edit"))
    merged.invokes.append(Invoke(0, 0, None))
    recorder = Recorder(None)
    recorder.graph, recorder.stage, recorder.invoke = merged, merged.stages[0], merged.invokes[0]
    for graph in edits:
        replay(graph, recorder, 1)
    codec.save(merged, path)


def load_edits(path: str | Path, model: "Model") -> list[Graph]:
    """Edits from a file. Raises `GraphFormatError` for a graph that is no edit, or names what the model has not."""
    graph, name = codec.load(path), Path(path).name
    if [stage.mode for stage in graph.stages] != ["edit"]:
        raise GraphFormatError(
            f"{name} is the graph of a trace, not an edit.", remedy="Give a file that save_edits wrote."
        )
    for node in graph.nodes:
        try:
            if node.op == "parameter":
                model.parameter(node.args[0])
            elif node.op in ("module", "skip"):
                model.submodule(node.args[0])
            elif node.site is not None:
                model.submodule(node.site.path)
        except (AttributeError, SiteError) as error:
            place = node.args[0] if node.site is None else node.site.path
            raise GraphFormatError(
                f"{name} is of another model: it names {place!r} (node {node.id}, {node.op}), which "
                f"{type(model.module).__name__} does not have.",
                remedy="Load it on a model of the same architecture; a module of your own is attached first.",
                where={"node": node.id, "path": place},
            ) from error
    return [graph]
