"""Statements for backwards: `with loss.backward():` with the gradients inside, from the last value to the first."""

from typing import Any

import torch

from tracing.export.facts import Key, refusal
from tracing.export.names import stem
from tracing.export.sites import Sites
from tracing.export.values import Held
from tracing.export.writer import Writer
from tracing.graph.nodes import Node
from tracing.graph.text import arguments


class Gradients:
    """Statements for the nodes "backward", "grad", and writes to gradients. `write` writes any other node."""

    def __init__(self, writer: Writer, sites: Sites, write: Any) -> None:
        self._writer = writer
        self._plan = writer.plan
        self._sites = sites
        self._write = write

    def backward(self, node: Node) -> None:
        """The block of one backward; without any where no activation's gradient is asked for."""
        loss, gradient, number = node.args
        mine = self._plan.grads.get(node, [])
        if not mine:
            return
        options: dict[str, Any] = {} if gradient is None else {"gradient": gradient}
        later = any(one.args[2] > number for one in self._plan.backwards.values())
        if later or node.kwargs.get("retain_graph"):
            options["retain_graph"] = True
        writer = self._writer
        given = arguments((), options, writer.text_of, writer.constant)
        writer.say(f"with {writer.text_of(loss)}.backward({given}):", node)
        writer.depth = 1
        read: dict[str, str] = {}
        for one in sorted(mine, key=self._arrival, reverse=True):
            self._gradient(one, node, read)
        writer.depth = 0

    def _arrival(self, node: Node) -> tuple[Key, int, int]:
        """By which gradients arrive, the last first: when the forward knew the value."""
        target = node.args[1]
        return self._plan.keys[target], -1 if target.invoke is None else target.invoke, target.id

    def _gradient(self, node: Node, backward: Node, read: dict[str, str]) -> None:
        writer, (_, target, steps) = self._writer, node.args
        if self._plan.keys[target][0] != self._plan.keys[backward][0]:
            raise refusal(node, "its backward belongs to another forward", "Differentiate inside the same trace.")
        held, value = writer.held.get(target), None
        if held is None:
            text, rest = writer.text[target], steps
        else:
            prefix, value, rest = writer.places.split(held, steps)
            text = writer.places.walk(held.text, held.value, prefix)
        with writer.writing(node):
            gradient = read.get(text)
            if gradient is None:
                gradient = read[text] = writer.unique(f"{stem(target)}_grad")
                writer.say(f"{gradient} = {text}.grad.clone()", node)
            if held is None:
                writer.held[node] = Held(gradient, torch.empty(0), inner=rest)
            else:
                writer.held[node] = Held(gradient, value, inner=rest, scope=held.scope)
        self._edit(node, text, gradient)

    def _edit(self, node: Node, text: str, gradient: str) -> None:
        """Write a gradient as it flows."""
        writer, version = self._writer, node
        for write in self._sites.versions(node)[1:]:
            for one in self._ancestors(write):
                self._write(one)
            held = writer.held[version]
            with writer.writing(write):
                variable = writer.unique(f"{gradient}_edited")
                writer.unguarded(write, variable, held.text)
                writer.say(f"{variable} = {held.text}.clone()", write)
                _, tensor, rest = writer.places.split(held, write.args[1])
                self._sites.put(write, writer.places.own(variable, tensor, held), rest, write.args[2], held)
                writer.say(f"{text}.grad = {variable}", write)
                writer.held[write] = writer.places.tensor(held, variable)
            version = write

    def _ancestors(self, node: Node) -> list[Node]:
        """What a node needs and is not written yet, in order."""
        done, found = self._writer.done, set[Node]()
        todo = [one for one in node.deps if one not in done]
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += [other for other in one.deps if other not in done]
        return [one for one in self._plan.order if one in found]
