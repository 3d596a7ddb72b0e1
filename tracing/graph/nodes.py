"""The deferred program as data: nodes in recorded order, the forwards they read from and write to, what is saved.

A graph is purely functional: no node changes a value. A write makes a new version of what it writes to, and the
executor puts the newest version of a site back into the model. `args` hold the nodes they refer to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from tracing.graph.lines import NOWHERE, Line

if TYPE_CHECKING:
    from tracing.export.source import Script

STRUCTURAL: Final = frozenset(
    {
        "site", "part", "write", "module", "parameter", "grad", "grad_total", "backward", "skip", "stop", "apply",
        "list", "append",
    }
)  # fmt: skip
"""Operations that the executor knows; every other name is one of the op table."""


EFFECTS: Final = frozenset({"backward", "skip", "stop", "apply"})
"""Operations that are run although nothing uses their result."""


class Site(NamedTuple):
    """A place in a forward where a value is read or written."""

    stage: int
    """Which of the graph's forwards."""
    invoke: int | None
    """Which prompt's rows; None is the whole batch."""
    path: str
    """Dotted path of the module; "" is the model."""
    kind: str
    """"output", "inputs" (positional and keyword arguments), an attention tap, "result" of a generation, or
    "grad" (then `path` names the value, and `step` the backward)."""
    step: int = 0
    """Generation step."""
    call: int = 0
    """Which call of the module within one step."""
    in_place: bool = False
    """Whether a write changes the very tensor, for residual streams that the block reads again by itself."""

    def __str__(self) -> str:
        step = f", step {self.step}" if self.step else ""
        call = f", call {self.call}" if self.call else ""
        return f"{self.path or 'model'}.{'input' if self.kind == 'inputs' else self.kind}{step}{call}"


_PLAIN: Final[frozenset[type]] = frozenset({int, str, bool, float, type(None), type(Ellipsis), Site})
"""Types of most arguments, which hold no nodes."""


class Guard(NamedTuple):
    """A node runs only if `condition` was truthy (or, with `expected` False, falsy), and its `outer` guard holds."""

    condition: "Node"
    expected: bool
    outer: "Guard | None"


@dataclass(slots=True, eq=False)
class Loop:
    """A block recorded once and run for several generation steps (`with tracer.iter[a:b]`).

    `carried` pairs versions of values from outside the loop with the version that one pass leaves behind.
    """

    steps: tuple[int, ...]
    carried: "list[tuple[Node, Node]]" = field(default_factory=list)


class Node:
    """One recorded operation."""

    __slots__ = ("args", "deps", "guard", "id", "invoke", "kwargs", "line", "loop", "op")

    def __init__(
        self,
        id: int,  # noqa: A002 (the field's name)
        op: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        line: Line = NOWHERE,
        invoke: int | None = None,
        guard: Guard | None = None,
        loop: Loop | None = None,
    ) -> None:
        self.id = id
        self.op = op
        self.args = args
        self.kwargs = kwargs
        self.line = line
        self.invoke = invoke
        self.guard = guard
        self.loop = loop
        if op == "site":
            self.deps: tuple[Node, ...] = ()
        elif op == "part" and guard is None:  # its steps are plain data, which need no search
            self.deps = (args[0],)
        else:
            found: list[Node] = []
            _collect(args, found)
            if kwargs:
                _collect(kwargs, found)
            while guard is not None:
                found.append(guard.condition)
                guard = guard.outer
            self.deps = tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found)

    @property
    def site(self) -> Site | None:
        """The site that this node reads ("site") or is a version of ("write")."""
        if self.op in ("site", "grad"):
            return self.args[0]  # type: ignore[no-any-return]
        if self.op == "write":
            return self.args[3]  # type: ignore[no-any-return]
        return None

    def __repr__(self) -> str:
        return f"%{self.id} = {self.op}({', '.join(map(_short, self.args))})"


def _short(value: object) -> str:
    return f"%{value.id}" if isinstance(value, Node) else str(value) if isinstance(value, Site) else repr(value)[:40]


def nodes_in(value: Any) -> list[Node]:
    """Every node inside a nest of tuples, lists, dicts and slices."""
    found: list[Node] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Node]) -> None:
    # By exact types first: most values are plain, and this runs for every node recorded.
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is Node:
        found.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            if type(item) not in _PLAIN:
                _collect(item, found)
    elif kind is slice:
        for item in (value.start, value.stop, value.step):
            if type(item) not in _PLAIN:
                _collect(item, found)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)


class Values(Protocol):
    """Anything with `[node]`."""

    def __getitem__(self, node: Node, /) -> Any: ...


def substitute(value: Any, values: Values) -> Any:
    """The same nest with every node replaced by `values[node]`."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is Node:
        return values[value]
    if kind is tuple:
        return tuple([substitute(item, values) for item in value])
    if kind is list:
        return [substitute(item, values) for item in value]
    if kind is slice:
        return slice(*[substitute(part, values) for part in (value.start, value.stop, value.step)])
    if isinstance(value, dict):
        return {key: substitute(item, values) for key, item in value.items()}
    return value


@dataclass(slots=True)
class Inputs:
    """What the user gave one invoke; both empty for an invoke without a prompt of its own."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Invoke:
    """One prompt of a forward. `inputs` None means that it has no prompt of its own and sees the whole batch."""

    index: int
    stage: int
    inputs: Any
    line: Line = NOWHERE


@dataclass(slots=True)
class Stage:
    """One trace: a forward, or a generation, of its invokes together."""

    index: int
    mode: str = "forward"
    """"forward" or "generate"."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the forward or for generation."""
    line: Line = NOWHERE


def _no_model() -> None:
    """The model of a graph that knows none."""


@dataclass(slots=True, eq=False)
class Graph:
    """A recorded program."""

    nodes: list[Node] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    invokes: list[Invoke] = field(default_factory=list)
    saves: dict[int, str] = field(default_factory=dict)
    """Saved nodes by id, with the name under which a stored graph returns them."""
    expected: set[Site] = field(default_factory=set)
    """Sites of named generation steps that are written or skipped, which is missed where the steps never come."""
    model: "Callable[[], Any]" = _no_model
    """A weak reference to the model that the graph was recorded on; of a graph from a file, to None."""

    def __repr__(self) -> str:
        read = len({node.site for node in self.nodes if node.op == "site"})
        return f"Graph({len(self.nodes)} nodes, {read} sites, {len(self.saves)} saved; print it to read it)"

    def record(
        self,
        op: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        line: Line = NOWHERE,
        invoke: int | None = None,
        guard: Guard | None = None,
        loop: Loop | None = None,
    ) -> Node:
        """Append a node; arguments are checked by whoever calls."""
        node = Node(len(self.nodes), op, args, kwargs, line, invoke, guard, loop)
        self.nodes.append(node)
        return node

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of an edited model has copies of its edits, of which none is of the other model.
        return Graph, (self.nodes, self.stages, self.invokes, self.saves)

    def __str__(self) -> str:
        from tracing.graph.text import graph_text  # which is written in terms of nodes

        return graph_text(self)

    def to_nnsight_source(self, model: Any = None, *, model_name: str | None = None) -> "Script":
        """The graph as a Python script for nnsight 0.8.1; see `tracing.export`.

        `model` is needed where the graph comes from a file, or its model is gone. `model_name` is the folder or hub
        id that the script loads by default. Raises `ExportError` for what nnsight cannot express.
        """
        from tracing.export.source import to_nnsight_source  # engines run graphs, and it needs their order

        return to_nnsight_source(self, model, model_name=model_name)
