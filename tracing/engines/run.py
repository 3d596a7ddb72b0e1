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

from tracing.engines.gradients import Carriers, total
from tracing.engines.memory import MAY_SHARE, is_made, may_lie_in
from tracing.engines.notes import annotate
from tracing.engines.program import Forward, Place, Program
from tracing.engines.rows import Scope, kept, own
from tracing.engines.visit import Part, Visit, owned
from tracing.errors import CausalityError, NotSavedError
from tracing.graph.lens import Steps, get, put
from tracing.graph.nodes import Guard, Node, Site, substitute
from tracing.graph.ops import TABLE
from tracing.graph.recorder import Cell

SKIPPED: Any = type("Skipped", (), {"__repr__": lambda self: "skipped"})()
"""The value of a node whose condition did not hold, and of all that needs it."""


NOT_BY_INPUTS = frozenset({"skip", "grad"})
"""Nodes that do not run once their inputs are there, but when the model or a backward comes by."""


MODEL_OUTPUT: Place = ("", "output")

TOLERANT = frozenset({"write", "append", "list"})
"""Operations that go on when one of their inputs is absent."""


class Enough(BaseException):
    """Everything asked for is known: stop the forward. Not an `Exception`, so that no module swallows it."""


class Run:
    """One execution of a program."""

    def __init__(self, model: Any, program: Program, cells: dict[int, Cell]) -> None:
        self.model = model
        self.program = program
        self.cells = cells
        self.env: dict[Node, Any] = {}
        self.uses = {node: len(users) for node, users in program.users.items()}
        self.fresh: set[Node] = set()
        """Writes to computed values whose result is in memory of its own."""
        self.waiting = {node: len(node.deps) for node in program.nodes}
        self.ready: list[tuple[int, Node]] = []
        self.visits: dict[Place, Visit] = {}
        self.scopes: dict[int | None, Scope | None] = {None: None}
        self.forward: Forward | None = None
        self.step = 0
        self.calls: dict[Place, int] = {}
        self.own_calls: dict[tuple[Place, int | None], int] = {}
        """Calls of places inside attached modules, by the prompt that makes them."""
        self.caller: Node | None = None
        """The node that calls an attached module just now."""
        self.stops: set[int] = set()
        """Stages that tracer.stop() has ended."""
        self.passed: set[Node] = set()
        """Skips whose module was called in their step."""
        self.reasons: dict[Node, Exception] = {}
        """Why values are absent, by the node that first was."""
        self._started = False
        self.failed: Exception | None = None
        """An error of the user's operation, which a module of the model may have swallowed."""
        self.depth = 0
        """How many visits are going on, one inside the other."""
        self.quiet = False
        """Whether a module is called beside the forward, so that nothing it passes is a visit."""
        self.carriers = Carriers(self) if program.differentiates else None
        self.handlers: dict[str, Callable[[Node], Any]] = {
            "site": self._site,
            "part": self._part,
            "write": self._write,
            "module": self._module,
            "parameter": self._parameter,
            "apply": self._apply,
            "list": self._list,
            "append": self._append,
            "stop": self._stop,
            "backward": self._backward,
            "grad_total": self._grad_total,
        }

    # -- scheduling ---------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Run all nodes that need no forward."""
        for node in self.program.nodes:
            if not node.deps and node.op not in ("site", "skip"):
                heapq.heappush(self.ready, (node.id, node))
        self.drain()

    def drain(self) -> None:
        """Run nodes until none is ready, lowest number first: that is the recorded order."""
        ready = self.ready
        while ready:
            _, node = heapq.heappop(ready)
            self.execute(node)
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
        self._save(node, value)

    def _save(self, node: Node, value: Any) -> None:
        number = self.program.saved.get(node)
        if number is None:
            return
        cell: Cell | None = self.cells[number]
        if type(value) is Part:
            value = value.whole()
        while cell is not None:
            if value is not SKIPPED:
                cell.value = kept(value, cell.device, cell.dtype)
            else:
                cell.error = self._why_absent(node)
            cell = cell.next

    def _why_absent(self, node: Node) -> Exception:
        """Why a value does not exist: the first cause among what it needs."""
        todo = [node]
        while todo:
            one = todo.pop()
            if one in self.reasons:
                return self.reasons[one]
            guard = one.guard
            if guard is not None and not self._holds(guard):
                return NotSavedError(
                    f"The value saved at {node.line} was not computed, because its condition did not hold.",
                    remedy="Save a value that exists on both branches, e.g. with torch.where.",
                )
            todo.extend(one.deps)
        raise AssertionError("an absent value has a cause")

    def _compute(self, node: Node) -> Any:
        op = TABLE.get(node.op)
        if op is None:
            if node.op not in TOLERANT and any(self.env[dependency] is SKIPPED for dependency in node.deps):
                return SKIPPED
            return self.handlers[node.op](node)
        env = self.env
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

    def __getitem__(self, node: Node) -> Any:
        """The value of a node as an argument."""
        value = self.env[node]
        return value.whole() if type(value) is Part else value

    # -- conditions ---------------------------------------------------------------------------------------------------
    def _holds(self, guard: Guard | None) -> bool:
        while guard is not None:
            value = self.env[guard.condition]
            try:
                if value is SKIPPED or bool(value) is not guard.expected:
                    return False
            except Exception as error:
                annotate(error, guard.condition, self.env)
                raise
            guard = guard.outer
        return True

    def _passed_over(self, node: Node) -> Any:
        """A write whose condition does not hold leaves the value as it was; everything else has no value."""
        if node.op not in ("write", "append"):
            return SKIPPED
        value = self.env[node.args[0]]
        self._borrow(node, value)
        return value

    # -- structural nodes ---------------------------------------------------------------------------------------------
    def _site(self, node: Node) -> Any:
        site = node.args[0]
        visit = self.visits[site.path, site.kind]
        visit.nodes[node] = None
        return Part(visit.raw, self.scope_of(site))

    def _part(self, node: Node) -> Any:
        base, steps = node.args
        value = self.env[base]
        site = base.site
        found = value.get(steps) if type(value) is Part else get(value, steps)
        if site is None:
            self._borrow(node, found)
        elif (site.path, site.kind) in self.visits:
            self.visits[site.path, site.kind].nodes[node] = None
        return found

    def _write(self, node: Node) -> Any:
        base, steps, new, site = node.args
        before = self.env[base]
        visit = None if site is None else self.visits.get((site.path, site.kind))
        if visit is not None and visit.will_write_in_place():
            self._let_go(visit, writing=node)  # before the new value is taken: it may lie in what is written to
        new = substitute(new, self)
        if node.deps != (base,):  # the steps may name nodes too
            steps = substitute(steps, self)
        if new is SKIPPED or before is SKIPPED:
            self._borrow(node, before)
            return before
        if site is None:
            return self._put(node, before, steps, new)
        if visit is None:
            raise CausalityError(
                f"The write at {node.line} to {site} needs a value that the model computes only after that site.",
                remedy="Read it in a trace before, or from another prompt of the same trace.",
            )
        steps = (*before.inner, *steps) if isinstance(before, Part) else steps
        given = is_made(node.args[2]) and self._only_user(node.args[2])
        part = visit.write(self.scope_of(site), steps, new, given=given)
        if site.in_place:
            visit.into_stream(steps)
        visit.nodes[node] = None
        return part

    def _put(self, node: Node, before: Any, steps: Steps, new: Any) -> Any:
        """A new version of a computed value."""
        base = node.args[0]
        # In the memory of the version before only if nothing ever looked at that, for a look may be a view of it.
        last = base in self.fresh and self._only_user(base) and base not in self.program.saved
        value = put(before, steps, new, owned=last)
        if isinstance(value, Tensor) and value is not new:
            self.fresh.add(node)
        else:
            self._borrow(node, value)
        return value

    def _only_user(self, node: Node) -> bool:
        """Whether the value has one user, and autograd none."""
        return len(self.program.users[node]) == 1 and self.carriers is None

    def _borrow(self, node: Node, value: Any) -> None:
        """A value in memory of a visit's value may share it with the model, too."""
        for visit in self.visits.values():
            for dependency in node.deps:
                if dependency in visit.nodes and may_lie_in(value, self.env[dependency]):
                    visit.nodes[node] = None

    def scope_of(self, site: Site) -> Scope | None:
        if self.model.attached and self.model.is_attached(site.path):
            return None  # what a prompt gives to a module of the user's own is all its own
        scope = self.scopes[site.invoke]
        if scope is None or scope.length is None or site.kind == "grad":
            return scope
        if site.kind == "result":
            raw = self.visits[site.path, site.kind].raw
            rows, length = getattr(raw, "sequences", raw).shape[:2]
            if rows != scope.total:  # fewer than beams, which only one prompt has
                scope = scope._replace(start=0, stop=rows, total=rows)
            return scope._replace(pad=0) if scope.encoded else scope._replace(length=length)
        if scope.encoded or not site.step or scope.length is None:
            return scope
        return scope._replace(length=scope.length + site.step)

    def _visit_of(self, node: Node) -> Visit | None:
        site = node.site
        return None if site is None else self.visits.get((site.path, site.kind))

    # -- gradients ----------------------------------------------------------------------------------------------------
    def _backward(self, node: Node) -> Any:
        assert self.carriers is not None
        self.carriers.backward(node)
        return None

    def _grad_total(self, node: Node) -> Any:
        return total([self[one] for one in node.args[0]], node.line)

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

    def _module(self, node: Node) -> Any:
        path, args, kwargs = node.args
        module = self.model.submodule(path)  # called on copies, as it may work in place
        # The model's own modules are visited when its forward passes them; attached ones only where they are called.
        before, self.quiet = self.quiet, not self.model.is_attached(path)
        outer, self.caller = self.caller, None if self.quiet else node
        try:
            return module(*own(substitute(args, self)), **own(substitute(kwargs, self)))
        finally:
            self.quiet, self.caller = before, outer

    def _parameter(self, node: Node) -> Any:
        return self.model.parameter(node.args[0]).detach()  # no copy: nothing in a graph changes what it is given

    def _apply(self, node: Node) -> Any:
        function, args, kwargs = node.args
        # Copies: what it changes in place is none of the model's, nor of what was saved.
        return function(*own(substitute(args, self)), **own(substitute(kwargs, self)))

    def _list(self, node: Node) -> Any:
        return self._apart(node, [value for value in substitute(node.args[0], self) if value is not SKIPPED])

    def _append(self, node: Node) -> Any:
        values, new = self[node.args[0]], substitute(node.args[1], self)
        return values if new is SKIPPED else [*values, self._apart(node, new)]

    def _apart(self, node: Node, new: Any) -> Any:
        """What a list gets, for longer than a visit."""
        held = any(dependency in visit.nodes for visit in self.visits.values() for dependency in node.deps)
        return own(new) if held else new

    def _stop(self, node: Node) -> Any:
        sites = node.args[0] if node.args else ()
        if sites:
            self.stops.add(sites[0].args[0].stage)
        else:  # before anything: the forward need not run
            invokes = self.program.graph.invokes
            self.stops.add(0 if node.invoke is None else invokes[node.invoke].stage)

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

    def _let_go(self, visit: Visit, writing: Node | None = None) -> None:
        """Give values that are still needed memory of their own, before the model or a write changes it."""
        env, uses = self.env, self.uses
        base = None if writing is None else writing.args[0]
        for node in list(visit.nodes):
            if node in env and uses[node] > (node is base):
                env[node] = owned(env[node])
                del visit.nodes[node]
        if writing is None:
            visit.nodes.clear()

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
            self.visit(place, result)
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
