"""What all statements of an exported script share: where they stand, what values are called there, what is kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from tracing.export.facts import AFTER, refusal
from tracing.export.names import Names
from tracing.export.ops import Expressions
from tracing.export.plan import Home, Plan
from tracing.export.values import Held, Places, Unwritable
from tracing.graph.lens import Steps
from tracing.graph.lines import NOWHERE
from tracing.graph.nodes import Node
from tracing.graph.text import one_line

MOST_NUMBERS: Final = 64
"""Longest constant of whole numbers that is written out."""

Guards = tuple[tuple[Node, bool], ...]


@dataclass(slots=True)
class Statement:
    """One line of a block."""

    text: str
    step: int = 0
    guards: Guards = ()
    line: str = ""
    """The user's line that it comes from."""
    depth: int = 0


@dataclass(slots=True)
class Blocks:
    """Statements by where they stand."""

    of: dict[Home, list[Statement]] = field(default_factory=dict)
    barriers: dict[int, list[str]] = field(default_factory=dict)
    """By forward."""


class Writer:
    """The script so far, and the node whose statements are being written."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.blocks = Blocks()
        self.tensors: dict[str, Tensor] = {}
        self.expressions = Expressions(self.text_of, self.constant)
        self.places = Places(self.expressions)
        self.text: dict[Node, str] = {}
        """The variable (or expression) of a value."""
        self.held: dict[Node, Held] = {}
        """The variable of a site's version, or of a gradient."""
        self.saved = self._save_names()
        self.targets: dict[Node, list[Node]] = {}
        """Values whose gradient is asked for, with the "grad" nodes that do."""
        for nodes in plan.grads.values():
            for node in nodes:
                self.targets.setdefault(node.args[1], []).append(node)
        self.done: set[Node] = set()
        self.growing: dict[Node, list[str]] = {}
        """Lists that wait for a value."""
        self.depth = 0
        self.unique = Names().unique
        self._constants: dict[int, str] = {}
        self._at: dict[Node, int] = {}
        """In which order nodes were written."""
        self._synced: dict[tuple[Home, Home], int] = {}
        self._node = Node(0, "list", (), {})

    def _save_names(self) -> dict[Node, str]:
        program = self.plan.program
        return {node: program.graph.saves.get(number) or f"value_{number}" for node, number in program.saved.items()}

    @contextmanager
    def writing(self, node: Node) -> Iterator[None]:
        """Statements are this node's; at the end its value is saved, or kept for what stands outside of its trace."""
        self.done.add(node)
        outer, self._node = self._node, node
        try:
            yield
            self._at[node] = len(self._at)
            for name in self.growing.get(node, ()):
                self.say(f"{name}.append({self.copied(node)})", node)
            self._keep(node)
        finally:
            self._node = outer

    def known_before(self, node: Node, name: str) -> None:
        """A value that a variable holds before any trace."""
        self.done.add(node)
        self.text[node] = name
        self._at[node] = -1

    # -- values -------------------------------------------------------------------------------------------------------
    def text_of(self, node: Node) -> str:
        """A node as an argument of the statement being written."""
        self.sync(node)
        held = self.held.get(node)
        return self.text[node] if held is None else self.read(held, ())

    def text_outside(self, node: Node) -> str:
        """A condition, once all statements are written."""
        held = self.held.get(node)
        return self.text[node] if held is None else self.places.read(held, ())

    def read(self, held: Held, steps: Steps) -> str:
        """A part of what a variable holds. Raises `ExportError` for what has no expression."""
        try:
            return self.places.read(held, steps)
        except Unwritable as error:
            raise refusal(self._node, str(error), "Read its tensors one by one.") from None

    def copied(self, value: Any) -> str:
        """An argument in memory of its own, where the model may change it later."""
        text = self.expressions.value(value)
        views = isinstance(value, Node) and value.op in ("site", "part") and not text.endswith(".clone()")
        return f"{text}.clone()" if views else text

    def constant(self, tensor: Tensor) -> str:
        """A constant: written out if it is short and whole, else by its name in the file beside the script."""
        if not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= MOST_NUMBERS:
            plain = tensor.numel() and str(tensor.dtype) in ("torch.int64", "torch.bool")
            return f"torch.tensor({tensor.tolist()}{'' if plain else f', dtype={tensor.dtype}'})"
        name = self._constants.get(id(tensor))
        if name is None:
            name = self._constants[id(tensor)] = f"constant_{len(self.tensors)}"
            self.tensors[name] = tensor.detach().cpu().clone().contiguous()
        return f'constants["{name}"]'

    # -- statements ---------------------------------------------------------------------------------------------------
    def say(self, text: str, node: Node, *, home: Home | None = None, guards: Guards | None = None) -> None:
        """Append a statement to the node's block."""
        home = home or self.plan.homes[node]
        step = self.plan.keys[node][1]
        line = "" if node.line == NOWHERE else one_line(node.line)
        conditions = self.plan.guards[node] if guards is None else guards
        statement = Statement(text, int(step) if step != AFTER else 0, conditions, line, self.depth)
        self.blocks.of.setdefault(home, []).append(statement)

    def assign(self, node: Node, expression: str, name: str) -> None:
        """A new variable for the node, which is called as it is saved, if it is."""
        wanted = self.saved.get(node, "")
        variable = self.text[node] = self.unique(wanted if wanted.isidentifier() else name)
        self.say(f"{variable} = {expression}", node)

    def unguarded(self, node: Node, variable: str, before: str) -> None:
        """What the variable of a conditional node holds where its condition does not hold."""
        if self.plan.guards[node]:
            self.say(f"{variable} = {before}", node, guards=())

    def make_leaf(self, node: Node) -> None:
        """A value that no weight stands before becomes one that torch differentiates with respect to."""
        if node in self.targets:
            name = self.text[node]
            self.say(f"{name} = {name} if {name}.requires_grad else {name}.detach().requires_grad_()", node)

    def sync(self, node: Node) -> None:
        """Wait, in the block of the statement being written, for a value of another prompt's block."""
        mine, other = self.plan.homes[self._node], self.plan.homes[node]
        if not (mine.inside and other.inside) or mine == other or mine.forward != other.forward:
            return
        if self._synced.get((mine, other), -1) >= self._at[node]:
            return
        self._synced[mine, other] = self._synced[other, mine] = len(self._at)
        names = self.blocks.barriers.setdefault(mine.forward, [])
        name = f"barrier_{mine.forward}_{len(names)}"
        names.append(name)
        theirs = self.blocks.of.setdefault(other, [])
        theirs.append(Statement(f"{name}()", theirs[-1].step if theirs else 0))
        here = int(self.plan.keys[self._node][1])
        self.blocks.of.setdefault(mine, []).append(Statement(f"{name}()", here))

    def sync_all(self, nodes: Sequence[Node]) -> None:
        """Wait for values of other prompts' blocks before a statement that uses them is begun."""
        for node in nodes:
            self.sync(node)

    def _keep(self, node: Node) -> None:
        if node in self.saved and node.op in ("dtype", "device"):
            raise refusal(node, f"a {node.op} is no tensor, and only tensors are kept", "Save the tensor itself.")
        if node in self.saved and not self.grows_to_the_end(node):
            self.say(f"save({self.expressions.value(self.saved[node])}, {self.text_of(node)})", node)
        variable = self.held[node].text if node in self.held else self.text.get(node, "")
        if self.plan.crosses(node) and variable.isidentifier():
            self.say(f"nnsight.save({variable})", node)

    def grows_to_the_end(self, node: Node) -> bool:
        """Whether a list is saved after the generation that fills it."""
        forward = self.plan.keys[node][0]
        return node.op in ("list", "append") and forward >= 0 and self.plan.facts[forward].generating
