"""The values of a run: which exist, whose rows they are, whose memory they lie in, and why one is absent."""

from typing import Any

from tracing.engines.gradients import Carriers
from tracing.engines.memory import may_lie_in
from tracing.engines.notes import annotate
from tracing.engines.program import Place, Program
from tracing.engines.rows import Scope, kept, own
from tracing.engines.visit import Part, Visit, owned
from tracing.errors import NotSavedError
from tracing.graph.cells import Cell
from tracing.graph.nodes import Guard, Node, Site

SKIPPED: Any = type("Skipped", (), {"__repr__": lambda self: "skipped"})()
"""The value of a node whose condition did not hold, and of all that needs it."""


class Values:
    """What one execution of a program knows so far."""

    def __init__(self, model: Any, program: Program, cells: dict[int, Cell]) -> None:
        self.model = model
        self.program = program
        self.cells = cells
        self.env: dict[Node, Any] = {}
        self.uses = {node: len(users) for node, users in program.users.items()}
        self.fresh: set[Node] = set()
        """Writes to computed values whose result is in memory of its own."""
        self.visits: dict[Place, Visit] = {}
        self.scopes: dict[int | None, Scope | None] = {None: None}
        self.reasons: dict[Node, Exception] = {}
        """Why values are absent, by the node that first was."""
        self.carriers: Carriers | None = None

    def __getitem__(self, node: Node) -> Any:
        """The value of a node as an argument."""
        value = self.env[node]
        return value.whole() if type(value) is Part else value

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

    # -- rows and memory ----------------------------------------------------------------------------------------------
    def scope_of(self, site: Site) -> Scope | None:
        if self.model.attached and self.model.is_attached(site.path):
            return None  # what a prompt gives to a module of the user's own is all its own
        scope = self.scopes[site.invoke]
        if scope is None or scope.length is None or site.kind == "grad":
            return scope
        if not site.step and site.kind != "result":  # most sites
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

    def _only_user(self, node: Node) -> bool:
        """Whether the value has one user, and autograd none."""
        return len(self.program.users[node]) == 1 and self.carriers is None

    def _borrow(self, node: Node, value: Any) -> None:
        """A value in memory of a visit's value may share it with the model, too."""
        for visit in self.visits.values():
            for dependency in node.deps:
                if dependency in visit.nodes and may_lie_in(value, self.env[dependency]):
                    visit.nodes[node] = None

    def _apart(self, node: Node, new: Any) -> Any:
        """What a list gets, for longer than a visit."""
        held = any(dependency in visit.nodes for visit in self.visits.values() for dependency in node.deps)
        return own(new) if held else new

    def _let_go(self, visit: Visit, writing: Node | None = None) -> None:
        """Give values that are still needed memory of their own, before the model or a write changes it."""
        env, uses = self.env, self.uses
        base = None if writing is None else writing.args[0]
        for node in list(visit.nodes):
            if node not in env:  # freed, for good
                del visit.nodes[node]
            elif uses[node] > (node is base):
                env[node] = owned(env[node])
                del visit.nodes[node]
        if writing is None:
            visit.nodes.clear()
