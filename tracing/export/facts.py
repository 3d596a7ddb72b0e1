"""What an exported script must know of each forward: which rows and positions are whose, what passes when, and how it
is shaped. Found by running the forward once on fake tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from tracing.engines.order import Insides, Moment, Passage, fake_forward, watched
from tracing.engines.program import Forward, Program
from tracing.errors import ExportError
from tracing.export.values import Scope
from tracing.graph.nodes import Node, Site
from tracing.models.batching import Batch, Rows

Key = tuple[int, float, float]
"""Number of the forward, generation step, place in the forward: when something is known at the earliest."""

BEFORE: Final[Key] = (-1, 0.0, 0.0)
AFTER: Final = float("inf")
"""Step of what is known when a forward has ended."""


def refusal(node: Node, why: str, remedy: str) -> ExportError:
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
    model: Any
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

    @property
    def padded(self) -> bool:
        """Whether a prompt has padding before it."""
        return any(rows.pad for rows in self.rows.values())

    @property
    def eager(self) -> bool:
        """Whether attention must run its eager path, which alone has a pattern."""
        return self.forward.eager or any(kind == "pattern" for _, kind in self.forward.sites)

    def attention(self, site: Site) -> str:
        """The attention module that a site is the pattern of; "" for any other site."""
        if site.kind == "pattern":
            return site.path
        dropout = site.kind == "inputs" and self.model.needs_eager(site.path)
        return site.path.rpartition(".")[0] if dropout else ""

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
        return site.kind == "result" or (*self._place(site), site.call) in self.moments

    def _place(self, site: Site) -> tuple[str, str]:
        """Where nnsight finds a site: a pattern is what attention returns besides its output."""
        attention = self.attention(site)
        return (attention, "output") if attention else (site.path, site.kind)

    def _moment(self, node: Node, site: Site, kind: str = "") -> Moment:
        if site.call:
            raise refusal(node, "nnsight 0.8.1 counts calls of a module through all steps", "Name another module.")
        path, passed = self._place(site)
        moment = (path, kind or passed, 0)
        if moment not in self.moments:
            raise refusal(node, "the forward does not pass it", "Leave it out; running the trace names near sites.")
        return moment


def facts_of(program: Program, model: Any) -> list[Facts]:
    """The facts of every forward that the program needs."""
    found = []
    for number, forward in enumerate(program.forwards):
        inputs = [invoke.inputs for invoke in forward.invokes if invoke.inputs is not None]
        batch = model.batch(inputs, generating=forward.stage.mode == "generate")
        facts = Facts(number, model, forward, batch, _rows(forward, batch), {}, {})
        facts.values = _passage(facts)
        facts.moments = {moment: order for order, moment in enumerate(facts.values)}
        found.append(facts)
    return found


def _rows(forward: Forward, batch: Batch) -> dict[int, Rows]:
    rows = iter(batch.rows)
    whole = Rows(0, batch.total, 0)
    return {invoke.index: whole if invoke.inputs is None else next(rows) for invoke in forward.invokes}


def _passage(facts: Facts) -> Mapping[Moment, Any]:
    """What passes, in order."""
    model, batch, insides = facts.model, facts.batch, Insides(eager=facts.eager)
    arguments = {**batch.kwargs, **({} if facts.generating else facts.forward.stage.options)}
    passage = Passage(keep=True)
    try:
        fake_forward(model, batch.args, arguments, passage, insides)
    except Exception:  # noqa: BLE001 (a forward that looks at numbers runs on them)
        passage = Passage(keep=True)
        with torch.inference_mode(), watched(model.module, passage, insides):
            model.call(*batch.args, **arguments)
    return passage.values
