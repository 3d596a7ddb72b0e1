"""The nodes of a program that no table operation is: sites and their parts, writes, calls of modules, lists, stops."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tracing.engines.gradients import total
from tracing.engines.memory import is_made
from tracing.engines.program import Program
from tracing.engines.rows import own
from tracing.engines.values import SKIPPED, Values
from tracing.engines.visit import Part
from tracing.errors import CausalityError
from tracing.graph.cells import Cell
from tracing.graph.lens import Steps, get, put
from tracing.graph.nodes import Node, substitute


class Structural(Values):
    """Computes those nodes; `handlers` has one function for each operation."""

    def __init__(self, model: Any, program: Program, cells: dict[int, Cell]) -> None:
        super().__init__(model, program, cells)
        self.caller: Node | None = None
        """The node that calls an attached module just now."""
        self.quiet = False
        """Whether a module is called beside the forward, so that nothing it passes is a visit."""
        self.stops: set[int] = set()
        """Stages that tracer.stop() has ended."""
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

    # -- sites --------------------------------------------------------------------------------------------------------
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

    # -- modules and functions ----------------------------------------------------------------------------------------
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

    # -- lists, ends, gradients ---------------------------------------------------------------------------------------
    def _list(self, node: Node) -> Any:
        return self._apart(node, [value for value in substitute(node.args[0], self) if value is not SKIPPED])

    def _append(self, node: Node) -> Any:
        values, new = self[node.args[0]], substitute(node.args[1], self)
        return values if new is SKIPPED else [*values, self._apart(node, new)]

    def _stop(self, node: Node) -> Any:
        sites = node.args[0] if node.args else ()
        if sites:
            self.stops.add(sites[0].args[0].stage)
        else:  # before anything: the forward need not run
            invokes = self.program.graph.invokes
            self.stops.add(0 if node.invoke is None else invokes[node.invoke].stage)

    def _backward(self, node: Node) -> Any:
        assert self.carriers is not None
        self.carriers.backward(node)
        return None

    def _grad_total(self, node: Node) -> Any:
        return total([self[one] for one in node.args[0]], node.line)
