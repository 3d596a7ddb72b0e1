"""Statements for places of a forward: reading them and their parts, writing to them, skipping modules."""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from tracing.export.facts import Facts, refusal
from tracing.export.names import edited, envoy_text, site_name, stem
from tracing.export.values import FIRST, LOGITS, Held, Unwritable, copies_heads
from tracing.export.writer import Writer
from tracing.graph.lens import Steps, first_name
from tracing.graph.nodes import Node, Site, nodes_in

WRITE_A_PART: Final = "Write to a tensor that the site holds: an item by its number, a field by its name."


class Sites:
    """Statements for the nodes "site", "part", "write" and "skip"."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._plan = writer.plan

    # -- reading ------------------------------------------------------------------------------------------------------
    def site(self, node: Node) -> None:
        """A place, held by a variable."""
        writer, site = self._writer, node.args[0]
        if site.kind == "result":
            self._result(node, site)
            return
        facts = self._plan.forward_of[site.invoke]
        if facts.attention(site):
            self._pattern(node, site, facts)
            return
        envoy, taken, value = self._envoy(node, site, facts.value(node, site))
        variable = writer.unique(site_name(site))
        held = Held(variable, value, envoy, taken, (), facts.scope(site))
        if (facts.several or held.scope.pad) and isinstance(value, Tensor) and value.dim():
            self._require_rows(node, value, facts.batch.total)
        writer.held[node] = held
        if node in writer.targets:
            self._carry(node, held)
            return
        changes = isinstance(value, Tensor) and not site.in_place
        writer.say(f"{variable} = {envoy}{'.clone()' if changes and self._plan.late(node) else ''}", node)

    def _carry(self, node: Node, held: Held) -> None:
        """A site whose gradient is asked for: a copy through which the model's values flow, so that it is no other's.

        Without it, two prompts' gradients at one place, or one tensor under two names, could not both be read.
        """
        writer, variable = self._writer, held.text
        if isinstance(held.value, Tensor):
            stays = held.taken == LOGITS
            writer.say(f"{variable} = {held.target}{'' if node.args[0].in_place else '.clone()'}", node)
            if not stays and not node.args[0].in_place:
                writer.say(f"{held.target} = {variable}.clone()", node)
            return
        writer.say(f"{variable} = {held.target}", node)
        prefixes = {repr(prefix): prefix for prefix in (
            writer.places.split(held, grad.args[2])[0] for grad in writer.targets[node]
        )}  # fmt: skip
        for prefix in prefixes.values():
            copy = f"{writer.places.walk(variable, held.value, prefix)}.clone()"
            try:
                whole = writer.places.rebuilt(variable, held.value, prefix, copy)
            except Unwritable as error:
                raise refusal(node, str(error), WRITE_A_PART) from None
            writer.say(f"{variable} = {whole}", node)
        writer.say(f"{held.target} = {variable}", node)

    @staticmethod
    def _require_rows(node: Node, value: Tensor, total: int) -> None:
        if value.shape[0] not in (total, 1):
            shape = tuple(value.shape)
            raise refusal(
                node,
                f"its rows and positions are one axis, {shape}, which nnsight does not part by prompt",
                "Give each prompt a trace of its own.",
            )

    def _envoy(self, node: Node, site: Site, value: Any) -> tuple[str, tuple[Steps, ...], Any]:
        """How nnsight calls a site; which first steps that takes; what it is then."""
        path, steps = envoy_text(site.path), self._all_steps(node)
        if site.kind == "inputs":
            args, kwargs = value
            if _first_leads(args, kwargs) and _all_begin(steps, FIRST):
                return f"{path}.input", FIRST, args[0] if args else next(iter(kwargs.values()))
            return f"{path}.inputs", (), value
        logits = getattr(value, "logits", None) if not site.path and len(self.versions(node)) == 1 else None
        if logits is not None and steps and _all_begin(steps, LOGITS):
            return f"{path}.output.logits", LOGITS, logits
        return f"{path}.output", (), value

    def _pattern(self, node: Node, site: Site, facts: Facts) -> None:
        """The attention pattern, which eager attention returns as its second item."""
        if len(self.versions(node)) > 1 or node in self._writer.targets:
            raise refusal(
                node,
                "a script for nnsight 0.8.1 can only read an attention pattern, not change or differentiate it",
                "Write to the attention module's output, or to sites.v.",
            )
        output = facts.value(node, site)
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        whole = site.kind == "inputs" and not _all_begin(self._all_steps(node), FIRST)
        if not isinstance(weights, Tensor) or whole:
            raise refusal(node, "its attention returns no pattern", "Read the attention module's output.")
        attention = facts.attention(site)
        variable = self._writer.unique(f"{site_name(site._replace(path=attention, kind='output'))}_pattern")
        taken = FIRST if site.kind == "inputs" else ()
        self._writer.held[node] = Held(variable, weights, "", taken, (), facts.scope(site))
        self._writer.say(f"{variable} = {envoy_text(attention)}.output[1]", node)

    def versions(self, node: Node) -> list[Node]:
        """A site, or a gradient, and its written versions, in order."""
        found = [node]
        for version in found:
            found += [user for user in self._plan.users(version) if user.op == "write" and user.args[0] is version]
        return found

    def _all_steps(self, node: Node) -> list[Steps]:
        """The steps into a site and its versions, of every use."""
        steps: list[Steps] = []
        for version in self.versions(node):
            if version in self._writer.saved:
                steps.append(())
            for user in self._plan.users(version):
                steps += _steps_of(user, version)
        return steps

    def _result(self, node: Node, site: Site) -> None:
        assert site.invoke is not None
        facts = self._plan.forward_of[site.invoke]
        rows = facts.rows[site.invoke]
        text = f"result_{facts.number}"
        if rows.pad or rows.stop - rows.start != facts.batch.total:
            text = f"{text}[{rows.start}:{rows.stop}{f', {rows.pad}:' if rows.pad else ''}]"
        self._writer.assign(node, text, "ids")

    def part(self, node: Node) -> None:
        """A part of a site, or of a computed value."""
        writer, (base, steps) = self._writer, node.args
        writer.sync(base)
        held = writer.held.get(base)
        text = writer.places.inside(writer.text[base], steps) if held is None else writer.read(held, steps)
        if self._inlined(node):
            writer.text[node] = text
            return
        in_place = base.site is not None and base.site.in_place
        structured = held is None or not isinstance(held.value, Tensor)
        changes = structured and base.site is not None and base not in writer.targets
        if in_place or (changes and self._plan.late(node)):
            text = f"{text}.clone()"
        writer.assign(node, text, f"{stem(base)}_{node.id}")

    def _inlined(self, node: Node) -> bool:
        """Whether a part stands where it is used instead of in a variable."""
        writer, users, base = self._writer, self._plan.users(node), node.args[0].site
        if (base is not None and base.in_place) or node in writer.targets or node in writer.growing:
            return False
        if node in writer.saved:
            return not users
        if len(users) != 1 or users[0].op in ("part", "grad"):
            return False
        return (
            self._plan.homes[users[0]] == self._plan.homes[node] and self._plan.keys[users[0]] == self._plan.keys[node]
        )

    # -- writing ------------------------------------------------------------------------------------------------------
    def write(self, node: Node) -> None:
        """A new version of a site, which the model goes on with, or of a computed value."""
        writer, (base, steps, new, site) = self._writer, node.args
        if site is not None and site.kind == "grad":
            writer.held[node] = writer.held[base]
            return  # written inside its backward
        writer.sync_all((base, *nodes_in((steps, new))))
        held = writer.held.get(base)
        if held is None:
            self._write_computed(node, base, steps, new)
            return
        prefix, tensor, rest = writer.places.split(held, steps)
        where = writer.places.walk(held.text, held.value, prefix)
        if not isinstance(tensor, Tensor):
            variable = writer.expressions.value(new)
        else:
            variable = writer.unique(edited(stem(base)))
            writer.unguarded(node, variable, where)
            writer.say(f"{variable} = {where}.clone()", node)
            self.put(node, writer.places.own(variable, tensor, held), rest, new, held)
        self._reassign(node, held, prefix, variable, where)

    def _reassign(self, node: Node, held: Held, prefix: Steps, variable: str, where: str) -> None:
        """Give the model the new version, and hold it."""
        writer, site = self._writer, node.args[3]
        if site.kind == "result":
            raise refusal(
                node,
                "the ids of a generation have been made when they are known",
                "Write to its steps' model.output.",
            )
        try:
            whole = writer.places.rebuilt(held.text, held.value, prefix, variable)
        except Unwritable as error:
            raise refusal(node, str(error), WRITE_A_PART) from None
        if site.in_place:
            writer.say(f"{where}.copy_({variable})", node)
        elif prefix or not variable.isidentifier():
            kept = writer.unique(edited(stem(node.args[0])))
            writer.unguarded(node, kept, held.text)
            writer.say(f"{kept} = {whole}", node)
            whole = kept
        if not site.in_place:
            writer.say(f"{held.target} = {whole}", node)
        writer.held[node] = writer.places.tensor(held, whole)
        if node in writer.targets and isinstance(held.value, Tensor):
            writer.say(f"{whole}.requires_grad_()", node)

    def put(self, node: Node, view: str, rest: Steps, new: Any, held: Held | None = None) -> None:
        """Write to a part of a copy."""
        writer = self._writer
        value = writer.expressions.value(new)
        last = rest[-1] if rest else ("all",)
        copied = next((number for number, step in enumerate(rest[:-1]) if copies_heads(step)), None)
        if copied is not None:  # these heads do not lie together: a copy of them is written to, and put back
            heads = writer.unique("heads")
            writer.say(f"{heads} = {self._inside(node, view, rest[: copied + 1], held)}", node)
            self.put(node, heads, rest[copied + 1 :], new)
            self._put_heads(node, view, rest[: copied + 1], heads, held)
        elif copies_heads(last) and isinstance(new, (Node, Tensor)):
            self._put_heads(node, view, rest, value, held)
        elif last[0] == "index":
            index = writer.expressions.index(last[1])
            writer.say(f"{self._inside(node, view, rest[:-1], held)}[{index}] = {value}", node)
        else:
            writer.say(f"{self._inside(node, view, rest, held, grouped=True)}[...] = {value}", node)

    def _put_heads(self, node: Node, view: str, rest: Steps, heads: str, held: Held | None) -> None:
        target = self._inside(node, view, rest, held, grouped=True)
        self._writer.say(f"{target}[...] = {heads}.unflatten(-2, ({rest[-1][3]}, -1))", node)

    def _inside(self, node: Node, view: str, steps: Steps, held: Held | None, *, grouped: bool = False) -> str:
        try:
            return self._writer.places.inside(view, steps, held, writing=True, grouped=grouped)
        except Unwritable as error:
            raise refusal(node, str(error), WRITE_A_PART) from None

    def _write_computed(self, node: Node, base: Node, steps: Steps, new: Any) -> None:
        writer = self._writer
        before = writer.text[base]
        variable = writer.text[node] = writer.unique(edited(stem(base)))
        writer.unguarded(node, variable, before)
        if steps:
            writer.say(f"{variable} = {before}.clone()", node)
            self.put(node, variable, steps, new)
        else:
            value = writer.expressions.value(new)
            whole = value if isinstance(new, (Node, Tensor)) else f"torch.full_like({before}, {value})"
            writer.say(f"{variable} = {whole}", node)
        writer.make_leaf(node)

    # -- skipping -----------------------------------------------------------------------------------------------------
    def skip(self, node: Node) -> None:
        """nnsight's own skip, or a new output where only some prompts skip or the module returns a tuple."""
        writer, (path, value, site) = self._writer, node.args
        envoy, text = envoy_text(path), writer.expressions.value(value)
        if self._plan.native_skip(node):
            writer.say(f"{envoy}.skip({text})", node)
            return
        facts = self._plan.forward_of[site.invoke]
        output = facts.values[path, "output", 0]
        variable, scope = writer.unique(f"{path.split('.')[-1]}_skipped"), facts.scope(site)
        if isinstance(value, tuple) or (isinstance(output, Tensor) and not scope.pad):
            writer.say(f"{envoy}.output = {text}", node)
            return
        main = output if isinstance(output, Tensor) else output[0]
        held = Held(variable, main, scope=scope)
        writer.say(f"{variable} = {envoy}.output{'' if isinstance(output, Tensor) else '[0]'}.clone()", node)
        writer.say(f"{writer.places.own(variable, main, held)}[...] = {text}", node)
        whole = variable if isinstance(output, Tensor) else f"({variable}, *{envoy}.output[1:])"
        writer.say(f"{envoy}.output = {whole}", node)


def _all_begin(steps: Sequence[Steps], ways: Sequence[Steps]) -> bool:
    """Whether all uses of a site begin with the same part of it."""
    return all(any(one[: len(way)] == way for way in ways) for one in steps)


def _first_leads(args: Any, kwargs: Any) -> bool:
    """Whether nnsight's `.input` is the first argument as it is known here."""
    if args or not kwargs:
        return bool(args)
    tensors = any(isinstance(one, Tensor) for one in kwargs.values())
    return tensors and next(iter(kwargs)) == first_name(kwargs)


def _steps_of(user: Node, version: Node) -> list[Steps]:
    """The steps into a version of a site that one node takes; () where it takes the whole."""
    if user.op == "grad":
        return [user.args[2]]
    if user.op not in ("part", "write") or user.args[0] is not version:
        return [()]
    whole = user.op == "write" and version in nodes_in((user.args[1], user.args[2]))
    return [user.args[1], ()] if whole else [user.args[1]]
