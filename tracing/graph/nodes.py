"""The deferred program as data: nodes in recorded order, the forwards they read from and write to, what is saved.

A graph is purely functional: no node changes a value. A write makes a new version of what it writes to, and the
executor puts the newest version of a site back into the model. `args` hold the nodes they refer to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from tracing.graph.lines import NOWHERE, Line

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
            self.deps = tuple(dict.fromkeys(_references(args, kwargs, guard)))

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


def _references(args: tuple[Any, ...], kwargs: Mapping[str, Any], guard: Guard | None) -> Iterator[Node]:
    for value in args:
        if isinstance(value, Node):
            yield value
        elif isinstance(value, (tuple, list, dict, slice)):
            yield from nodes_in(value)
    if kwargs:
        yield from nodes_in(kwargs)
    while guard is not None:
        yield guard.condition
        guard = guard.outer


def nodes_in(value: Any) -> Iterator[Node]:
    """Every node inside a nest of tuples, lists, dicts and slices."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from nodes_in(item)
    elif isinstance(value, slice):
        yield from nodes_in((value.start, value.stop, value.step))


class Values(Protocol):
    """Anything with `[node]`."""

    def __getitem__(self, node: Node, /) -> Any: ...


def substitute(value: Any, values: Values) -> Any:
    """The same nest with every node replaced by `values[node]`."""
    if isinstance(value, Node):
        return values[value]
    if type(value) is tuple:
        return tuple(substitute(item, values) for item in value)
    if type(value) is list:
        return [substitute(item, values) for item in value]
    if isinstance(value, dict):
        return {key: substitute(item, values) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(substitute(part, values) for part in (value.start, value.stop, value.step)))
    return value


@dataclass(frozen=True, slots=True)
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


@dataclass(slots=True, eq=False)
class Graph:
    """A recorded program."""

    nodes: list[Node] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    invokes: list[Invoke] = field(default_factory=list)
    saves: dict[int, str] = field(default_factory=dict)
    """Saved nodes by id, with the name under which a stored graph returns them."""

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

    def __str__(self) -> str:
        return "\n".join(f"{node!r}{'  saved' if node.id in self.saves else ''}  # {node.line}" for node in self.nodes)
