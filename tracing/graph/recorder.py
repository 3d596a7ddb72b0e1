"""What is being recorded right now: the graph, and whose rows, step, condition and loop the next node belongs to.

Recorders live on a stack that each thread and each asyncio task has for itself, so traces never see one another.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from tracing.errors import OperationError, RecordError
from tracing.graph.cells import Cell
from tracing.graph.gradients import Gradients
from tracing.graph.lines import Line, user_line
from tracing.graph.nodes import Graph, Guard, Invoke, Loop, Node, Site, Stage
from tracing.graph.operators import Operators
from tracing.graph.saved import Saved

if TYPE_CHECKING:
    from tracing.graph.proxy import Proxy

_PLAIN_KINDS = (
    int,
    str,
    bool,
    float,
    type(None),
    type(Ellipsis),
    torch.dtype,
    torch.device,
    torch.Size,
    torch.memory_format,
)
_PLAIN: Final[frozenset[Any]] = frozenset(_PLAIN_KINDS)

_stack: ContextVar[tuple["Recorder", ...]] = ContextVar("tracing_recorders", default=())


class Base:
    """A value that can be written: a site of one invoke, or a computed value. `node` is its newest version."""

    __slots__ = ("node", "recorder", "site", "version")

    def __init__(self, recorder: "Recorder", node: Node, site: Site | None = None) -> None:
        self.recorder = recorder
        self.node = node
        self.site = site
        self.version = 0


class Recorder:
    """Records one program: one trace, or all traces of a session."""

    def __init__(self, model: Any, *, session: bool = False) -> None:
        self.model = model
        self.session = session
        """Whether several traces are recorded into one program (`model.session()`)."""
        self.graph = Graph() if model is None else Graph(model=weakref.ref(model))
        self.open = True
        self.stage: Stage | None = None
        self.invoke: Invoke | None = None
        self.step = 0
        self.stepping = False
        """Whether a loop over generation steps says which step is meant."""
        self.firm: tuple[int, ...] = (0,)
        """By how much to move the step of a site to get those in which a change of it is meant to take place."""
        self.guard: Guard | None = None
        self.loop: Loop | None = None
        self.cells: dict[int, Cell] = {}
        self.gradients = Gradients(self)
        self.retained: list[Proxy] = []
        """Proxies whose gradient is kept for after the trace."""
        self.at_end: list[Callable[[], None]] = []
        """What is to be recorded at the end of the prompt's block."""
        self.shifts: dict[str, int] = {}
        """By module path, how many calls on the next access of it or of what lies below means (`module.next()`)."""
        self.validator: Any = None
        """Runs every node on fake tensors while it is recorded (`scan`, `validate=True`)."""
        self._sites: dict[Site, Base] = {}
        self._loop_bases: dict[Base, Node] = {}
        self._constants: dict[int, tuple[Tensor, Tensor]] = {}
        """By the id of a user's tensor: it, and the newest copy made of it."""

    # -- nodes --------------------------------------------------------------------------------------------------------
    def add(
        self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, line: Line | None = None
    ) -> Node:
        """Record a node whose arguments hold nodes and plain values only."""
        line = line or user_line(3)
        invoke = self.invoke
        node = self.graph.record(
            op, args, kwargs or {}, line, None if invoke is None else invoke.index, self.guard, self.loop
        )
        if self.validator is not None:
            self.validator.check(node)
        return node

    def encode(self, value: Any) -> Any:
        """An argument as the graph holds it: proxies as their nodes, saved values as their tensors."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is Saved:
            return self.node_of(value._proxy)
        if issubclass(kind, Operators):
            return self.node_of(value)
        if isinstance(value, Tensor):
            return self._constant(value)
        if kind is tuple:
            return tuple(map(self.encode, value))
        if kind is list:
            return [self.encode(item) for item in value]
        if isinstance(value, dict):
            return {_plain_key(key): self.encode(item) for key, item in value.items()}
        if kind is slice:
            if type(value.start) in _PLAIN and type(value.stop) in _PLAIN and type(value.step) in _PLAIN:
                return value
            return slice(self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        if isinstance(value, _PLAIN_KINDS):  # a subclass: an enumeration, a named tuple's field
            return value
        if hasattr(value, "__array__"):
            return torch.as_tensor(value).clone()
        raise OperationError(
            f"An argument of type {kind.__name__} cannot be recorded (at {user_line()}).",
            remedy="Give tensors, numbers, text, slices and proxies. A function for tracer.apply may use any other "
            "object of your own: tracer.apply(lambda value: function(value, object), proxy).",
        )

    def _constant(self, value: Tensor) -> Tensor:
        """A copy of a tensor as it is at this line, which the user may change at the next one.

        Of a tensor that requires gradients, one through which they reach it.
        """
        if value.is_meta or value.layout is not torch.strided:
            return value
        known = self._constants.get(id(value))
        if known is not None and torch.equal(known[1], value):
            return known[1]
        if value.requires_grad or torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.set_grad_enabled(value.requires_grad):
                copied = value.clone()
        else:
            copied = value.clone()
        self._constants[id(value)] = value, copied
        return copied

    def node_of(self, proxy: "Proxy") -> Any:
        """The node of a live proxy, the value of a finished one."""
        if not proxy._base.recorder.open:
            return self.encode(proxy.value)
        if proxy._base.recorder is not self:
            raise RecordError(
                f"The value of {proxy._line} belongs to another trace that is still open.",
                remedy="Save it there and use it after that trace, or record both in one model.session().",
            )
        return proxy._node()

    # -- bases --------------------------------------------------------------------------------------------------------
    def site(self, path: str, kind: str, *, in_place: bool = False, optional: bool = False) -> Base:
        """The base of a site for the current invoke and step; recorded at its first access.

        The value of an `optional` site is absent, without an error, where the forward does not pass it.
        """
        stage, invoke = self.place(path or "output")
        step, call = self.when(path) if self.shifts else (self.step, 0)
        key = Site(stage.index, invoke.index, path, kind, step, call, in_place)
        base = self._sites.get(key)
        if base is None:
            node = self.graph.record(
                "site", (key,), {"optional": True} if optional else {}, user_line(3), key.invoke, None, self.loop
            )
            if self.validator is not None:
                self.validator.check(node)
            base = Base(self, node, key)
            self._sites[key] = base
        return base

    def when(self, path: str) -> tuple[int, int]:
        """The step of a generation, and the call of a module in it, that is meant here."""
        shift = sum(count for moved, count in self.shifts.items() if path == moved or path.startswith(moved + "."))
        generating = self.stage is not None and self.stage.mode == "generate"
        return (self.step + shift, 0) if generating else (self.step, shift)

    def place(self, what: str) -> tuple[Stage, Invoke]:
        """The current stage and invoke. Raises `RecordError` where there is none."""
        if self.stage is None or self.invoke is None:
            named = "" if self.stage is None else ", ".join(f"{name}=..." for name in self.stage.options)
            raise RecordError(
                f"{what!r} was accessed outside of a prompt's block (at {user_line()}).",
                remedy="Put it into `with tracer.invoke(prompt):`, or give the prompt to model.trace(prompt)."
                + (f" {named} went to the whole call: an input by name is tracer.invoke({named})." if named else ""),
            )
        return self.stage, self.invoke

    def finish_invoke(self) -> None:
        """The prompt's block is about to end: record what waits for that."""
        waiting, self.at_end = self.at_end, []
        for record in waiting:
            record()

    def begin_invoke(self, invoke: Invoke) -> None:
        """What follows is said of this prompt."""
        self.invoke, self.step, self.shifts, self.stepping = invoke, 0, {}, False

    def end_invoke(self) -> None:
        """The prompt's block ends."""
        self.at_end = []
        self.invoke, self.step, self.shifts = None, 0, {}

    def end_stage(self) -> None:
        """The trace's block ends."""
        self.end_invoke()
        self.stage, self.guard, self.loop = None, None, None

    def advance(self, base: Base, node: Node) -> None:
        """Make `node` the newest version of a base."""
        if self.loop is not None and base.node.loop is not self.loop and base not in self._loop_bases:
            self._loop_bases[base] = base.node
        if base.site is not None and (base.site.step or self.loop is not None):
            self.expect(base.site)
        base.node = node
        base.version += 1

    def expect(self, site: Site) -> None:
        """A change in a step that was named: if the step never comes, the user is told."""
        self.graph.expected.update(site._replace(step=site.step + step) for step in self.firm)

    def save(self, node: Node) -> Cell:
        """Mark a node as saved; where it is already, there are two copies of it in the end."""
        loop = node.loop
        if (
            self.loop is None
            and loop is not None
            and node.op == "write"
            and any(node is one for _, one in loop.carried)
        ):
            # After a loop, what its last step left of a value from before it; not the list of its steps.
            node = self.graph.record("part", (node, ()), {}, user_line(), node.invoke, self.guard)
        cell, last = Cell(user_line(3)), self.cells.get(node.id)
        if last is None:
            self.cells[node.id] = cell
            self.graph.saves[node.id] = ""
            return cell
        while last.next is not None:
            last = last.next
        last.next = cell
        return cell

    def keep_as(self, proxy: "Proxy", device: Any, dtype: torch.dtype | None) -> None:
        """Say where and in which precision a saved value is kept."""
        cell = proxy._cell
        if cell is not None:
            cell.device, cell.dtype = device, dtype

    def save_instead(self, before: Node, node: Node) -> None:
        """Let the cells of a node receive a newer version of its value."""
        cell = self.cells.pop(before.id, None)
        if cell is not None:
            del self.graph.saves[before.id]
            self.cells[node.id] = cell
            self.graph.saves[node.id] = ""

    @contextmanager
    def looping(self, loop: Loop) -> Iterator[None]:
        """Record the body of a loop that the executor repeats."""
        if self.loop is not None:
            raise RecordError("Loops over generation steps do not nest.", remedy="Close the outer loop first.")
        self.loop, self._loop_bases = loop, {}
        sites, self._sites = self._sites, {}
        at_end, self.at_end = self.at_end, []
        stepping, self.stepping = self.stepping, True
        try:
            yield
            self.finish_invoke()
        finally:
            self.at_end, self.stepping = at_end, stepping
            loop.carried.extend((before, base.node) for base, before in self._loop_bases.items())
            self.loop, self._loop_bases, self._sites = None, {}, sites

    def mark(self) -> tuple[int, ...]:
        """How far the program has come, for `back_to`."""
        graph, gradients = self.graph, self.gradients
        return len(graph.nodes), len(graph.stages), len(graph.invokes), len(self.retained), gradients.count

    def back_to(self, mark: tuple[int, ...]) -> None:
        """Forget what was recorded since: a trace of a session whose block ended with an error."""
        graph = self.graph
        nodes, stages, invokes, retained, backwards = mark
        for number in [number for number in graph.saves if number >= nodes]:
            del graph.saves[number], self.cells[number]
        self._sites = {site: base for site, base in self._sites.items() if site.stage < stages}
        graph.expected = {site for site in graph.expected if site.stage < stages}
        self.gradients.back_to(backwards, nodes)
        del graph.nodes[nodes:], graph.stages[stages:], graph.invokes[invokes:], self.retained[retained:]

    def finish(self) -> None:
        """Record what the end of the block implies: gradients that were retained are saved."""
        if self.gradients.count:
            for proxy in self.retained:
                proxy.grad  # noqa: B018 (asking for it saves it)

    def close(self) -> None:
        """Nothing can be recorded any more; what the recording needed is let go."""
        self.open = False
        self.model = None  # a value that a user keeps must keep neither the model
        for cell in self.cells.values():  # nor the other values and the constants of its program
            cell.close()
        for base in self._sites.values():
            base.recorder, base.node = ENDED.recorder, ENDED.node
        self.gradients.close(ENDED)
        self.retained = []
        self._sites = {}
        self._loop_bases = {}
        self._constants = {}
        self.validator = None


def _plain_key(key: Any) -> Any:
    """The key of a dict as it is. Raises `OperationError` for a value of the trace, whose number is not known yet."""
    if isinstance(key, (Operators, Tensor)):
        raise OperationError(
            f"A value cannot be the key of a dict in an argument (at {user_line()}).",
            remedy="Give keys and values as two lists.",
        )
    return key


def _ended() -> Base:
    recorder = Recorder(None)
    recorder.open = False
    return Base(recorder, Node(0, "list", (), {}))


ENDED: Final = _ended()
"""What a saved value is based on once its program has run."""


def push(recorder: Recorder) -> Callable[[], None]:
    """Put a recorder on the stack of this thread or task; returns what takes it off."""
    before = _stack.get()
    _stack.set((*before, recorder))

    def undo() -> None:
        # Blocks need not close in the order in which they opened (generators, ExitStack.pop_all): only this one goes.
        stack = list(_stack.get())
        for place in reversed(range(len(stack))):
            if stack[place] is recorder:
                del stack[place]
                break
        _stack.set(tuple(stack))

    return undo


def current(model: Any = None) -> Recorder | None:
    """The innermost recorder (of this model)."""
    for recorder in reversed(_stack.get()):
        if recorder.open and (model is None or recorder.model.origin is model):
            return recorder
    return None
