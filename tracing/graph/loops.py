"""Loops over generation steps, recorded once as a block (`with tracer.iter[0:3]:`) and written out before a run.

Each step gets its own copy of the block's nodes. A value from outside that the block changed goes from one copy to the
next; a node after the loop sees what the last copy left. A value saved in the block becomes the list of its steps.
"""

from collections.abc import Sequence
from typing import Any

from tracing.errors import RecordError
from tracing.graph.nodes import Graph, Guard, Loop, Node, Site, substitute

Written = tuple[Sequence[Node], dict[Node, int]]


def unrolled(graph: Graph) -> Written:
    """Nodes with every loop written out, and which of them are saved, under their recorded number."""
    if not any(node.loop is not None for node in graph.nodes):
        return graph.nodes, {graph.nodes[number]: number for number in graph.saves}
    return _Writer(graph).write()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes: list[Node] = []
        self._copy: dict[Node, Node] = {}
        """What a recorded node is now: its copy, the newest where there are several."""
        self._saved: dict[Node, int] = {}

    def __getitem__(self, node: Node) -> Node:
        copy = self._copy.get(node)
        if copy is None:
            raise RecordError(
                f"The value of {node.line} is of a loop over no generation steps, so there is none to use after it.",
                remedy="Use it in the loop, save it there (then it is an empty list), or give the loop steps.",
                where={"line": str(node.line)},
            )
        return copy

    def write(self) -> Written:
        position, recorded = 0, self._graph.nodes
        while position < len(recorded):
            loop = recorded[position].loop
            if loop is None:
                node = self._add(recorded[position])
                if recorded[position].id in self._graph.saves:
                    self._saved[node] = recorded[position].id
                position += 1
                continue
            end = position
            while end < len(recorded) and recorded[end].loop is loop:
                end += 1
            self._loop(loop, recorded[position:end])
            position = end
        return self._nodes, self._saved

    def _loop(self, loop: Loop, body: Sequence[Node]) -> None:
        # A list from before the loop is one list, which the steps go on filling; any other saved value is one a step.
        filled = [after for _, after in loop.carried if after.op == "append" and after.id in self._graph.saves]
        own = self._graph.saves.keys() - {node.id for node in filled}
        saved: dict[int, list[Node]] = {node.id: [] for node in body if node.id in own}
        for step in loop.steps:
            for node in body:
                copy = self._add(node, step)
                if node.id in saved:
                    saved[node.id].append(copy)
            for before, after in loop.carried:
                self._copy[before] = self._copy[after]
        if not loop.steps:  # what the loop would have changed is as it was
            for before, after in loop.carried:
                self._copy[after] = self._copy[before]
        for node in filled:
            self._saved[self._copy[node]] = node.id
        for number, copies in saved.items():
            whole = self._new("list", (copies,), {}, self._graph.nodes[number])
            self._saved[whole] = number

    def _add(self, node: Node, step: int = 0) -> Node:
        args = tuple(_moved(value, step) for value in substitute(node.args, self))
        self._copy[node] = copy = self._new(node.op, args, substitute(dict(node.kwargs), self), node)
        return copy

    def _new(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], like: Node) -> Node:
        guard = self._guard(like.guard)
        node = Node(len(self._nodes), op, args, kwargs, like.line, like.invoke, guard)
        self._nodes.append(node)
        return node

    def _guard(self, guard: Guard | None) -> Guard | None:
        if guard is None:
            return None
        return Guard(self[guard.condition], guard.expected, self._guard(guard.outer))


def _moved(value: Any, step: int) -> Any:
    return value._replace(step=value.step + step) if type(value) is Site else value
