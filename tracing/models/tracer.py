"""The `with` block of a trace: what is said in it is recorded, and run when it ends."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracing.engines.local import execute
from tracing.engines.plan import Plan, plan_of
from tracing.errors import RecordError
from tracing.graph.lines import Line, user_line
from tracing.graph.nodes import Graph, Invoke, Stage
from tracing.graph.proxy import Proxy
from tracing.graph.recorder import Base, Recorder, current, push
from tracing.models.batching import Inputs
from tracing.models.blocks import Block
from tracing.models.cache import Cache, cached
from tracing.models.control import Branch, ListProxy, Steps
from tracing.models.envoy import Envoy
from tracing.models.options import check_options, known_prompt
from tracing.models.session import require_attached

if TYPE_CHECKING:
    from tracing.models.base import Model


class Tracer(Block):
    """One trace: `with model.trace(prompt) as tracer:`. Made by `model.trace` and `model.generate`."""

    def __init__(self, model: "Model", mode: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.model = model
        self._line = user_line()
        self._mode = mode
        self._call = f"model.{'trace' if mode == 'forward' else mode}(...) as tracer"
        self._given = check_options(model, mode, options)
        self._inputs = inputs
        shared = current(model.origin)
        self._in_session = shared is not None and shared.session
        self.recorder = shared if shared is not None and shared.session else Recorder(model)
        self._entered = False

    # -- the block ----------------------------------------------------------------------------------------------------
    def __enter__(self) -> "Tracer":
        if self._entered:
            raise RecordError("A tracer records one block only.", remedy="Call model.trace(...) again.")
        self._entered = True
        recorder = self.recorder
        if recorder.stage is not None:
            raise RecordError(
                f"A trace of this model is open already (at {self._line}).",
                remedy="Close its block first; several prompts of one trace are tracer.invoke(prompt).",
            )
        if self._in_session:
            require_attached(recorder.model, self.model, self._line)
            self._mark = recorder.mark()
        recorder.stage = Stage(len(recorder.graph.stages), self._mode, self._given.forward, self._line)
        recorder.graph.stages.append(recorder.stage)
        self._pop: Callable[[], None] = push(recorder)
        try:
            if self._given.validate:
                self.model.start_validation(recorder)
            if self._inputs or self._given.inputs:
                self._begin_invoke(self._inputs, self._given.inputs, self._line)
        except BaseException:
            self._leave(failed=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.recorder.finish_invoke()
            if error is None and not self._in_session:
                self.recorder.finish()
                self._run()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._leave(failed=error is not None)

    def _run(self) -> None:
        execute(self.model, self.recorder.graph, self.recorder.cells)

    def _leave(self, *, failed: bool) -> None:
        self._pop()
        self.recorder.validator = None  # the next trace of a session may not be checked
        self.recorder.end_stage()
        if not self._in_session:
            self.recorder.close()
        elif failed:  # whoever catches the error goes on with a session without this trace
            self.recorder.back_to(self._mark)

    def _begin_invoke(self, inputs: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> None:
        self.recorder.begin_invoke(self._add_invoke(inputs, kwargs, line))
        self.model.begin_invoke(self.recorder)

    def _add_invoke(self, inputs: tuple[Any, ...], kwargs: dict[str, Any], line: Line) -> Invoke:
        graph, stage = self.recorder.graph, self.recorder.stage
        assert stage is not None
        inputs, kwargs = known_prompt(inputs, kwargs)
        given = Inputs(inputs, kwargs) if inputs or kwargs else None
        invoke = Invoke(len(graph.invokes), stage.index, given, line)
        graph.invokes.append(invoke)
        return invoke

    # -- prompts ------------------------------------------------------------------------------------------------------
    def invoke(self, *inputs: Any, **kwargs: Any) -> "Invocation":
        """One more prompt of this trace; its block sees only the prompt's own rows. Without inputs: the whole batch."""
        if self._inputs:
            raise RecordError(
                f"This trace has a prompt already (at {user_line()}).",
                remedy="Give all prompts with tracer.invoke(...): `with model.trace() as tracer:`.",
            )
        return Invocation(self, inputs, kwargs)

    # -- steps of a generation ----------------------------------------------------------------------------------------
    @property
    def iter(self) -> Steps:
        """Generation steps: `for step in tracer.iter[0:3]:`, or `with tracer.iter[0:3]:`."""
        return Steps(self.recorder, self._steps_known(), None)

    def all(self) -> Steps:
        """All generation steps, as `tracer.iter[:]`."""
        return self.iter[:]

    def next(self, count: int = 1) -> None:
        """Go `count` generation steps on: sites accessed from here are of that step."""
        self.recorder.step += count

    def _steps_known(self) -> int | None:
        if self._mode != "generate":
            raise RecordError(
                f"tracer.iter selects steps of a generation, and model.trace runs one forward (at {user_line()}).",
                remedy="Use model.generate(prompt, max_new_tokens=n).",
            )
        return self.model.steps_of(self._given.forward)

    @property
    def result(self) -> Any:
        """What the generation returned: ids `[row, position]`, prompt included."""
        if self._mode != "generate":
            raise RecordError(
                f"tracer.result is of a generation (at {user_line()}).", remedy="In model.trace use model.output."
            )
        if self.recorder.stage is None:
            raise RecordError(
                f"tracer.result is a value inside the block of its generation, and is gone outside (at {user_line()}).",
                remedy="Save it there: ids = tracer.result.save().",
            )
        return Proxy(self.recorder.site("", "result"))

    # -- control ------------------------------------------------------------------------------------------------------
    def stop(self) -> None:
        """End the forward as soon as everything recorded before this line is known; later sites are not reached."""
        recorder = self.recorder
        stage = None if recorder.stage is None else recorder.stage.index  # of a session's traces, this one ends
        before = [node for node in recorder.graph.nodes if node.op == "site" and node.args[0].stage == stage]
        if not before and recorder.invoke is None:
            raise RecordError(
                f"Nothing is recorded yet that tracer.stop() could wait for (at {user_line()}).",
                remedy="Stop after what is to be known, or leave the trace out.",
            )
        recorder.add("stop", (before,))

    def cond(self, condition: Any) -> Branch:
        """Record a block that runs only if `condition` turns out true. `with branch.otherwise():` is the rest."""
        recorder = self.recorder
        return Branch(recorder, recorder.encode(condition), True)

    def list(self, values: Any = ()) -> ListProxy:
        """A list that grows while the trace runs: `found.append(value)`; saved, it holds what came."""
        recorder = self.recorder
        return ListProxy(Base(recorder, recorder.add("list", (recorder.encode(list(values)),))))

    def cache(
        self,
        modules: Iterable[Envoy | str] | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
        detach: bool = True,
        include_inputs: bool = False,
    ) -> Cache:
        """Save the outputs of these modules (by default of all that the forward calls), in one object.

        `device` and `dtype` say where and in which precision the values are kept. `detach` is there for code written
        for other tracers: saved values never hold an autograd graph.
        """
        if not detach:
            raise RecordError(
                f"Saved values hold no autograd graph (at {user_line()}).", remedy="Call loss.backward() in the trace."
            )
        return cached(self.model, self.recorder, modules, device=device, dtype=dtype, include_inputs=include_inputs)

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Proxy:
        """Call any function on the values when they are there. Only on this machine: a graph cannot hold it."""
        recorder = self.recorder
        node = recorder.add("apply", (function, recorder.encode(args), recorder.encode(kwargs)))
        return Proxy(Base(recorder, node))

    def barrier(self, count: int = 1) -> Callable[[], None]:
        """Does nothing: values cross from prompt to prompt by themselves. There for code written for other tracers."""
        return lambda: None

    def plan(self) -> Plan:
        """What the recorded program does: forwards, hooked modules, where it stops, and an estimate of its bytes.

        Inside the block, of what is recorded so far. Runs the model on tensors without numbers, which needs no weights.
        """
        return plan_of(self.model, self.recorder.graph, self.recorder.cells)

    @property
    def graph(self) -> Graph:
        """The recorded program."""
        return self.recorder.graph


class Invocation(Block):
    """The block of one prompt, `with tracer.invoke(prompt):`."""

    _call = "tracer.invoke(...)"

    def __init__(self, tracer: Tracer, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._tracer = tracer
        self._inputs = inputs
        self._kwargs = kwargs
        self._line = user_line()
        self._entered = False

    def __enter__(self) -> "Invocation":
        recorder = self._tracer.recorder
        if self._entered:
            raise RecordError(
                f"The block of a prompt is opened once (at {user_line()}).", remedy="Call tracer.invoke(...) again."
            )
        self._entered = True
        if recorder.invoke is not None:
            raise RecordError(
                f"Prompts of a trace do not nest (at {user_line()}).", remedy="Close the block of the other one first."
            )
        self._tracer._begin_invoke(self._inputs, self._kwargs, self._line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._tracer.recorder.finish_invoke()
        self._tracer.recorder.end_invoke()
