"""Gradients in a recorded program: `h.retain_grad()`, `loss.backward()`, `h.grad`.

Every backward has a number. Inside `with loss.backward():` a gradient is that backward's own; otherwise it is what
torch would have accumulated over the backwards recorded so far, or the gradient of the next one if there is none yet.
The gradient of a value with respect to one backward is a site of kind "grad": it can be read and written, and a
written gradient is what flows on to earlier values.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracing.errors import CausalityError, GradientError
from tracing.graph.lines import user_line
from tracing.graph.nodes import Node, Site

if TYPE_CHECKING:
    from tracing.graph.recorder import Base, Recorder


class Backward:
    """`with loss.backward():` gives gradients of this backward alone; the bare call needs no `with`."""

    def __init__(self, recorder: "Recorder", number: int) -> None:
        self._recorder = recorder
        self._number = number

    def __enter__(self) -> "Backward":
        gradients = self._recorder.gradients
        if gradients.scope is not None:
            raise GradientError("Backward blocks do not nest.", remedy="Close the outer one first.")
        gradients.scope = self._number
        if self._number in gradients.bare:
            gradients.bare.remove(self._number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.gradients.scope = None


class Gradients:
    """What one recorder knows of the backwards and gradients in its program."""

    def __init__(self, recorder: "Recorder") -> None:
        self._recorder = recorder
        self.count = 0
        """Backwards recorded so far."""
        self.bare: list[int] = []
        """Those that accumulate, as torch's do."""
        self.scope: int | None = None
        self._bases: dict[tuple[Node, str, tuple[int, ...]], Base] = {}

    def close(self, ended: "Base") -> None:
        """Nothing can be recorded any more: let go of the recorder, so that no cycle waits for the collector."""
        for base in self._bases.values():
            base.recorder, base.node = ended.recorder, ended.node
        self._recorder, self._bases = ended.recorder, {}

    def backward(self, loss: Node, gradient: Any, retain_graph: bool | None) -> Backward:
        """Record a backward of `loss`."""
        recorder = self._recorder
        self.refuse_generation()
        number = self.count
        self._refuse_own_gradient(loss, number)
        recorder.add("backward", (loss, gradient, number), {"retain_graph": retain_graph} if retain_graph else {})
        self.count += 1
        self.bare.append(number)
        return Backward(recorder, number)

    def _refuse_own_gradient(self, loss: Node, number: int) -> None:
        """Raises `CausalityError` where a loss is computed from a gradient of this very backward, asked for before."""
        if not any((number,) == numbers for _, _, numbers in self._bases):
            return
        todo, seen = [loss], {loss}
        while todo:
            node = todo.pop()
            if node.op == "grad" and node.args[0].step == number:
                raise CausalityError(
                    f"The loss of the backward at {user_line()} is computed from a gradient of that same backward "
                    f"(asked for at {node.line}).",
                    remedy="Call backward on another loss first, with retain_graph=True, and ask for the gradient "
                    "after it.",
                    where={"gradient": str(node.line)},
                )
            fresh = [one for one in node.deps if one not in seen]
            seen.update(fresh)
            todo.extend(fresh)

    def of(self, target: Node, steps: tuple[Any, ...]) -> "Base":
        """The base of a value's gradient, bound to the backwards that the place of the call means."""
        from tracing.graph.recorder import Base

        self.refuse_generation()
        numbers = (self.scope,) if self.scope is not None else tuple(self.bare) or (self.count,)
        key = (target, repr(steps), numbers)  # steps may hold slices, which have no hash
        found = self._bases.get(key)
        if found is None:
            if len(numbers) == 1:
                node, site = self._single(target, steps, numbers[0])
                found = Base(self._recorder, node, site)
            else:
                parts = [self._single(target, steps, number)[0] for number in numbers]
                found = Base(self._recorder, self._recorder.add("grad_total", (parts,)))
            self._bases[key] = found
        return found

    def _single(self, target: Node, steps: tuple[Any, ...], number: int) -> tuple[Node, Site]:
        recorder = self._recorder
        found = self._bases.get((target, repr(steps), (number,)))
        if found is not None and found.site is not None:
            return found.node, found.site
        stage = recorder.stage.index if recorder.stage is not None else 0
        site = Site(stage, target.invoke, f"%{target.id}.{len(self._bases)}", "grad", number)
        return recorder.add("grad", (site, target, steps)), site

    def back_to(self, count: int, nodes: int) -> None:
        """Forget the backwards from the `count`th on, and all that belongs to nodes from the `nodes`th on."""
        self.count, self.scope = count, None
        self.bare = [number for number in self.bare if number < count]
        self._bases = {key: base for key, base in self._bases.items() if key[0].id < nodes and base.node.id < nodes}

    def refuse_generation(self) -> None:
        """Raises `GradientError` while tokens are generated: transformers generates without autograd."""
        stage = self._recorder.stage
        if stage is not None and stage.mode == "generate":
            raise GradientError(
                f"There are no gradients in model.generate (at {user_line()}).",
                remedy="Take the generated ids and differentiate in model.trace(ids).",
            )
