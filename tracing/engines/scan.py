"""Checks each operation while it is recorded: `with model.scan(prompt):` and `model.trace(prompt, validate=True)`.

1. At a prompt's first site the model runs once on fake tensors (`tracing.engines.order`), with this prompt alone, so
   that every value has the shape that the prompt sees. No weights are read: a model on the "meta" device will do.
2. Every node gets a fake value as soon as it is recorded. What torch has to say about shapes, dtypes and devices is
   raised there and then, at the user's line; `.shape`, `.dtype`, `.device`, `.ndim` and `len()` of a proxy are real.
3. What depends on numbers has no fake value, and neither has what is computed from it: the results of
   `tracer.apply`, `.item()`, `nonzero()` and masks as indices, and sites of later steps of a generation.

After `model.scan` saved values are tensors on the "meta" device: they have the shape and the dtype, and no numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tracing.engines.attention import KINDS
from tracing.engines.notes import annotate
from tracing.engines.order import Insides, Passage, as_fake, fake_forward, fake_mode, unchanged, watched
from tracing.engines.rows import mapped
from tracing.errors import SiteNotReachedError, TraceError
from tracing.graph.lens import get, put
from tracing.graph.nodes import Graph, Node, Site, substitute
from tracing.graph.ops import TABLE
from tracing.graph.recorder import Cell

UNKNOWN: Final[Any] = type("Unknown", (), {"__repr__": lambda self: "unknown before the run"})()
"""The value of what depends on numbers."""

NO_NUMBERS: Final = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    GuardOnDataDependentSymNode,
)
"""What torch raises where a fake tensor would need numbers."""


class Scan:
    """The fake values of a graph that is being recorded: `Recorder.validator`."""

    def __init__(self, model: Any, graph: Graph) -> None:
        self._model = model
        self._graph = graph
        self._mode = fake_mode()
        self._values: dict[Node, Any] = {}
        self._passages: dict[Any, Passage] = {}
        self._attached: dict[int | None, Passage] = {}
        self._structural: dict[str, Callable[[Node], Any]] = {
            "site": lambda node: self._site(node.args[0], node),
            "part": lambda node: get(self[node.args[0]], substitute(node.args[1], self)),
            "write": self._write,
            "module": self._module,
            "parameter": lambda node: self._fake(self._model.parameter(node.args[0]).detach()),
            "list": lambda node: substitute(node.args[0], self),
            "append": lambda node: [*self[node.args[0]], substitute(node.args[1], self)],
            "grad": lambda node: torch.empty_like(get(self[node.args[1]], node.args[2])),
            "grad_total": lambda node: self[node.args[0][0]],
            "backward": self._backward,
        }

    # -- while recording ----------------------------------------------------------------------------------------------
    def check(self, node: Node) -> None:
        """Compute the fake value of a node just recorded; what raises here was not recorded."""
        try:
            self.value(node)
        except BaseException:
            if self._graph.nodes and self._graph.nodes[-1] is node:
                self._graph.nodes.pop()
            raise

    def known(self, node: Node, steps: Any, name: str) -> Any:
        """`name` of the value's part at `steps`; `NotImplemented` where there is none before the run."""
        value = self.value(node)
        if value is UNKNOWN:
            return NotImplemented
        with torch.no_grad(), self._mode:
            part = get(value, substitute(steps, self))
        return getattr(part, name) if isinstance(part, Tensor) else NotImplemented

    def fill(self, cells: Mapping[int, Cell]) -> None:
        """Give saved values their shapes, as tensors on the "meta" device."""
        for number, cell in cells.items():
            node = self._graph.nodes[number]
            value = self.value(node)
            if value is UNKNOWN:
                cell.error = TraceError(
                    f"The value saved at {cell.line} depends on numbers, so a scan does not know its shape.",
                    remedy="Use model.trace to compute it.",
                )
            else:
                cell.value = mapped(value, _on_meta)

    def value(self, node: Node) -> Any:
        """The fake value of a node, `UNKNOWN` where it depends on numbers. Raises what its operation raises."""
        values, todo = self._values, [node]
        while todo:
            one = todo[-1]
            missing = [other for other in one.deps if other not in values]
            if missing and one not in values:
                todo.extend(missing)
                continue
            if one not in values:
                values[one] = self._compute(one)
            todo.pop()
        return values[node]

    # -- fake values --------------------------------------------------------------------------------------------------
    def __getitem__(self, node: Node) -> Any:
        return self._values[node]

    def _compute(self, node: Node) -> Any:
        if node.op == "write" and self._values[node.args[0]] is not UNKNOWN:
            if any(self._values[one] is UNKNOWN for one in node.deps):
                return self._values[node.args[0]]
        elif any(self._values[one] is UNKNOWN for one in node.deps):
            return UNKNOWN
        operation = TABLE.get(node.op)
        try:
            with torch.no_grad(), self._mode:
                if operation is None:
                    return self._structural.get(node.op, lambda _: UNKNOWN)(node)
                args = self._fake(substitute(node.args, self))
                return operation.function(*args, **self._fake(substitute(dict(node.kwargs), self)))
        except NO_NUMBERS:
            return UNKNOWN
        except TraceError:
            raise
        except Exception as error:
            annotate(error, node, self._values)
            raise

    def _fake(self, value: Any) -> Any:
        return as_fake(self._mode, value, self._model.device)

    def _write(self, node: Node) -> Any:
        base, steps, new, _ = node.args
        return put(self[base], substitute(steps, self), self._fake(substitute(new, self)))

    def _backward(self, node: Node) -> None:
        loss, gradient, _ = node.args
        value = self[loss]
        if gradient is None and isinstance(value, Tensor) and value.numel() != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs, and this loss has shape {tuple(value.shape)}"
            )

    def _module(self, node: Node) -> Any:
        path, args, kwargs = node.args
        module = self._model.submodule(path)
        given = self._fake(substitute(args, self)), self._fake(substitute(kwargs, self))
        passage = self._attached.setdefault(node.invoke, Passage(keep=True))
        if path not in self._model.attached:
            passage = Passage()
        with unchanged(module), watched(module, passage, prefix=path):
            return module(*given[0], **given[1])

    # -- sites --------------------------------------------------------------------------------------------------------
    def _site(self, site: Site, node: Node) -> Any:
        if site.step or node.loop is not None or site.kind == "result":
            return UNKNOWN
        moment = site.path, site.kind, site.call
        if any(site.path == path or site.path.startswith(path + ".") for path in self._model.attached):
            found = self._attached.get(site.invoke)
            return UNKNOWN if found is None else found.values.get(moment, UNKNOWN)
        passage = self._passage(site)
        if moment in passage.values:
            return passage.values[moment]
        if node.kwargs.get("optional"):
            return UNKNOWN
        raise SiteNotReachedError(
            f"The forward never reaches {site} (asked for at {node.line}).",
            remedy=self._model.why_not_reached(site.path),
            where={"site": str(site), "line": str(node.line)},
        )

    def _passage(self, site: Site) -> Passage:
        """What passes in the forward of the site's prompt; of the whole batch, in that of all prompts so far."""
        invoke = None if site.invoke is None else self._graph.invokes[site.invoke]
        if invoke is None or invoke.inputs is None:
            prompts = [one.inputs for one in self._graph.invokes if one.stage == site.stage and one.inputs is not None]
        else:
            prompts = [invoke.inputs]
        eager = self._model.needs_eager(site.path)
        inside: Any = type(self._model.submodule(site.path)) if site.kind in KINDS else None
        key = site.stage, site.invoke, len(prompts), inside, eager
        found = self._passages.get(key)
        if found is None:
            found = self._passages[key] = self._forward(site, prompts, inside, eager=eager)
        return found

    def _forward(self, site: Site, prompts: list[Any], inside: type[nn.Module] | None, *, eager: bool) -> Passage:
        model, stage = self._model, self._graph.stages[site.stage]
        taps = [path for path, part in model.module.named_modules() if inside is not None and type(part) is inside]
        insides = Insides(frozenset((path, kind) for path in taps for kind in KINDS), eager)
        options = stage.options if stage.mode == "forward" else {}
        batch = model.batch(prompts, generating=False)
        passage = Passage(keep=True)
        try:
            fake_forward(model, batch.args, {**batch.kwargs, **options}, passage, insides, self._mode)
        except NO_NUMBERS as error:
            path = passage.entered()
            name = type(model.submodule(path)).__name__
            raise TraceError(
                f"The shapes of this model cannot be known before it runs: {path or 'the model'} ({name}) chooses what "
                "to compute by the numbers it is given.",
                remedy="Use model.trace without validate=True, which runs it.",
                where={"module": path},
            ) from error
        return passage


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if isinstance(tensor, FakeTensor) else tensor
