"""What an exported script must know of each forward: which rows and positions are whose, what passes when, and how it
is shaped. Found by running the forward once on fake tensors.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch

from tracing.engines.order import Insides, Moment, Passage, fake_forward, watched
from tracing.engines.program import Forward, Program
from tracing.errors import TraceError
from tracing.export.values import Scope
from tracing.graph.nodes import Node, Site
from tracing.models.batching import Batch, Rows

Key = tuple[int, float, float]
"""Number of the forward, generation step, place in the forward: when something is known at the earliest."""

BEFORE: Final[Key] = (-1, 0.0, 0.0)
AFTER: Final = float("inf")
"""Step of what is known when a forward has ended."""


class ExportError(TraceError):
    """A graph says something that a script of another library cannot."""

    code = "not_exportable"


def refusal(node: Node, why: str, remedy: str = "") -> ExportError:
    """The error for one node."""
    return ExportError(
        f"Node %{node.id} ({node.site or node.op}, recorded at {node.line}) cannot be exported: {why}.",
        remedy=remedy,
        where={"node": node.id, "line": str(node.line)},
    )


@dataclass(slots=True)
class Facts:
    """One forward of the program."""

    number: int
    forward: Forward
    batch: Batch
    rows: Mapping[int, Rows]
    """By invoke."""
    moments: Mapping[Moment, int]
    values: Mapping[Moment, Any]

    @property
    def generating(self) -> bool:
        return self.forward.stage.mode == "generate"

    @property
    def several(self) -> bool:
        """Whether several prompts share the forward."""
        return sum(invoke.inputs is not None for invoke in self.forward.invokes) > 1

    def scope(self, site: Site) -> Scope:
        """What of a site is its prompt's."""
        length = (self.batch.length or 0) + site.step
        if site.invoke is None:
            return Scope(0, length, self.batch.total, self.generating)
        rows = self.rows[site.invoke]
        return Scope(rows.pad, length, rows.stop - rows.start, self.generating)

    def value(self, node: Node, site: Site) -> Any:
        """What passes at a site, on fake tensors. Raises `ExportError` where nothing does."""
        return self.values[self._moment(node, site)]

    def key(self, node: Node, site: Site, kind: str = "") -> Key:
        """When a site is passed."""
        if site.kind == "result":
            return self.number, AFTER, 0.0
        return self.number, float(site.step), float(self.moments[self._moment(node, site, kind)])

    def passes(self, site: Site) -> bool:
        """Whether the forward passes a site at all."""
        return site.kind == "result" or (site.path, site.kind, site.call) in self.moments

    def _moment(self, node: Node, site: Site, kind: str = "") -> Moment:
        if site.call:
            raise refusal(node, "nnsight 0.8.1 counts calls of a module through all steps", "Name another module.")
        moment = (site.path, kind or site.kind, 0)
        if moment not in self.moments:
            raise refusal(node, "the forward does not pass it")
        return moment


def facts_of(program: Program, model: Any) -> list[Facts]:
    """The facts of every forward that the program needs."""
    found = []
    for number, forward in enumerate(program.forwards):
        inputs = [invoke.inputs for invoke in forward.invokes if invoke.inputs is not None]
        batch = model.batch(inputs, generating=forward.stage.mode == "generate")
        found.append(Facts(number, forward, batch, _rows(forward, batch), *_passage(model, forward, batch)))
    return found


def _rows(forward: Forward, batch: Batch) -> dict[int, Rows]:
    rows = iter(batch.rows)
    whole = Rows(0, batch.total, 0)
    return {invoke.index: whole if invoke.inputs is None else next(rows) for invoke in forward.invokes}


def _passage(model: Any, forward: Forward, batch: Batch) -> tuple[Mapping[Moment, int], Mapping[Moment, Any]]:
    passage = Passage(keep=True)
    options = {} if forward.stage.mode == "generate" else forward.stage.options
    arguments = {**batch.kwargs, **options}
    try:
        fake_forward(model, batch.args, arguments, passage, Insides(eager=forward.eager))
    except Exception:  # noqa: BLE001 (a forward that looks at numbers runs on them)
        passage = Passage(keep=True)
        with torch.inference_mode(), watched(model.module, passage, Insides(eager=forward.eager)), nullcontext():
            model.call(*batch.args, **arguments)
    return {moment: number for number, moment in enumerate(passage.values)}, passage.values
