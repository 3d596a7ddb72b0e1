"""Gradients while a program runs.

1. A value whose gradient is asked for becomes a *carrier* when it appears: a tensor of the autograd graph (a leaf, if
   nothing before it needs a gradient), while the model goes on with a copy of it, which it may change as it likes.
2. A backward computes gradients for its carriers only; no parameter's `.grad` is touched where carriers exist. But
   where the user brings what learns, a tensor that requires a gradient or an attached module, all leaves get theirs.
3. A hook on each carrier takes its gradient. Where the gradient is written, the hook runs those nodes and hands the
   written gradient back, so that it flows on.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracing.engines.visit import Part, Visit, first_tensor
from tracing.errors import GradientError
from tracing.graph.lens import Steps, put
from tracing.graph.nodes import Node

if TYPE_CHECKING:
    from tracing.engines.run import Run


class Carriers:
    """The values of one run whose gradients are asked for."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self.asked: dict[Node, list[Node]] = {}
        """Target node to its "grad" nodes."""
        for node in run.program.nodes:
            if node.op == "grad":
                self.asked.setdefault(node.args[1], []).append(node)
        self._carrier: dict[Node, tuple[Tensor, Steps]] = {}
        """"grad" node to its carrier and the steps from there to its value."""
        self._written = {node.args[0] for node in run.program.nodes if node.op == "write" and node.args[0].op == "grad"}
        self._backwards = [node.args[2] for node in run.program.nodes if node.op == "backward"]
        self.learning = any(_learns(node, run.model) for node in run.program.nodes)
        for node in run.program.nodes:
            if node.op == "grad" and node.args[0].step not in self._backwards:
                raise GradientError(
                    f"The gradient asked for at {node.line} cannot be known: no backward follows.",
                    remedy="Call loss.backward() inside the trace.",
                )

    # -- forward ------------------------------------------------------------------------------------------------------
    def carry(self, target: Node, value: Any, visit: Visit | None) -> Any:
        """Make the target's value differentiable; returns the value that its users get."""
        for node in self.asked[target]:
            steps = node.args[2]
            if isinstance(value, Part):
                steps = (*value.inner, *steps)
                prefix, tensor, rest = first_tensor(value.raw, value.scope.filled(steps) if value.scope else steps)
            else:
                prefix, tensor, rest = first_tensor(value, steps)
            if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
                raise GradientError(
                    f"The gradient asked for at {node.line} is of a value that is no floating-point tensor "
                    f"({_kind(tensor)}).",
                    remedy="Ask for the gradient of an activation, such as that of the embedding.",
                )
            carrier = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            if isinstance(value, Part):
                assert visit is not None
                value = Part(put(value.raw, prefix, carrier), value.scope, value.inner)
                visit.go_on_with(put(visit.raw, prefix, carrier.clone()))
                if target.site is not None and target.site.in_place:
                    visit.into_stream(prefix)
            elif carrier is not tensor:
                value = put(value, prefix, carrier)
            self._carrier[node] = carrier, rest
        return value

    # -- backward -----------------------------------------------------------------------------------------------------
    def backward(self, node: Node) -> None:
        """Run one backward and make its gradients known. Raises `GradientError` for one that it does not reach."""
        loss, gradient, number = node.args
        value, gradient = self._run[loss], self._run[gradient] if isinstance(gradient, Node) else gradient
        mine = [one for ones in self.asked.values() for one in ones if one.args[0].step == number]
        reached: dict[Node, Tensor] = {}
        handles = [self._watch(one, reached) for one in mine if one in self._carrier]
        try:
            self._differentiate(node, value, gradient, [one for one in mine if one in self._carrier])
        finally:
            for handle in handles:
                handle.remove()
        for one in mine:
            if one not in reached:
                self._unreached(one, node)
            elif one not in self._written:
                self._run.arrive(one, reached[one])

    def _differentiate(self, node: Node, value: Any, gradient: Any, mine: list[Node]) -> None:
        if isinstance(value, Tensor) and value.numel() != 1 and not isinstance(gradient, Tensor):
            raise GradientError(
                f"The value of the backward at {node.line} has shape {tuple(value.shape)}, and only a single number "
                "can be differentiated.",
                remedy="Reduce it, with .sum() or .mean(), or give backward(gradient=...) of its shape.",
            )
        carriers = list({id(self._carrier[one][0]): self._carrier[one][0] for one in mine}.values())
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise GradientError(
                f"The backward at {node.line} has nothing to differentiate: its value depends on no activation whose "
                "gradient is asked for.",
                remedy="Ask for the gradient of a value that the loss is computed from: h.retain_grad(), or h.grad.",
            )
        keep = bool(node.kwargs.get("retain_graph")) or node.args[2] != self._backwards[-1]
        # Without carriers the user differentiates with respect to parameters that require gradients.
        inputs = None if self.learning else carriers or None
        torch.autograd.backward(value, gradient, retain_graph=keep, inputs=inputs)
        for carrier in carriers:
            carrier.grad = None

    def _watch(self, node: Node, reached: dict[Node, Tensor]) -> Any:
        return self._carrier[node][0].register_hook(self._hook(node, reached))  # type: ignore[no-untyped-call]

    def _hook(self, node: Node, reached: dict[Node, Tensor]) -> Callable[[Tensor], Tensor | None]:
        def hook(gradient: Tensor) -> Tensor | None:
            reached[node] = gradient
            if node not in self._written:
                return None
            return self._run.visit_gradient(node, self.part(node, gradient))

        return hook

    def part(self, node: Node, gradient: Tensor) -> Part:
        """A gradient of the whole batch, as the prompt of a "grad" node sees it."""
        target = node.args[1]
        scope = self._run.scopes[target.site.invoke] if target.site is not None else None
        return Part(gradient, scope, self._carrier[node][1])

    def _unreached(self, node: Node, backward: Node) -> None:
        if any(user.op == "grad_total" for user in self._run.program.users[node]):
            self._run.arrive(node, None)
            return
        raise GradientError(
            f"The gradient asked for at {node.line} cannot be reached: the loss of the backward at {backward.line} "
            f"does not depend on the value of {node.args[1].line}.",
            remedy="Compute the loss from that value, or ask for the gradient of one that it is computed from.",
        )


def _learns(node: Node, model: Any) -> bool:
    """Whether a node brings the user's own leaves: tensors that require gradients, or an attached module's weights."""
    if node.op == "module" and model.is_attached(node.args[0]):
        return any(weight.requires_grad for weight in model.submodule(node.args[0]).parameters())
    return any(tensor.requires_grad for tensor in _tensors((*node.args, *node.kwargs.values())))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def total(gradients: list[Tensor | None], line: object) -> Tensor:
    """What torch accumulates over several backwards. Raises `GradientError` where none of them reached the value."""
    reached = [gradient for gradient in gradients if gradient is not None]
    if not reached:
        raise GradientError(
            f"The gradient asked for at {line} cannot be reached: no backward's loss depends on the value.",
            remedy="Compute a loss from that value.",
        )
    result = reached[0]
    for gradient in reached[1:]:
        result = result + gradient
    return result
