"""The executor: runs the nodes of a program as their values appear, in recorded order, from inside the model's hooks.

1. Nodes that need no forward run first.
2. Each forward runs with hooks on the modules that the program names, and only in this thread. When the forward
   passes a site, its nodes and all that became computable run; what was written goes back into the model.
3. A value is freed at its last use. The forward is stopped once every site has been passed.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tracing.engines.gradients import Carriers
from tracing.engines.memory import MAY_SHARE
from tracing.engines.notes import annotate
from tracing.engines.program import Forward, Place, Program
from tracing.engines.rows import own
from tracing.engines.structural import Structural
from tracing.engines.values import SKIPPED
from tracing.engines.visit import Part, Visit
from tracing.graph.cells import Cell
from tracing.graph.nodes import Node, substitute
from tracing.graph.ops import TABLE

NOT_BY_INPUTS = frozenset({"skip", "grad"})
"""Nodes that do not run once their inputs are there, but when the model or a backward comes by."""


MODEL_OUTPUT: Place = ("", "output")

TOLERANT = frozenset({"write", "append", "list"})
"""Operations that go on when one of their inputs is absent."""


class Enough(BaseException):
    """Everything asked for is known: stop the forward. Not an `Exception`, so that no module swallows it."""


class Run(Structural):
    """One execution of a program."""

    def __init__(self, model: Any, program: Program, cells: dict[int, Cell]) -> None:
        super().__init__(model, program, cells)
        self.waiting = {node: len(node.deps) for node in program.nodes}
        self.ready: list[tuple[int, Node]] = []
        self.forward: Forward | None = None
        self.step = 0
        self.calls: dict[Place, int] = {}
        self.own_calls: dict[tuple[Place, int | None], int] = {}
        """Calls of places inside attached modules, by the prompt that makes them."""
        self.passed: set[Node] = set()
        """Skips whose module was called in their step."""
        self._started = False
        self.failed: Exception | None = None
        """An error of the user's operation, which a module of the model may have swallowed."""
        self.depth = 0
        """How many visits are going on, one inside the other."""
        if program.differentiates:
            self.carriers = Carriers(self)

    # -- scheduling ---------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Run all nodes that need no forward."""
        for node in self.program.nodes:
            if not node.deps and node.op not in ("site", "skip"):
                heapq.heappush(self.ready, (node.id, node))
        self.drain()

    def drain(self) -> None:
        """Run nodes until none is ready, lowest number first: that is the recorded order."""
        ready, pop, execute = self.ready, heapq.heappop, self.execute
        while ready:
            node = pop(ready)[1]
            execute(node)
            self._count_down(node)
            self._release(node)

    def _count_down(self, node: Node) -> None:
        """A node has its value: what waited only for it is ready."""
        waiting = self.waiting
        for user in self.program.users[node]:
            left = waiting[user] - 1
            waiting[user] = left
            if not left and user.op not in NOT_BY_INPUTS:
                heapq.heappush(self.ready, (user.id, user))

    def _release(self, node: Node) -> None:
        """Free what `node` was the last to use."""
        uses, env = self.uses, self.env
        for dependency in node.deps:
            uses[dependency] -= 1
            if not uses[dependency]:
                env.pop(dependency, None)
        if not uses[node]:
            env.pop(node, None)

    def execute(self, node: Node) -> None:
        """Compute one node and keep its value for its users; a saved one goes to its cell."""
        if node.guard is not None and not self._holds(node.guard):
            value = self._passed_over(node)
        else:
            try:
                value = self._compute(node)
            except Enough:
                raise
            except Exception as error:
                annotate(error, node, self.env)
                self.failed = error
                raise
        if self.visits and node.op in MAY_SHARE:
            self._borrow(node, value)
        if self.carriers is not None and node in self.carriers.asked and value is not SKIPPED:
            value = self.carriers.carry(node, value, self._visit_of(node))
        self.env[node] = value
        if node in self.program.saved:
            self._save(node, value)

    def _compute(self, node: Node) -> Any:
        env = self.env
        handler = self.handlers.get(node.op)
        if handler is not None:
            if node.op not in TOLERANT:
                for dependency in node.deps:
                    if env[dependency] is SKIPPED:
                        return SKIPPED
            return handler(node)
        op = TABLE[node.op]
        args = []
        for value in node.args:
            if isinstance(value, Node):
                value = env[value]
                if value is SKIPPED:
                    return SKIPPED
                if type(value) is Part:
                    value = value.whole()
                args.append(value)
            else:
                args.append(substitute(value, self) if isinstance(value, (tuple, list, dict, slice)) else value)
        kwargs = substitute(node.kwargs, self) if node.kwargs else {}
        return op.function(*args, **kwargs)

    # -- gradients ----------------------------------------------------------------------------------------------------
    def arrive(self, node: Node, gradient: Tensor | None) -> None:
        """A gradient is known: its users may run."""
        assert self.carriers is not None
        self._arrived(node, None if gradient is None else self.carriers.part(node, gradient))

    def _arrived(self, node: Node, value: Part | None) -> None:
        if node in self.env:
            return
        self.env[node] = value
        if value is not None:
            self._save(node, value)
        self._count_down(node)
        if not self.uses[node]:
            del self.env[node]

    def visit_gradient(self, node: Node, part: Part) -> Tensor | None:
        """A gradient that the program writes flows by: run what reads and writes it, return what flows on.

        Only what depends on this gradient runs here, inside autograd; everything else waits for the backward's end.
        """
        place = (node.args[0].path, "grad")
        visit = self.visits[place] = Visit(part.raw)
        outer, self.ready = self.ready, []
        try:
            self._arrived(node, part)
            self.drain()
            self._let_go(visit)
        finally:
            self.ready = outer
            del self.visits[place]
        return visit.raw if visit.changed else None

    # -- visits -------------------------------------------------------------------------------------------------------
    def visit(self, place: Place, raw: Any) -> Any:
        """The forward passes a place with this value: run what waited for it, return the value to go on with."""
        forward = self.forward
        assert forward is not None
        if self.quiet:
            return raw
        nodes = self._called_for(forward, place) if self.caller is not None else self._passing(forward, place)
        if not nodes:
            return raw
        outer = self.visits.get(place)
        # What autograd keeps of a tensor that is to change itself must be a copy's.
        apart = self.carriers is not None and any(node.args[0].in_place for node in nodes)
        visit = self.visits[place] = Visit(own(raw) if apart else raw, raw)
        forward.pending -= len(nodes)
        for node in nodes:
            heapq.heappush(self.ready, (node.id, node))
        self.depth += 1
        self.drain()
        self.depth -= 1
        self._let_go(visit)
        visit.reach_stream()
        if outer is None:
            del self.visits[place]
        else:
            self.visits[place] = outer
        if not self.depth and (self.stopped(forward) or (not forward.pending and self.may_end_early(place))):
            raise Enough
        return visit.raw if visit.changed else raw

    def _passing(self, forward: Forward, place: Place) -> list[Node] | None:
        """The sites that this pass of a place is."""
        call = self.calls.get(place, 0)
        self.calls[place] = call + 1
        return forward.sites[place].pop((self.step, call), None)

    def _called_for(self, forward: Forward, place: Place) -> list[Node]:
        """As `_passing`, inside an attached module: each prompt's calls are its own."""
        assert self.caller is not None
        invoke, sites = self.caller.invoke, forward.sites[place]
        call = self.own_calls.get((place, invoke), 0)
        self.own_calls[place, invoke] = call + 1
        waiting = sites.get((self.step, call), [])
        nodes = [node for node in waiting if node.args[0].invoke == invoke]
        left = [node for node in waiting if node.args[0].invoke != invoke]
        if left:
            sites[self.step, call] = left
        else:
            sites.pop((self.step, call), None)
        return nodes

    def stopped(self, forward: Forward) -> bool:
        """Whether tracer.stop() has ended the trace of this forward."""
        return forward.stage.index in self.stops

    def may_end_early(self, place: Place) -> bool:
        """Whether the forward is of no more use once its last site is passed; at the model's output it is over."""
        assert self.forward is not None
        return not self.forward.skips and (place != MODEL_OUTPUT or self.forward.stage.mode == "generate")

    # -- the course of a forward --------------------------------------------------------------------------------------
    def begin(self, forward: Forward) -> None:
        """A forward starts."""
        self.forward, self.step, self.calls, self.own_calls, self._started = forward, 0, {}, {}, False

    def next_step(self) -> None:
        """The model is called (again) in a generation."""
        if self._started:
            self.step += 1
            self.calls.clear()
            self.own_calls.clear()
        self._started = True

    def visit_result(self, result: Any) -> None:
        """A generation has ended with this result."""
        place = ("", "result")
        assert self.forward is not None
        for step, call in list(self.forward.sites.get(place, {})):
            self.step, before = step, self.step
            self.calls[place] = call
            try:
                self.visit(place, result)
            finally:  # it may end the forward, whose steps are counted afterwards
                self.step = before

    def skips_now(self, path: str) -> list[Node]:
        """The skips of a module that hold in this step; it is being called."""
        assert self.forward is not None
        now = [node for node in self.forward.skips if node.args[0] == path and node.args[2].step == self.step]
        self.passed.update(now)
        return [node for node in now if node.guard is None or self._holds(node.guard)]

    def absent(self, nodes: list[Node], why: Callable[[Node], Exception]) -> None:
        """These sites will not come: all that needs them is absent, and saved values say why."""
        for node in nodes:
            self.env[node] = SKIPPED
            self.reasons.setdefault(node, why(node))
            self._save(node, SKIPPED)
            self._count_down(node)
        self.drain()

    def release(self) -> None:
        """Drop every value that is not saved, and what makes a cycle: tensors must not wait for the collector."""
        self.env.clear()
        self.visits.clear()
        self.ready.clear()
        self.handlers = {}
        self.carriers = None


def grad_mode(program: Program) -> Any:
    """The autograd mode of a run: no graph is built unless a gradient was asked for."""
    return _differentiating() if program.differentiates else torch.inference_mode()


@contextmanager
def _differentiating() -> Iterator[None]:
    """Autograd, whatever mode the user's code is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
