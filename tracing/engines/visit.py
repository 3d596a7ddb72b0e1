"""One visit: the moment a forward passes a site, with the value there, its reads and its writes.

`Part` is what a site node stands for: the site's whole structure and the scope of one prompt in it. Reading walks the
steps and cuts the prompt's rows out at the first tensor; writing copies that tensor once a visit and puts it back.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tracing.engines.rows import Scope, cache_copied, mapped, own
from tracing.errors import PromptError
from tracing.graph.lens import SAME_FOR_TENSORS, Steps, get, put
from tracing.graph.nodes import Node

OF_ALL = frozenset({"loss", "past_key_values", "cache_params"})
"""Fields of a model's output that are one for the whole batch."""


def _of_all(name: str) -> PromptError:
    return PromptError(
        f"The model gives one {name} for all prompts of a batch, so one prompt has none of its own.",
        remedy="Trace the prompts one by one"
        + (", or compute it from the prompt's own logits (model.output)" if name == "loss" else "")
        + "; `with tracer.invoke():`, without a prompt, sees that of the whole batch.",
        where={"field": name},
    )


@dataclass(slots=True, eq=False)
class Part:
    """A version of a site's value, as one prompt sees it. `scope` None is the whole batch."""

    raw: Any
    scope: Scope | None
    inner: Steps = ()
    """Steps from `raw` to what the node stands for; only gradients have some."""

    def get(self, steps: Steps) -> Any:
        """The part at `steps`; of a tensor, a view."""
        steps = (*self.inner, *steps)
        if steps and steps[0][0] == "field" and steps[0][1] in OF_ALL and self.scope is not None and self.scope.divides:
            raise _of_all(steps[0][1])
        _, value, rest = first_tensor(self.raw, steps if self.scope is None else self.scope.filled(steps))
        if not isinstance(value, Tensor):
            return self._cut(value)
        return get(value if self.scope is None else self.scope.of(value), rest)

    def whole(self) -> Any:
        """The prompt's part of the whole structure."""
        return self.get(()) if self.inner else self._cut(self.raw)

    def _cut(self, value: Any) -> Any:
        return value if self.scope is None else mapped(value, self.scope.of, cache_copied)


class Visit:
    """The state of one visited site while its nodes run."""

    __slots__ = ("changed", "nodes", "original", "owned", "raw", "stream")

    def __init__(self, raw: Any, original: Any = None) -> None:
        self.raw = raw
        self.original = raw if original is None else original
        """What the model came with."""
        self.stream: list[tuple[Tensor, Tensor]] = []
        """Tensors of the model that are to change themselves, with what they become: see `reach_stream`."""
        self.changed = False
        self.owned: list[Tensor] = []
        """Copies made in this visit, which later writes of it may change."""
        self.nodes: dict[Node, None] = {}
        """Nodes whose values may share memory with the model."""

    def go_on_with(self, raw: Any) -> None:
        """Let the model continue with another value than the one it came with."""
        self.raw = raw
        self.changed = True

    def into_stream(self, steps: Steps) -> None:
        """What was written at these steps is to change the model's own tensor, not only this module's argument."""
        old, new = first_tensor(self.original, steps)[1], first_tensor(self.raw, steps)[1]
        self.stream = [(old, new)]
        self.owned.clear()  # a later write to the argument alone takes a copy

    def reach_stream(self) -> None:
        """Change the tensors that the model reads again by itself. In autograd too: gradients flow through both."""
        for old, new in self.stream:
            old.copy_(new)

    def write(self, scope: Scope | None, steps: Steps, new: Any, *, given: bool = False) -> Part:
        """A new version of one prompt's part with `new` at `steps`, which the model will go on with.

        The model may change it in place, so it gets a copy, unless nothing else has the new value (`given`).
        """
        self.changed = True
        if scope is not None:
            steps = scope.filled(steps)
        if scope is None or scope.everything:
            if not given and not first_tensor(self.raw, steps)[2]:
                new = own(new)
            self.raw = put(self.raw, steps, new, owned=self._owns(self.raw))
            if isinstance(self.raw, Tensor) and not (given and self.raw is new):
                self._own(self.raw)
            return Part(self.raw, scope)
        prefix, tensor, rest = first_tensor(self.raw, steps)
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "with several prompts in one batch, write to a tensor of the output, not to its whole structure"
            )
        if not scope.separates(tensor):
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} is shared by all prompts of the batch, so one prompt cannot "
                "change it: write in an invoke without a prompt, which sees the whole batch"
            )
        if not self._owns(tensor):  # the first write of this visit
            tensor = tensor.clone()
            self.owned.append(tensor)
            self.raw = put(self.raw, prefix, tensor) if prefix else tensor
        if scope.flattens(tensor):
            _write_flattened(scope, tensor, rest, new)
        else:
            rows = scope.of(tensor)
            put(rows, rest or (("index", ...),), _fitting(rows, rest, new), owned=True)
        return Part(self.raw, scope)

    def _owns(self, value: Any) -> bool:
        for tensor in self.owned:  # noqa: SIM110 (by identity, as `in` compares tensors; at each write, as is any())
            if tensor is value:
                return True
        return False

    def _own(self, tensor: Tensor) -> None:
        if not self._owns(tensor):
            self.owned.append(tensor)

    def will_write_in_place(self) -> bool:
        """Whether the next write may change memory that earlier readers of this visit hold."""
        return bool(self.owned)


def first_tensor(raw: Any, steps: Steps) -> tuple[Steps, Any, Steps]:
    """The steps to the first tensor, it, and the steps inside it."""
    value = raw
    for number, step in enumerate(steps):
        if isinstance(value, Tensor):
            inside = number
            while inside < len(steps) and steps[inside][0] in SAME_FOR_TENSORS:
                inside += 1
            return steps[:number], value, steps[inside:]
        value = get(value, (step,))
    return steps, value, ()


def _write_flattened(scope: Scope, tensor: Tensor, rest: Steps, new: Any) -> None:
    """Write to a prompt's part of `[row · position, …]`, whose rows and positions do not lie together."""
    spread = scope.spread(tensor)
    part = put(spread.flatten(0, 1), rest or (("index", ...),), new)
    spread.copy_(part.view_as(spread))


def _fitting(rows: Tensor, rest: Steps, new: Any) -> Any:
    if not rest and isinstance(new, Tensor) and new.shape != rows.shape:
        raise ValueError(
            f"the new value has shape {tuple(new.shape)}, but this prompt's part of the site has {tuple(rows.shape)}"
        )
    return new


def owned(value: Any) -> Any:
    """A value that outlives its visit, in memory of its own: the model may change its tensors afterwards."""
    return own(value.whole()) if isinstance(value, Part) else own(value)
