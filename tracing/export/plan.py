"""When and where every node of an exported script stands: in which trace, in which prompt's block, in which order.

nnsight runs a block as it stands and wants values in the forward's order, so nodes are sorted by when they are known.
"""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tracing.engines.program import Program
from tracing.export.facts import AFTER, BEFORE, Facts, Key, refusal
from tracing.graph.nodes import Guard, Node
from tracing.graph.ops import TABLE

OWN_MODULE = "Export the model's part, and call your module on what the script saves."


class Home(NamedTuple):
    """Where a node's statement stands: in the trace of a forward, in the block of an invoke; or after that trace."""

    forward: int
    invoke: int | None = None
    inside: bool = False


class Plan:
    """Keys, homes, guards and order of a program's nodes."""

    def __init__(self, program: Program, facts: Sequence[Facts], model: Any) -> None:
        self.program = program
        self.facts = facts
        self.model = model
        self.forward_of = {invoke: one for one in facts for invoke in one.rows}
        self.backwards = {node.args[2]: node for node in program.nodes if node.op == "backward"}
        self.grads: dict[Node, list[Node]] = {}
        """By backward."""
        self.nodes = self._present(program.nodes)
        for node in self.nodes:
            if node.op == "grad":
                self.grads.setdefault(self.backwards[node.args[0].step], []).append(node)
        self.keys: dict[Node, Key] = {}
        self.order = self._sorted()
        self.homes: dict[Node, Home] = {}
        for node in self.order:
            self.homes[node] = self._home(node)
        self.guards = self._guards()

    def users(self, node: Node) -> list[Node]:
        """The nodes that need a node, and are there."""
        return [user for user in self.program.users[node] if user in self.keys]

    def native_skip(self, node: Node) -> bool:
        """Whether nnsight's own skip says the same: one prompt, and an output that is one tensor."""
        facts = self.forward_of[node.args[2].invoke]
        alone = len(facts.forward.invokes) == 1 and not facts.generating
        return alone and not self.model.returns_tuple(node.args[0])

    def _present(self, nodes: Sequence[Node]) -> list[Node]:
        """Without optional sites that the forward does not pass, and what needs them. Raises for what is refused."""
        absent: set[Node] = set()
        found = []
        for node in nodes:
            if node.op == "apply":
                raise refusal(
                    node,
                    "tracer.apply holds a Python function, which a script cannot quote",
                    "Use operations of torch instead, or save the value and call the function after the script.",
                )
            if node.op == "site":
                self._check_site(node)
                if node.kwargs and not self.forward_of[node.args[0].invoke].passes(node.args[0]):
                    absent.add(node)
                    continue
            if node.op == "module" and self.model.is_attached(node.args[0]):
                raise refusal(node, f"{node.args[0]} is a module of your own, whose weights it has not", OWN_MODULE)
            if not absent.isdisjoint(node.deps) and node.op not in ("write", "append", "list"):
                absent.add(node)
                continue
            found.append(node)
        return found

    def _check_site(self, node: Node) -> None:
        site = node.args[0]
        if site.invoke is None:
            raise refusal(node, "it belongs to no prompt", "Record it in the block of a prompt.")
        if site.kind not in ("output", "inputs", "result", "pattern"):
            raise refusal(
                node,
                f"nnsight 0.8.1 has no place for {site.kind!r} inside attention",
                "Read the projections before rotation (sites.q, sites.k) or the pattern.",
            )
        facts = self.forward_of[site.invoke]
        if facts.attention(site) and facts.padded and self.model.dtype == torch.float64:
            raise refusal(
                node,
                "it needs eager attention, which in float64 makes NaN of padding",
                "Give prompts of one length, or each a trace of its own.",
            )
        if self.model.is_attached(site.path):
            raise refusal(node, f"{site.path} is in a module of your own, whose weights it has not", OWN_MODULE)

    # -- order --------------------------------------------------------------------------------------------------------
    def _needs(self, node: Node) -> tuple[Node, ...]:
        if node.op == "grad":
            return (*node.deps, self.backwards[node.args[0].step])
        return node.deps

    def _key(self, node: Node) -> Key:
        if node.op == "site":
            return self.forward_of[node.args[0].invoke].key(node, node.args[0])
        known = max((self.keys[one] for one in self._needs(node) if one in self.keys), default=BEFORE)
        if node.op == "write" and node.args[3] is not None and node.args[3].kind not in ("grad", "result"):
            return max(known, self.forward_of[node.args[3].invoke].key(node, node.args[3]))
        if node.op == "skip":
            site = node.args[2]
            kind = "inputs" if self.native_skip(node) else "output"
            return max(known, self.forward_of[site.invoke].key(node, site, kind))
        return known

    def _sorted(self) -> list[Node]:
        present = set(self.nodes)
        needs = {node: [one for one in self._needs(node) if one in present] for node in self.nodes}
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node, ones in needs.items():
            for one in ones:
                users[one].append(node)
        waiting = {node: len(ones) for node, ones in needs.items()}
        ready: list[tuple[Key, int, Node]] = []

        def enter(node: Node) -> None:
            self.keys[node] = self._key(node)
            heapq.heappush(ready, (self.keys[node], node.id, node))

        for node in self.nodes:
            if not waiting[node]:
                enter(node)
        order = []
        while ready:
            _, _, node = heapq.heappop(ready)
            order.append(node)
            for user in users[node]:
                waiting[user] -= 1
                if not waiting[user]:
                    enter(user)
        return order

    # -- places -------------------------------------------------------------------------------------------------------
    def _home(self, node: Node) -> Home:
        forward, step, _ = self.keys[node]
        if forward < 0 or step == AFTER:
            return Home(forward)
        site = node.args[2] if node.op == "skip" else node.site
        if site is not None and site.kind != "grad":
            return Home(forward, site.invoke, inside=True)
        if node.op == "grad":
            return self.homes[self.backwards[site.step]]  # type: ignore[union-attr]
        if node.invoke in self.facts[forward].rows:
            return Home(forward, node.invoke, inside=True)
        latest = max((one for one in self._needs(node) if one in self.homes), key=lambda one: self.keys[one])
        return self.homes[latest]

    def _guards(self) -> dict[Node, tuple[tuple[Node, bool], ...]]:
        """The conditions under which a node's value exists: its own, and those of what it needs."""
        found: dict[Node, tuple[tuple[Node, bool], ...]] = {}
        for node in self.order:
            needed: dict[tuple[Node, bool], None] = {}
            for one in self._needs(node):
                if one in found and one.op not in ("write", "append", "list") and node.op not in ("append", "list"):
                    needed.update(dict.fromkeys(found[one]))
            chain = []
            guard: Guard | None = node.guard
            while guard is not None:
                chain.append((guard.condition, guard.expected))
                guard = guard.outer
            needed.update(dict.fromkeys(reversed(chain)))
            found[node] = tuple(needed)
        return found

    def late(self, node: Node) -> bool:
        """Whether a value is used after the moment in which it is known: by then the model may have changed it."""
        for user in self.users(node):
            if self.keys[user] > self.keys[node] or user.op in ("append", "list"):
                return True
            if user.op == "part" and self.late(user):
                return True
        return False

    def crosses(self, node: Node) -> bool:
        """Whether a value made inside a trace is used outside of it."""
        home = self.homes[node]
        if not home.inside:
            return False
        return any(not self.homes[user].inside or self.homes[user].forward != home.forward for user in self.users(node))


def is_table(node: Node) -> bool:
    """Whether a node is an operation of the table."""
    return node.op in TABLE
