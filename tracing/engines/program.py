"""From a recorded graph to what a run needs: the nodes that matter, their users, and the forwards to run.

1. Nodes that lead to nothing (no save, no write to a site, no effect) are dropped; a computed value among them that
   nothing used is reported with `UnusedValueWarning`.
2. The sites of each forward are indexed by module, so that only those modules are hooked.
3. Invokes of one stage are spread over successive forwards where values flow from a later site of one to an earlier
   site of another (`tracing.engines.causality`).
"""

import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracing.engines.causality import forwards_of
from tracing.errors import UnusedValueWarning
from tracing.graph.loops import unrolled
from tracing.graph.nodes import EFFECTS, STRUCTURAL, Graph, Invoke, Node, Stage
from tracing.graph.ops import PROPERTIES

_ABOUT = frozenset(PROPERTIES.values())
"""Operations that only look at a value: shape, dtype, … Not using their result is no mistake."""

Place = tuple[str, str]
"""Module path and kind of site."""


@dataclass(slots=True)
class Forward:
    """One call of the model: which invokes it runs, and which nodes wait for which place, step and call."""

    stage: Stage
    invokes: list[Invoke]
    sites: dict[Place, dict[tuple[int, int], list[Node]]] = field(default_factory=dict)
    skips: list[Node] = field(default_factory=list)
    written: set[Place] = field(default_factory=set)
    """Places whose value the program changes or differentiates."""
    eager: bool = False
    """Whether attention must run its eager path, because a module is named that only that calls."""
    pending: int = 0
    """Number of site nodes that must be reached before the forward may be stopped early."""

    @property
    def steps(self) -> int:
        """How many steps of a generation have sites."""
        return 1 + max((step for calls in self.sites.values() for step, _ in calls), default=0)


@dataclass(slots=True)
class Program:
    """What `Run` executes."""

    graph: Graph
    nodes: list[Node]
    users: dict[Node, list[Node]]
    forwards: list[Forward]
    saved: dict[Node, int]
    """Saved nodes, with the number under which their cell is known."""
    differentiates: bool
    dropped: int = 0
    """How many recorded nodes lead to nothing."""


def compile_graph(graph: Graph, model: Any, *, warn: bool = True, looked_at: Container[Node] = ()) -> Program:
    """Drop what leads to nothing, schedule the rest. Raises `CausalityError`, `StepNotReachedError`.

    With `warn`, a dropped value is reported with `UnusedValueWarning`, unless its shape was `looked_at`.
    """
    recorded, saved = unrolled(graph)
    live = _live(recorded, saved, model)
    if warn:
        _warn_unused(recorded, live, looked_at)
    nodes = [node for node in recorded if node in live]
    users: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for dependency in node.deps:
            users[dependency].append(node)
    forwards = _forwards(graph, nodes, model)
    differentiates = any(node.op in ("backward", "grad") for node in nodes)
    return Program(graph, nodes, users, forwards, saved, differentiates, len(recorded) - len(nodes))


def _live(recorded: Sequence[Node], saved: Mapping[Node, int], model: Any) -> set[Node]:
    live: set[Node] = set()
    inner: set[str] = set()
    """Paths of attached modules whose values matter, so that the call that passes them does."""
    for node in reversed(recorded):
        if node.op == "site" and (node in live or node in saved) and model.is_attached(node.args[0].path):
            inner.add(node.args[0].path)
        called = node.op == "module" and any(
            path == node.args[0] or path.startswith(f"{node.args[0]}.") for path in inner
        )
        if (
            called
            or node in live
            or node in saved
            or node.op in EFFECTS
            or (node.op == "write" and node.args[3] is not None)
        ):
            live.add(node)
            live.update(node.deps)
    return live


def _warn_unused(recorded: Iterable[Node], live: set[Node], looked_at: Container[Node]) -> None:
    dead = [node for node in recorded if node not in live]
    if not dead:
        return
    used = {dependency for node in dead for dependency in node.deps}
    for node in dead:
        if node in used or node in looked_at or node.op in _ABOUT or (node.op in STRUCTURAL and node.op != "write"):
            continue
        what = "The write changes a copy that" if node.op == "write" else f"The result of {node.op!r} is a value that"
        warnings.warn_explicit(
            f"{what} nothing saves or uses, so it has no effect. To change the model, write to the module: "
            "module.output[...] = value or module.output = value.",
            UnusedValueWarning,
            node.line.file,
            node.line.number or 1,
        )


def _forwards(graph: Graph, nodes: Sequence[Node], model: Any) -> list[Forward]:
    split = forwards_of(graph, nodes, model)
    forwards = [Forward(graph.stages[stage], [graph.invokes[i] for i in invokes]) for stage, invokes in split]
    by_invoke = {invoke.index: forward for forward in forwards for invoke in forward.invokes}
    first_of_stage: dict[int, Forward] = {}
    for forward in forwards:
        first_of_stage.setdefault(forward.stage.index, forward)
    for node in nodes:
        if node.op == "site":
            site = node.args[0]
            forward = first_of_stage[site.stage] if site.invoke is None else by_invoke[site.invoke]
            places = forward.sites.setdefault((site.path, site.kind), {})
            places.setdefault((site.step, site.call), []).append(node)
            forward.pending += 1
        elif node.op == "skip":
            by_invoke[node.args[2].invoke].skips.append(node)
        elif node.op in ("write", "grad"):
            site = node.site if node.op == "write" else node.args[1].site
            if site is not None and site.kind != "grad":
                forward = first_of_stage[site.stage] if site.invoke is None else by_invoke[site.invoke]
                forward.written.add((site.path, site.kind))
    for forward in forwards:
        forward.eager = model.asks_eager(forward.stage.options) or any(
            model.needs_eager(path) and any(not node.kwargs for nodes in calls.values() for node in nodes)
            for (path, _), calls in forward.sites.items()
        )
    return forwards
