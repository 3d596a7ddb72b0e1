"""The statements of an exported script: one for each node, in the block where it stands."""

import builtins
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from tracing.graph.lines import NOWHERE
from tracing.graph.nnsight_facts import AFTER, refusal
from tracing.graph.nnsight_ops import Expressions
from tracing.graph.nnsight_plan import Home, Plan, is_table
from tracing.graph.nnsight_values import Held, Places, Unwritable
from tracing.graph.nodes import Node, Site, nodes_in
from tracing.graph.text import arguments

RESERVED: Final = frozenset(
    {"model", "module", "tracer", "torch", "F", "save", "saved", "constants", "step", "nnsight", "result", "main",
     "copy", "sys", "MODEL", "replaced", "without_padding", "tokenizer", "folder", *keyword.kwlist, *dir(builtins)}
)  # fmt: skip
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


class Body:
    """Writes the statements of all nodes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.model = plan.model
        self.blocks = Blocks()
        self.tensors: dict[str, Tensor] = {}
        self.helpers: set[str] = set()
        """Functions that the script needs."""
        self._expressions = Expressions(self.text_of, self.constant)
        self._places = Places(self._expressions)
        self._text: dict[Node, str] = {}
        self._held: dict[Node, Held] = {}
        self._taken: set[str] = set(RESERVED)
        self._constants: dict[int, str] = {}
        self._at: dict[Node, int] = {}
        """In which order nodes were written."""
        self._synced: dict[tuple[Home, Home], int] = {}
        self._done: set[Node] = set()
        self._node: Node = plan.order[0] if plan.order else Node(0, "list", (), {})
        self._depth = 0
        self._growing: dict[Node, list[str]] = {}
        self._names = self._save_names()
        self._targets = {node.args[1] for nodes in plan.grads.values() for node in nodes}

    # -- names and values ---------------------------------------------------------------------------------------------
    def _save_names(self) -> dict[Node, str]:
        saves = self.plan.program.graph.saves
        names: dict[Node, str] = {}
        for node, number in self.plan.program.saved.items():
            names[node] = saves.get(number) or f"value_{number}"
        return names

    def unique(self, name: str) -> str:
        """A variable that nothing else is called."""
        name = re.sub(r"\W", "_", name)
        name = f"v{name}" if not name or name[0].isdigit() or name[0] == "_" else name
        number, found = 2, name
        while found in self._taken:
            found, number = f"{name}_{number}", number + 1
        self._taken.add(found)
        return found

    def text_of(self, node: Node) -> str:
        """A node as an argument of the statement being written."""
        self._sync(node)
        held = self._held.get(node)
        return self._text[node] if held is None else self._read(held, ())

    def _text_outside(self, node: Node) -> str:
        """A condition, once all statements are written."""
        held = self._held.get(node)
        return self._text[node] if held is None else self._places.read(held, ())

    def _read(self, held: Held, steps: Any) -> str:
        try:
            text = self._places.read(held, steps)
        except Unwritable as error:
            raise refusal(self._node, str(error)) from None
        if "without_padding(" in text:
            self.helpers.add("without_padding")
        return text

    def constant(self, tensor: Tensor) -> str:
        """A constant: written out if it is short and whole, else by its name in the file beside the script."""
        if not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= MOST_NUMBERS:
            kind = "" if tensor.dtype in (torch.int64, torch.bool) and tensor.numel() else f", dtype={tensor.dtype}"
            return f"torch.tensor({tensor.tolist()}{kind})"
        name = self._constants.get(id(tensor))
        if name is None:
            name = self._constants[id(tensor)] = f"constant_{len(self.tensors)}"
            self.tensors[name] = tensor.detach().cpu().clone().contiguous()
        return f'constants["{name}"]'

    # -- statements ---------------------------------------------------------------------------------------------------
    def write_all(self) -> None:
        """Write every node. Raises `ExportError` naming the first that cannot be."""
        for node in self.plan.order:
            if node not in self._done:
                self._write_node(node)

    def _write_node(self, node: Node) -> None:
        self._done.add(node)
        outer, self._node = self._node, node
        try:
            self._statement(node)
            self._at[node] = len(self._at)
            for name in self._growing.get(node, ()):
                self.say(f"{name}.append({self._copied(node)})", node)
            self._after(node)
        finally:
            self._node = outer

    def _statement(self, node: Node) -> None:
        for guard, _ in self.plan.guards[node]:
            self._sync(guard)
        try:
            writer = getattr(self, f"_{node.op}", None) if not is_table(node) else self._table
            if writer is None:
                raise refusal(node, f"there are no words for {node.op!r}")
            writer(node)
        except TypeError as error:
            raise refusal(node, f"one of its arguments is an object ({error})") from None

    def _after(self, node: Node) -> None:
        """Save a value, or keep it for what stands outside of its trace."""
        if node in self._names and not (self._grows_to_the_end(node)):
            self.say(f"save({self._expressions.value(self._names[node])}, {self.text_of(node)})", node)
        variable = self._held[node].text if node in self._held else self._text.get(node, "")
        if self.plan.crosses(node) and variable.isidentifier():
            self.say(f"nnsight.save({variable})", node)

    def say(self, text: str, node: Node, *, home: Home | None = None, guards: Guards | None = None) -> None:
        """Append a statement to the node's block."""
        home = home or self.plan.homes[node]
        step = self.plan.keys[node][1]
        line = "" if node.line == NOWHERE else str(node.line)
        conditions = self.plan.guards[node] if guards is None else guards
        statement = Statement(text, int(step) if step != AFTER else 0, conditions, line, self._depth)
        self.blocks.of.setdefault(home, []).append(statement)

    def _sync(self, node: Node) -> None:
        """Wait, in the block of the statement being written, for a value of another prompt's block."""
        mine, other = self.plan.homes[self._node], self.plan.homes[node]
        if not (mine.inside and other.inside) or mine == other or mine.forward != other.forward:
            return
        made = self._at[node]
        if self._synced.get((mine, other), -1) >= made:
            return
        now = len(self._at)
        self._synced[mine, other] = self._synced[other, mine] = now
        names = self.blocks.barriers.setdefault(mine.forward, [])
        name = f"barrier_{mine.forward}_{len(names)}"
        names.append(name)
        theirs = self.blocks.of.setdefault(other, [])
        step = theirs[-1].step if theirs else 0
        theirs.append(Statement(f"{name}()", step))
        here = int(self.plan.keys[self._node][1])
        self.blocks.of.setdefault(mine, []).append(Statement(f"{name}()", here))

    def _assign(self, node: Node, expression: str, name: str) -> None:
        variable = self._text[node] = self.unique(name)
        self.say(f"{variable} = {expression}", node)

    # -- nodes --------------------------------------------------------------------------------------------------------
    def _table(self, node: Node) -> None:
        try:
            expression = self._expressions.of(node)
        except LookupError:
            raise refusal(node, f"{node.op!r} is no function of torch") from None
        name = self._names.get(node, "")
        self._assign(node, expression, name if name.isidentifier() else f"{node.op.split('.')[-1].strip('_')}_{node.id}")
        if node in self._targets:
            self._make_leaf(node)

    def _make_leaf(self, node: Node) -> None:
        """A value that no weight stands before becomes one that torch differentiates with respect to."""
        variable = self._text[node]
        self.say(f"{variable} = {variable} if {variable}.requires_grad else {variable}.detach().requires_grad_()", node)

    def _site(self, node: Node) -> None:
        site: Site = node.args[0]
        facts = self.plan.forward_of[site.invoke]
        if site.kind == "result":
            self._result(node, site)
            return
        value = facts.value(node, site)
        envoy, strip, value = self._envoy(node, site, value)
        variable = self.unique(_site_name(site))
        held = Held(
            variable, value, envoy, strip, (), facts.pad(site.invoke), facts.batch.length or 0,
            facts.rows[site.invoke].stop - facts.rows[site.invoke].start if site.invoke is not None else 0, site.step,
        )  # fmt: skip
        self._require_separate(node, held, facts.several or held.pad > 0)
        self._held[node] = held
        copies = isinstance(value, Tensor) and node not in self._targets and not site.in_place and self.plan.late(node)
        self.say(f"{variable} = {envoy}{'.clone()' if copies else ''}", node)

    def _require_separate(self, node: Node, held: Held, several: bool) -> None:
        if not several or not isinstance(held.value, Tensor) or not held.value.dim():
            return
        if held.value.shape[0] not in (self.plan.forward_of[node.args[0].invoke].batch.total, 1):
            raise refusal(
                node,
                f"its rows and positions are one axis, {tuple(held.value.shape)}, which nnsight does not part by prompt",
                "Give each prompt a trace of its own.",
            )

    def _envoy(self, node: Node, site: Site, value: Any) -> tuple[str, Any, Any]:
        """How nnsight calls a site; which first steps that takes; what it is then."""
        path = envoy_text(site.path)
        if site.kind == "inputs":
            args, kwargs = value
            plain = bool(args) or (bool(kwargs) and self._first_is_first(kwargs))
            if plain and all(steps[:1] == (("first",),) for steps in self._all_steps(node)):
                return f"{path}.input", (("first",),), args[0] if args else next(iter(kwargs.values()))
            return f"{path}.inputs", (), value
        steps = self._all_steps(node)
        if not site.path and getattr(value, "logits", None) is not None and not self._written(node):
            if steps and all(one[:1] == (("logits",),) for one in steps):
                return f"{path}.output.logits", (("logits",),), value.logits
        return f"{path}.output", (), value

    @staticmethod
    def _first_is_first(kwargs: Any) -> bool:
        from tracing.graph.lens import first_name

        return any(isinstance(one, Tensor) for one in kwargs.values()) and next(iter(kwargs)) == first_name(kwargs)

    def _versions(self, node: Node) -> Sequence[Node]:
        found = [node]
        for version in found:
            found += [user for user in self.plan.users(version) if user.op == "write" and user.args[0] is version]
        return found

    def _written(self, node: Node) -> bool:
        return len(self._versions(node)) > 1

    def _all_steps(self, node: Node) -> list[Any]:
        """The steps into a site and its versions, of every use."""
        steps: list[Any] = []
        for version in self._versions(node):
            if version in self._names:
                steps.append(())
            for user in self.plan.users(version):
                if user.op in ("part", "write") and user.args[0] is version:
                    steps.append(user.args[1])
                    if user.op == "part" or version not in nodes_in((user.args[1], user.args[2])):
                        continue
                elif user.op == "grad":
                    steps.append(user.args[2])
                    continue
                steps.append(())
        return steps

    def _result(self, node: Node, site: Site) -> None:
        facts = self.plan.forward_of[site.invoke]
        rows = facts.rows[site.invoke] if site.invoke is not None else None
        text = f"result_{facts.number}"
        if rows is not None and (rows.pad or rows.stop - rows.start != facts.batch.total):
            text = f"{text}[{rows.start}:{rows.stop}{f', {rows.pad}:' if rows.pad else ''}]"
        self._assign(node, text, "ids")

    def _part(self, node: Node) -> None:
        base, steps = node.args
        self._sync(base)
        held = self._held.get(base)
        if held is not None:
            text = self._read(held, steps)
        else:
            text = self._places.inside(self._text[base], steps)
        if self._inlined(node):
            self._text[node] = text
            return
        in_place = base.site is not None and base.site.in_place
        structured = held is None or not isinstance(held.value, Tensor)
        if in_place or (structured and self.plan.late(node) and base.site is not None and base not in self._targets):
            text = f"{text}.clone()"
        name = self._names.get(node, "")
        self._assign(node, text, name if name.isidentifier() else f"{_stem(base)}_{node.id}")

    def _inlined(self, node: Node) -> bool:
        """Whether a part stands where it is used instead of in a variable."""
        users = self.plan.users(node)
        if node.args[0].site is not None and node.args[0].site.in_place:
            return False
        if node in self._targets or node in self._growing or (node in self._names and users):
            return False
        if node in self._names:
            return True
        one = users[0] if len(users) == 1 else None
        return one is not None and one.op not in ("part", "grad") and (
            self.plan.homes[one] == self.plan.homes[node] and self.plan.keys[one] == self.plan.keys[node]
        )  # fmt: skip

    def _write(self, node: Node) -> None:
        base, steps, new, site = node.args
        if site is not None and site.kind == "grad":
            self._held[node] = self._held[base]
            return  # written inside its backward
        self._sync(base)
        for one in nodes_in((steps, new)):
            self._sync(one)
        held = self._held.get(base)
        if held is None:
            self._write_computed(node, base, steps, new)
            return
        prefix, tensor, rest = self._places.split(held, steps)
        where = self._places.walk(held.text, held.value, prefix)
        if not isinstance(tensor, Tensor):
            variable = self._expressions.value(new)
        else:
            variable = self.unique(f"{_stem(base).removesuffix('_edited')}_edited")
            self._unguarded(node, variable, where)
            self.say(f"{variable} = {where}.clone()", node)
            self._put(node, self._places.own(variable, tensor, held), rest, new, held)
        self._reassign(node, held, prefix, variable, where, site)

    def _unguarded(self, node: Node, variable: str, before: str) -> None:
        if self.plan.guards[node]:
            self.say(f"{variable} = {before}", node, guards=())

    def _reassign(self, node: Node, held: Held, prefix: Any, variable: str, where: str, site: Site) -> None:
        """Give the model the new version, and hold it."""
        if site.kind == "result":
            raise refusal(node, "the ids of a generation have been made when they are known")
        try:
            whole = self._places.rebuilt(held.text, held.value, prefix, variable)
        except Unwritable as error:
            raise refusal(node, str(error)) from None
        if "replaced(" in whole:
            self.helpers.add("replaced")
        if site.in_place:
            self.say(f"{where}.copy_({variable})", node)
        elif prefix or not variable.isidentifier():
            kept = self.unique(f"{_stem(node.args[0]).removesuffix('_edited')}_edited")
            self._unguarded(node, kept, held.text)
            self.say(f"{kept} = {whole}", node)
            whole = kept
        if not site.in_place:
            self.say(f"{held.target} = {whole}", node)
        self._held[node] = self._places.tensor(held, whole)
        if node in self._targets and isinstance(held.value, Tensor):
            self.say(f"{whole}.requires_grad_()", node)

    def _put(self, node: Node, view: str, rest: Any, new: Any, held: Held | None = None) -> None:
        """Write to a part of a copy."""
        value = self._expressions.value(new)
        try:
            if rest and rest[-1][0] == "index":
                view = self._places.inside(view, rest[:-1], held, writing=True)
                index = self._expressions.index(rest[-1][1])
            else:
                view, index = self._places.inside(view, rest, held, writing=True), "..."
        except Unwritable as error:
            raise refusal(node, str(error)) from None
        if rest and rest[-1][0] == "heads_grouped" and isinstance(new, (Node, Tensor)):
            _, _, n_heads, n_kv, _ = rest[-1]
            value = f"{value}.unflatten(-2, ({n_kv}, -1))"
        self.say(f"{view}[{index}] = {value}", node)

    def _write_computed(self, node: Node, base: Node, steps: Any, new: Any) -> None:
        before = self._text[base]
        variable = self._text[node] = self.unique(f"{_stem(base).removesuffix('_edited')}_edited")
        self._unguarded(node, variable, before)
        if not steps:
            number = "" if isinstance(new, (Node, Tensor)) else f"torch.full_like({before}, {self._expressions.value(new)})"
            self.say(f"{variable} = {number or self._expressions.value(new)}", node)
        else:
            self.say(f"{variable} = {before}.clone()", node)
            self._put(node, variable, steps, new)
        if node in self._targets:
            self._make_leaf(node)

    def _module(self, node: Node) -> None:
        path, args, kwargs = node.args
        if not path:
            raise refusal(node, "it calls the whole model inside of itself", "Give the prompt a trace of its own.")
        self._assign(node, f"{envoy_text(path)}{self._expressions.call(args, kwargs)}", f"{path.split('.')[-1]}_{node.id}")
        if node in self._targets:
            self._make_leaf(node)

    def _parameter(self, node: Node) -> None:
        path = node.args[0]
        owner, _, name = path.rpartition(".")
        kind = "parameter" if name in self.model.submodule(owner)._parameters else "buffer"
        text = f'module.get_{kind}("{path}").detach().clone()'
        self._assign(node, text, path.replace(".", "_"))
        if node in self._targets:
            self._make_leaf(node)

    def _skip(self, node: Node) -> None:
        path, value, site = node.args
        envoy = envoy_text(path)
        text = self._expressions.value(value)
        if self.plan.native_skip(node):
            self.say(f"{envoy}.skip({text})", node)
            return
        facts = self.plan.forward_of[site.invoke]
        output = facts.values[path, "output", 0]
        if isinstance(value, tuple) or isinstance(output, Tensor):
            self._replace_output(node, envoy, output, text, facts.pad(site.invoke), facts.batch.length or 0, site.step)
            return
        variable = self.unique(f"{path.split('.')[-1]}_skipped")
        self.say(f"{variable} = {envoy}.output", node)
        held = Held(variable, output, pad=facts.pad(site.invoke), length=facts.batch.length or 0, step=site.step)
        first = self.unique(f"{variable}_first")
        self.say(f"{first} = {variable}[0].clone()", node)
        self.say(f"{self._places.own(first, output[0], held)}[...] = {text}", node)
        self.say(f"{envoy}.output = ({first}, *{variable}[1:])", node)

    def _replace_output(self, node: Node, envoy: str, output: Any, text: str, pad: int, length: int, step: int) -> None:
        if not isinstance(output, Tensor) or not pad:
            self.say(f"{envoy}.output = {text}", node)
            return
        variable = self.unique("skipped")
        self.say(f"{variable} = {envoy}.output.clone()", node)
        own = self._places.own(variable, output, Held(variable, output, pad=pad, length=length, step=step))
        self.say(f"{own}[...] = {text}", node)
        self.say(f"{envoy}.output = {variable}", node)

    def _stop(self, node: Node) -> None:
        """The forward's result is the same whether it goes on; nnsight would drop what other prompts wait for."""

    # -- lists --------------------------------------------------------------------------------------------------------
    def _list(self, node: Node) -> None:
        values = node.args[0]
        if all(isinstance(value, Node) for value in values) and any(self.plan.keys[one][1] for one in values):
            raise AssertionError("a list of steps is begun before its first step")
        self._assign(node, f"[{', '.join(self._copied(one) for one in values)}]", f"values_{node.id}")

    def _copied(self, value: Any) -> str:
        text = self._expressions.value(value)
        return f"{text}.clone()" if isinstance(value, Node) and value.op in ("site", "part") and not value.args[0] is None and not text.endswith(".clone()") else text

    def _append(self, node: Node) -> None:
        values, new = node.args
        text = self.text_of(values)
        if len(self.plan.users(values)) == 1 and values not in self._names:
            self._text[node] = text
            self.say(f"{text}.append({self._copied(new)})", node)
            return
        variable = self._text[node] = self.unique("values")
        self._unguarded(node, variable, text)
        self.say(f"{variable} = [*{text}, {self._copied(new)}]", node)

    def begin_lists(self) -> None:
        """Lists of the values of several steps are begun before the trace, so that an early end leaves what came."""
        for node in self.plan.order:
            values = node.args[0] if node.op == "list" else ()
            if values and all(isinstance(one, Node) for one in values) and any(self.plan.keys[one][1] for one in values):
                name = self._text[node] = self.unique(f"values_{node.id}")
                self._done.add(node)
                self._at[node] = -1
                self.say(f"{name} = []", node, home=Home(self.plan.keys[node][0] - 1), guards=())
                for one in values:
                    self._growing.setdefault(one, []).append(name)

    def _grows_to_the_end(self, node: Node) -> bool:
        """Whether a list is saved after the trace that fills it."""
        return node.op in ("list", "append") and self.plan.keys[node][0] >= 0 and self._generating(node)

    def _generating(self, node: Node) -> bool:
        return self.plan.facts[self.plan.keys[node][0]].generating

    def save_lists(self) -> None:
        """Save the lists that generations filled, after them."""
        for node in self.plan.order:
            if node in self._names and self._grows_to_the_end(node):
                text = f"save({self._expressions.value(self._names[node])}, {self._text[node]})"
                self.say(text, node, home=Home(self.plan.keys[node][0]), guards=())

    # -- gradients ----------------------------------------------------------------------------------------------------
    def _backward(self, node: Node) -> None:
        loss, gradient, number = node.args
        later = [one for one in self.plan.backwards.values() if one.args[2] > number]
        options: dict[str, Any] = {} if gradient is None else {"gradient": gradient}
        if later or node.kwargs.get("retain_graph"):
            options["retain_graph"] = True
        given = arguments((), options, self.text_of, self.constant)
        mine = self.plan.grads.get(node, [])
        if not mine:
            return  # parameters' gradients are not read
        self.say(f"with {self.text_of(loss)}.backward({given}):", node)
        self._depth = 1
        order = sorted(mine, key=lambda one: (self.plan.keys[one.args[1]], one.args[1].id), reverse=True)
        read: dict[str, str] = {}
        for one in order:
            self._gradient(one, node, read)
        self._depth = 0

    def _gradient(self, node: Node, backward: Node, read: dict[str, str]) -> None:
        site, target, steps = node.args
        if self.plan.keys[target][0] != self.plan.keys[backward][0]:
            raise refusal(node, "its backward belongs to another forward", "Differentiate inside the same trace.")
        self._done.add(node)
        outer, self._node = self._node, node
        held = self._held.get(target)
        if held is None:
            text, rest, value = self._text[target], steps, None
        else:
            prefix, value, rest = self._places.split(held, steps)
            text = self._places.walk(held.text, held.value, prefix)
        gradient = read.get(text)
        if gradient is None:
            gradient = read[text] = self.unique(f"{_stem(target)}_grad")
            self.say(f"{gradient} = {text}.grad.clone()", node)
        if held is None:
            self._held[node] = Held(gradient, torch.empty(0), inner=rest)
        else:
            self._held[node] = Held(gradient, value, "", (), rest, held.pad, held.length, held.rows, held.step)
        self._at[node] = len(self._at)
        self._after(node)
        self._node = outer
        self._edit_gradient(node, text, gradient)

    def _edit_gradient(self, node: Node, text: str, gradient: str) -> None:
        """Write a gradient as it flows."""
        version = node
        for write in self._versions(node)[1:]:
            for one in self._ancestors(write):
                self._write_node(one)
            self._done.add(write)
            outer, self._node = self._node, write
            held = self._held[version]
            variable = self.unique(f"{gradient}_edited")
            self._unguarded(write, variable, held.text)
            self.say(f"{variable} = {held.text}.clone()", write)
            _, tensor, rest = self._places.split(held, write.args[1])
            self._put(write, self._places.own(variable, tensor, held), rest, write.args[2], held)
            self.say(f"{text}.grad = {variable}", write)
            self._held[write] = self._places.tensor(held, variable)
            self._at[write] = len(self._at)
            self._after(write)
            self._node = outer
            version = write

    def _ancestors(self, node: Node) -> list[Node]:
        """What a node needs and is not written yet, in order."""
        found: set[Node] = set()
        todo = [one for one in node.deps if one not in self._done]
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += [other for other in one.deps if other not in self._done]
        return [one for one in self.plan.order if one in found]

    def _grad(self, node: Node) -> None:
        raise refusal(node, "its backward was not reached")

    def _grad_total(self, node: Node) -> None:
        self._assign(node, " + ".join(self.text_of(one) for one in node.args[0]), f"grad_{node.id}")


def envoy_text(path: str) -> str:
    """A module as nnsight calls it: `model.transformer.h[5]`."""
    text = "model"
    for part in path.split(".") if path else ():
        if part.isdigit():
            text += f"[{part}]"
        else:
            text += f".{part}" if part.isidentifier() else f'.get("{part}")'
    return text


def _site_name(site: Site) -> str:
    parts = site.path.split(".") if site.path else ["model"]
    name = "_".join(parts[-2:] if len(parts) < 3 or parts[-1].isdigit() else parts[-3:])
    return f"{name}_input" if site.kind == "inputs" else "logits" if not site.path else name


def _stem(node: Node) -> str:
    """What a variable made from a node is called."""
    while node.op in ("part", "write", "grad"):
        node = node.args[1] if node.op == "grad" else node.args[0]
    return _site_name(node.args[0]) if node.op == "site" else node.op.split(".")[-1].strip("_")
