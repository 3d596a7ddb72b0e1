"""Can the writes be done in the order in which the model runs? Checked before it does.

1. A write needs every site that its value is computed from. Where all of them are the site itself (or nothing but
   constants), in whatever prompt, the recorded program runs as it is: one look at each node tells, and no more is done.
2. Otherwise the *time* of a site is (generation step, place in the forward); `tracing.engines.order` knows the place.
   For each node and each prompt, the latest site that it needs is found.
3. A write must not need a later site of its own prompt: `CausalityError`. From another prompt of the same trace it may;
   that prompt's forward then comes before. So prompts have *levels*: at least that of each prompt whose values are
   needed, and one more where a later value is. The least levels are longest paths; a cycle with a later value has none.
4. Prompts of one level share a forward; levels run one after the other.
5. An order that is known from an earlier input may be wrong for this one. What it refuses is judged once more by the
   order found with this input.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tracing.engines.order import Moment, Order, order_of
from tracing.errors import CausalityError, SiteNotReachedError
from tracing.graph.nodes import Graph, Node, Site, nodes_in

Forwards = list[tuple[int, list[int]]]
"""Forwards in the order they run: the stage of each and its invokes."""

Time = tuple[float, int]
"""Generation step, place in the forward."""

_MANY: Any = object()


def forwards_of(graph: Graph, nodes: Sequence[Node], model: Any) -> Forwards:
    """The forwards to run, in order: stage and invokes of each.

    Raises `CausalityError` naming both lines where a write needs a value that comes only after it, and
    `SiteNotReachedError` for a site that such a write needs and the forward does not pass.
    """
    bound = _bound_writes(nodes)
    if not bound:
        return _one_each(graph)
    schedule = _Schedule(graph, nodes, model)
    try:
        return schedule.forwards(bound)
    except (CausalityError, SiteNotReachedError):
        if not schedule.by_kept_order:
            raise
    return _Schedule(graph, nodes, model, anew=True).forwards(bound)


def _one_each(graph: Graph) -> Forwards:
    invokes: dict[int, list[int]] = {stage.index: [] for stage in graph.stages}
    for invoke in graph.invokes:
        invokes[invoke.stage].append(invoke.index)
    return list(invokes.items())


def _bound_writes(nodes: Iterable[Node]) -> list[Node]:
    """Writes and skips that need a value from another place than their own."""
    places: dict[Node, Any] = {}
    found = []
    for node in nodes:
        op = node.op
        if op == "site":
            places[node] = _place(node.args[0])
            continue
        place: Any = _MANY if op == "grad" else None
        for dependency in node.deps:
            other = places[dependency]
            if place is None:
                place = other
            elif other is not None and other != place:
                place = _MANY
                break
        places[node] = place
        if op == "write" and node.args[3] is not None:
            if place is _MANY or place != _place(node.args[3]):
                found.append(node)
        elif op == "skip" and place is not None:
            found.append(node)
    return found


def _reaches_model(node: Node) -> bool:
    """Whether a node changes what the model computes."""
    return node.op == "skip" or (node.op == "write" and node.args[3] is not None)


def _place(site: Site) -> tuple[Any, ...]:
    """A site without its prompt: what one visit of the executor serves."""
    return site.stage, site.path, site.kind, site.step, site.call


class _Source(NamedTuple):
    """The latest site of one prompt that a value needs."""

    time: Time
    node: Node


Sources = Mapping[tuple[int, int | None], _Source]
"""By stage and invoke."""


class _Edge(NamedTuple):
    """`write`, in one prompt, needs `read` of another one, `later` than itself or not."""

    start: int | None
    end: int | None
    later: bool
    write: Node
    read: Node


class _Schedule:
    """The levels of a graph's prompts."""

    def __init__(self, graph: Graph, nodes: Sequence[Node], model: Any, *, anew: bool = False) -> None:
        self._graph = graph
        self._nodes = nodes
        self._model = model
        self._anew = anew
        self.by_kept_order = False
        """Whether an order was used that another input had."""
        self._orders: dict[int, Order] = {}
        self._sources: dict[Node, Sources] = {}
        self._backwards = {node.args[2]: node for node in nodes if node.op == "backward"}
        self._calls = [node for node in nodes if node.op == "module" and node.args[0] in model.attached]

    def forwards(self, bound: Sequence[Node]) -> Forwards:
        """Stage and invokes of each forward. Raises `CausalityError`."""
        edges = [edge for write in bound for edge in self._edges(write)]
        if any(edge.later for edge in edges):
            # Forwards are to be split, so a value of the same place of another prompt is not there by itself.
            rest = [node for node in self._nodes if _reaches_model(node) and node not in bound]
            edges += [edge for write in rest for edge in self._edges(write)]
        result: Forwards = []
        for stage, invokes in _one_each(self._graph):
            members = set(invokes)
            levels = self._levels(stage, invokes, [edge for edge in edges if edge.end in members])
            for level in sorted(set(levels.values())) or [0]:
                result.append((stage, [invoke for invoke in invokes if levels[invoke] == level]))
        return result

    # -- what a write needs -------------------------------------------------------------------------------------------
    def _edges(self, write: Node) -> list[_Edge]:
        """What a write needs of other prompts. Raises `CausalityError` for what it cannot have."""
        site = write.args[2] if write.op == "skip" else write.args[3]
        if site.kind == "grad":
            return self._gradient_edges(write, site)
        sources = self._of(write)
        own = self._of(self._calls_of(site)) if self._is_attached(site) else None
        edges = []
        for (stage, invoke), source in sources.items():
            if stage < site.stage:
                continue
            if own is not None:
                same = own.get((stage, invoke))
                later = same is None or source.time > same.time
            else:
                later = stage > site.stage or source.time > self._time(site, entering=write.op == "skip")
            if later and (invoke == site.invoke or stage > site.stage):
                raise _too_late(write, site, source.node)
            if invoke != site.invoke:
                edges.append(_Edge(invoke, site.invoke, later, write, source.node))
        return edges

    def _gradient_edges(self, write: Node, site: Site) -> list[_Edge]:
        """A gradient is written while its backward runs: what else that needs must be there by then."""
        backward = self._backwards.get(site.step)
        if backward is None:
            return []  # reported as a gradient that no backward reaches
        known = self._of(backward)
        base, steps, new, _ = write.args
        others = [*nodes_in(steps), *nodes_in(new), *(node for node in write.deps if node is not base)]
        edges = []
        for other in dict.fromkeys(others):
            self._check_gradients(write, site, other, backward)
            for (stage, invoke), source in self._of(other).items():
                same = known.get((stage, invoke))
                later = same is None or source.time > same.time
                if later and (stage > site.stage or invoke == site.invoke):
                    raise _too_late(write, site, source.node)
                if later:
                    edges.append(_Edge(invoke, site.invoke, True, write, source.node))
        return edges

    def _check_gradients(self, write: Node, site: Site, value: Node, backward: Node) -> None:
        """Raises `CausalityError` where a written gradient needs another one of the same backward, known after it."""
        written = {node.args[0] for node in self._nodes if node.op == "write" and node.args[0].op == "grad"}
        todo, seen = [value], {value}
        while todo:
            node = todo.pop()
            if node.op == "grad" and node.args[0].step == site.step and node.args[0].path != site.path:
                if node not in written:
                    raise CausalityError(
                        f"The gradient written at {write.line} needs the gradient read at {node.line}, which is known "
                        f"only when the same backward ({backward.line}) has ended.",
                        remedy="Call backward twice, with retain_graph=True: read in the first, write in the second.",
                        where={"write": str(write.line), "read": str(node.line)},
                    )
            elif node.op == "grad":
                continue
            fresh = [one for one in node.deps if one not in seen]
            seen.update(fresh)
            todo.extend(fresh)

    def _of(self, node: Node) -> Sources:
        """The latest site of every prompt that a value needs. Raises `CausalityError` for a value that needs itself."""
        known = self._sources
        path: dict[Node, None] = {}
        todo = [node]
        while todo:
            one = todo[-1]
            if one in known:
                todo.pop()
                continue
            needs = self._needs(one)
            missing = [other for other in needs if other not in known]
            if not missing:
                known[one] = self._merged(one, needs)
                path.pop(one, None)
                todo.pop()
                continue
            path[one] = None
            for other in missing:
                if other in path:
                    raise _circular(one, other)
            todo.extend(missing)
        return known[node]

    def _needs(self, node: Node) -> Sequence[Node]:
        if node.op == "grad":
            backward = self._backwards.get(node.args[0].step)
            return node.deps if backward is None else (*node.deps, backward)
        if node.op == "site" and self._is_attached(node.args[0]):
            return (self._calls_of(node.args[0]),)
        return node.deps

    def _merged(self, node: Node, needs: Sequence[Node]) -> Sources:
        if node.op == "site" and not needs:
            site = node.args[0]
            return {(site.stage, site.invoke): _Source(self._time(site), node)}
        full = [self._sources[one] for one in needs if self._sources[one]]
        if len(full) < 2:
            return full[0] if full else {}
        merged = dict(full[0])
        for sources in full[1:]:
            for key, source in sources.items():
                if key not in merged or source.time > merged[key].time:
                    merged[key] = source
        return merged

    # -- times --------------------------------------------------------------------------------------------------------
    def _time(self, site: Site, *, entering: bool = False) -> Time:
        if site.kind == "result":
            return float("inf"), 0
        moment = _moment(site, entering=entering)
        found = self._order(site.stage).moments.get(moment)
        if found is not None:
            return site.step, found
        if self._graph.stages[site.stage].mode == "generate":
            return site.step, -1  # a module that only other steps call; the run says whether it came
        node = next(node for node in self._nodes if node.site == site or (node.op == "skip" and node.args[2] == site))
        if node.kwargs.get("optional"):
            return site.step, -1
        raise SiteNotReachedError(
            f"The forward never reaches {site} (asked for at {node.line}).",
            remedy=self._model.why_not_reached(site.path),
            where={"site": str(site), "line": str(node.line)},
        )

    def _order(self, stage: int) -> Order:
        order = self._orders.get(stage)
        if order is None:
            sites = [node.args[0] for node in self._nodes if node.op == "site" and node.args[0].stage == stage]
            places = {_moment(site) for site in sites if site.kind not in ("result", "grad")}
            inputs = [invoke.inputs for invoke in self._graph.invokes if invoke.stage == stage and invoke.inputs]
            if not inputs:
                self._model.batch([], generating=False)  # raises that there is no prompt
            of_stage = self._graph.stages[stage]
            eager = any(self._model.needs_eager(path) for path, _, _ in places)
            eager = eager or self._model.asks_eager(of_stage.options)
            order, found_now = order_of(self._model, of_stage, inputs[0], places, eager=eager, anew=self._anew)
            self.by_kept_order |= not found_now
            self._orders[stage] = order
        return order

    def _is_attached(self, site: Site) -> bool:
        return any(site.path == path or site.path.startswith(path + ".") for path in self._model.attached)

    def _calls_of(self, site: Site) -> Node:
        """The call, in the trace, of the attached module in which a site lies."""
        calls = [
            node
            for node in self._calls
            if node.invoke == site.invoke and (site.path == node.args[0] or site.path.startswith(node.args[0] + "."))
        ]
        if site.call < len(calls):
            return calls[site.call]
        raise SiteNotReachedError(
            f"{site} lies in an attached module that this trace does not call (as often).",
            remedy="Call the module on a value inside the trace before asking for its output.",
            where={"site": str(site)},
        )

    # -- levels -------------------------------------------------------------------------------------------------------
    def _levels(self, stage: int, invokes: Sequence[int], edges: Sequence[_Edge]) -> dict[int, int]:
        levels = dict.fromkeys(invokes, 0)
        later = next((edge for edge in edges if edge.later), None)
        if later is None:
            return levels
        self._refuse_whole(stage, later)
        cause: dict[int | None, _Edge] = {}
        changed: _Edge | None = None
        for _ in range(len(invokes) + 1):
            changed = None
            for edge in edges:
                least = levels[edge.start] + edge.later  # type: ignore[index]
                if levels[edge.end] < least:  # type: ignore[index]
                    levels[edge.end] = least  # type: ignore[index]
                    cause[edge.end] = changed = edge
            if changed is None:
                return levels
        assert changed is not None
        raise _cyclic(_cycle(cause, changed))

    def _refuse_whole(self, stage: int, edge: _Edge) -> None:
        """Raises `CausalityError` where prompts would run one after the other and one invoke needs them together."""
        prompts = {invoke.index for invoke in self._graph.invokes if invoke.inputs is not None}
        for node in self._nodes:
            if node.op == "site" and node.args[0].stage == stage and node.args[0].invoke not in prompts:
                raise CausalityError(
                    f"{_what(edge.write)} needs {_read(edge.read)}, which comes later in the model, so that prompt "
                    f"would have to run before this one; but {node.args[0]} at {node.line} is of the whole batch, "
                    "which needs all prompts in one forward.",
                    remedy="Read the whole batch in a trace of its own, or run the two prompts in two traces.",
                    where={"write": str(edge.write.line), "read": str(edge.read.line)},
                )


def _moment(site: Site, *, entering: bool = False) -> Moment:
    return site.path, "inputs" if entering else site.kind, site.call


def _cycle(cause: Mapping[int | None, _Edge], start: _Edge) -> list[_Edge]:
    """The edges of a cycle among the causes of levels, from one that never settles."""
    edge = start
    for _ in range(len(cause)):
        edge = cause[edge.start]
    found = [edge]
    while found[-1].start != edge.end:
        found.append(cause[found[-1].start])
    return found


# -- errors -----------------------------------------------------------------------------------------------------------
def _what(write: Node) -> str:
    if write.op == "skip":
        return f"The skip of {write.args[0]} at {write.line}"
    return f"The write to {write.args[3]} at {write.line}"


def _read(read: Node) -> str:
    return f"{read.args[0]}, read at {read.line}"


def _too_late(write: Node, site: Site, read: Node) -> CausalityError:
    return CausalityError(
        f"{_what(write)} needs {_read(read)}, which the model computes only after it.",
        remedy="Save the value in a trace before and use it in a second one, or take it from another prompt of this "
        "trace: `with tracer.invoke(prompt):` runs the prompts one after the other where that is needed.",
        where={
            "write": str(write.line),
            "written": str(site),
            "read": str(read.line),
            "site": str(read.args[0]),
        },
    )


def _cyclic(edges: Sequence[_Edge]) -> CausalityError:
    parts = [f"{_what(edge.write)} needs {_read(edge.read)}{' (later)' if edge.later else ''}" for edge in edges]
    return CausalityError(
        f"These prompts need values of one another that no order of their forwards gives: {'; '.join(parts)}.",
        remedy="Save one of the values in a trace before, and use it in this one.",
        where={"lines": [str(line) for edge in edges for line in (edge.write.line, edge.read.line)]},
    )


def _circular(node: Node, other: Node) -> CausalityError:
    gradient, value = (node, other) if node.op == "grad" else (other, node)
    return CausalityError(
        f"The gradient at {gradient.line} is needed for a value that its own backward is computed from ({value.line}).",
        remedy="Save the gradient in a trace before, and use it in a second one.",
        where={"read": str(gradient.line), "write": str(value.line)},
    )
