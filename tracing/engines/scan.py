"""Checks each operation while it is recorded: `with model.scan(prompt):` and `model.trace(prompt, validate=True)`.

1. At a prompt's first site the model runs once on fake tensors (`tracing.engines.order`), with this prompt alone, so
   that every value has the shape that the prompt sees. No weights are read: a model on the "meta" device will do. Of a
   generation that is its first step.
2. Every node gets a fake value as soon as it is recorded, and so does every view of one. What torch has to say about
   shapes, dtypes and devices is raised there and then, at the user's line; `.shape`, `.dtype`, `.device`, `.ndim` and
   `len()` of a proxy are real.
3. What depends on numbers has no fake value, and neither has what is computed from it: the results of
   `tracer.apply`, `.item()`, `nonzero()` and masks as indices, and sites of later steps of a generation.

After `model.scan` saved values are tensors on the "meta" device: they have the shape and the dtype, and no numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tracing.engines.attention import KINDS
from tracing.engines.fakes import NO_NUMBERS, as_fake, fake_mode, numberless, unchanged
from tracing.engines.kernel_checks import check_call, check_fits, check_index
from tracing.engines.notes import annotate
from tracing.engines.order import Insides, Passage, fake_forward, first_call, watched
from tracing.engines.rows import Scope, mapped
from tracing.errors import SiteNotReachedError, TraceError
from tracing.graph.cells import Cell
from tracing.graph.lens import Steps, get, put
from tracing.graph.lines import user_line
from tracing.graph.nodes import Graph, Node, Site, substitute
from tracing.graph.ops import TABLE

UNKNOWN: Final[Any] = type("Unknown", (), {"__repr__": lambda self: "unknown before the run"})()
"""The value of what depends on numbers."""


class Scan:
    """The fake values of a graph that is being recorded: `Recorder.validator`."""

    def __init__(self, model: Any, graph: Graph) -> None:
        self._model = model
        self._graph = graph
        self._mode = fake_mode()
        self._values: dict[Node, Any] = {}
        self._passages: dict[Any, Passage] = {}
        self._rows: dict[tuple[int, int | None], int] = {}
        """By stage and prompt, how many rows it has."""
        self._attached: dict[int | None, Passage] = {}
        self._whole: dict[int, int] = {}
        """By stage, how many prompts the whole batch had where it was looked at."""
        self.looked_at: set[Node] = set()
        """Nodes of whose values something was read while recording."""
        self._structural: dict[str, Callable[[Node], Any]] = {
            "part": lambda node: get(self[node.args[0]], self._steps(*node.args)),
            "write": self._write,
            "module": self._module,
            "parameter": lambda node: self._fake(self._model.parameter(node.args[0]).detach()),
            "list": lambda node: substitute(node.args[0], self),
            "append": lambda node: [*self[node.args[0]], substitute(node.args[1], self)],
            "grad": lambda node: torch.empty_like(get(self[node.args[1]], self._steps(*node.args[1:]))),
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

    def check_part(self, node: Node, steps: Steps) -> None:
        """Raise what torch says of a part of a value: an index out of range, a view that does not fit."""
        self._part(node, steps)

    def known(self, node: Node, steps: Steps, name: str) -> Any:
        """`name` of the value's part at `steps`; `NotImplemented` where there is none before the run."""
        part = self._part(node, steps)
        if not isinstance(part, Tensor):
            return NotImplemented
        self.looked_at.add(node)
        return getattr(part, name)

    def fill(self, cells: Mapping[int, Cell]) -> None:
        """Give saved values their shapes, as tensors on the "meta" device."""
        for stage in self._whole:
            self._require_all_prompts(stage)
        for number, first in cells.items():
            value = self.value(self._graph.nodes[number])
            cell: Cell | None = first
            while cell is not None:
                if value is UNKNOWN:
                    cell.error = TraceError(
                        f"The value saved at {cell.line} depends on numbers, so a scan does not know its shape.",
                        remedy="Use model.trace to compute it.",
                    )
                else:
                    cell.value = mapped(value, _on_meta)
                cell = cell.next

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

    def _part(self, node: Node, steps: Steps) -> Any:
        value = self.value(node)
        if value is UNKNOWN or not steps:
            return value
        try:
            with torch.no_grad(), numberless(self._mode):
                return get(value, self._fake(self._steps(node, steps)))
        except NO_NUMBERS:
            return UNKNOWN
        except Exception as error:
            annotate(error, Node(-1, "part", (node, steps), {}, user_line()), self._values)
            raise

    def _compute(self, node: Node) -> Any:
        if node.op == "site":  # its forward makes a batch first, of real tensors
            return self._site(node.args[0], node)
        if node.op == "write" and self._values[node.args[0]] is not UNKNOWN:
            if any(self._values[one] is UNKNOWN for one in node.deps):
                return self._values[node.args[0]]
        elif any(self._values[one] is UNKNOWN for one in node.deps):
            return UNKNOWN
        operation = TABLE.get(node.op)
        try:
            with torch.no_grad(), numberless(self._mode):
                if operation is None:
                    handler = self._structural.get(node.op)
                    return UNKNOWN if handler is None else handler(node)
                given = substitute(node.args, self)
                if node.op == "getitem":
                    check_index(given[0], (("index", given[1]),))
                args = self._fake(given)
                kwargs = self._fake(substitute(dict(node.kwargs), self))
                check_call(node.op, args, kwargs)
                return operation.function(*args, **kwargs)
        except NO_NUMBERS:
            return self._values[node.args[0]] if node.op == "write" else UNKNOWN
        except TraceError:
            raise
        except Exception as error:
            annotate(error, node, self._values)
            raise

    def _fake(self, value: Any) -> Any:
        return as_fake(self._mode, value, self._model.device)

    def _steps(self, base: Node, steps: Steps) -> Steps:
        """Steps to a part of a site, with what they need to know filled in: values of nodes, and the rows there are."""
        found: Steps = substitute(steps, self)
        rows = 1 if base.site is None else self._rows.get((base.site.stage, base.site.invoke), 1)
        return Scope(0, rows, rows, 0, None).filled(found)

    def _write(self, node: Node) -> Any:
        base, steps, new, _ = node.args
        value, given = self[base], self._steps(base, steps)
        check_index(value, given)
        steps, new = self._fake(given), self._fake(substitute(new, self))
        check_fits(value, steps, new)
        return put(value, steps, new)

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
        if self._graph.stages[site.stage].mode == "generate":
            return UNKNOWN  # a module that only other steps call
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
            prompts = self._prompts(site.stage)
            self._whole.setdefault(site.stage, len(prompts))
        else:
            prompts = [invoke.inputs]
        self._require_all_prompts(site.stage)
        options = self._graph.stages[site.stage].options
        eager = self._model.needs_eager(site.path) or self._model.asks_eager(options)
        inside: Any = type(self._model.submodule(site.path)) if site.kind in KINDS else None
        key = site.stage, site.invoke, inside, eager
        found = self._passages.get(key)
        if found is None:
            found = self._passages[key] = self._forward(site, prompts, inside, eager=eager)
        return found

    def _prompts(self, stage: int) -> list[Any]:
        return [one.inputs for one in self._graph.invokes if one.stage == stage and one.inputs is not None]

    def _require_all_prompts(self, stage: int) -> None:
        """Raises `TraceError` where the whole batch was looked at before all its prompts were there."""
        if self._whole.get(stage, 0) == 0 or self._whole[stage] == len(self._prompts(stage)):
            return
        late = [one for one in self._graph.invokes if one.stage == stage and one.inputs is not None][self._whole[stage]]
        raise TraceError(
            f"The prompt at {late.line} comes after the invoke that sees the whole batch, whose shapes were known "
            "before it.",
            remedy="Where shapes are checked, give `with tracer.invoke():` after all prompts.",
            where={"line": str(late.line)},
        )

    def _forward(self, site: Site, prompts: list[Any], inside: type[nn.Module] | None, *, eager: bool) -> Passage:
        model, stage = self._model, self._graph.stages[site.stage]
        taps = [path for path, part in model.module.named_modules() if inside is not None and type(part) is inside]
        insides = Insides(frozenset((path, kind) for path in taps for kind in KINDS), eager)
        batch = model.batch(prompts, generating=False)
        self._rows[site.stage, site.invoke] = batch.total
        args, kwargs = first_call(model, stage, batch)
        passage = Passage(keep=True)
        try:
            fake_forward(model, args, kwargs, passage, insides, self._mode)
        except NO_NUMBERS as error:
            path = passage.entered()
            name = type(model.submodule(path)).__name__
            raise TraceError(
                f"The shapes of this model cannot be known before it runs: {path or 'the model'} ({name}) chooses what "
                "to compute by the numbers it is given.",
                remedy="Use model.trace without validate=True, which runs it.",
                where={"module": path},
            ) from error
        except Exception as error:
            error.add_note(f"Raised by the model, run without numbers to know the shape of {site}.")
            raise
        return passage


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if isinstance(tensor, FakeTensor) else tensor
