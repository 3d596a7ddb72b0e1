"""What a recorded graph will do when it runs, as `tracer.plan()` tells it: forwards, hooks, stops, bytes.

The graph is compiled as for a run and rehearsed on fake tensors (`tracing.engines.rehearsal`); nothing is computed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tracing.engines.program import Forward, Place, compile_graph
from tracing.engines.rehearsal import Rehearsal
from tracing.graph.cells import Cell
from tracing.graph.nodes import Graph, Site

_SHOWN: Final = 8
"""How many names a line of the text has at most."""


@dataclass(frozen=True, slots=True)
class PlannedForward:
    """One call of the model."""

    mode: str
    """"forward" or "generate"."""
    line: str
    """Where its trace begins."""
    prompts: tuple[int, ...]
    """Which prompts of the trace (from 0) run in it, as one batch."""
    sites: tuple[str, ...]
    """Places that are hooked."""
    written: tuple[str, ...]
    """Those whose value is changed or differentiated."""
    skipped: tuple[str, ...]
    """Modules that do not run."""
    eager: bool
    """Whether the eager path of attention is computed: for scores, a pattern, or a module that only that path calls."""
    known: bool
    """Whether it is known where the forward stops."""
    stops_after: str | None
    """The site behind which the forward stops; None where it runs to its end, or where that is not known."""

    def __str__(self) -> str:
        many = f"prompts {', '.join(map(str, self.prompts))}" if len(self.prompts) != 1 else f"prompt {self.prompts[0]}"
        hooks = [f"{site} (changed)" if site in self.written else site for site in self.sites]
        stop = f"after {self.stops_after}" if self.stops_after else "at its end" if self.known else "not known"
        lines = [
            f"{'generation' if self.mode == 'generate' else 'forward'} of {many}, from {self.line}",
            f"  hooks: {_few(hooks)}",
            f"  stops: {stop}",
            f"  attention: {'eager' if self.eager else 'as the model has it'}",
        ]
        if self.skipped:
            lines.insert(2, f"  skips: {_few(self.skipped)}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would run, and what it would keep; `print` it."""

    forwards: tuple[PlannedForward, ...]
    nodes: int
    """Recorded operations that run (those in a loop once for each of its steps)."""
    dropped: int
    """Recorded operations that lead to nothing."""
    grad_mode: str
    """"inference", or "autograd" where a gradient is asked for."""
    saved_bytes: int | None
    """Size of all saved values; None where the model's shapes depend on numbers."""
    peak_bytes: int | None
    """Most bytes that saved and intermediate values take at one time, beside what the model itself takes.

    An estimate: without what an operation needs while it runs, and without what autograd keeps for a backward.
    """
    unknown: int
    """Saved values that are not counted, because their size depends on numbers."""
    reason: str
    """Why bytes and stops are not known; "" where they are."""

    def __str__(self) -> str:
        count = len(self.forwards)
        lines = [
            f"{count} {'forward' if count == 1 else 'forwards'}, {self.nodes} operations ({self.dropped} dropped), "
            + ("with autograd" if self.grad_mode == "autograd" else "in inference mode"),
            *map(str, self.forwards),
        ]
        if self.saved_bytes is None or self.peak_bytes is None:
            return "\n".join([*lines, f"bytes: not known before the run, because {self.reason}"])
        more = f", and {self.unknown} saved of unknown size" if self.unknown else ""
        return "\n".join(
            [*lines, f"bytes: {_bytes(self.saved_bytes)} saved, at most {_bytes(self.peak_bytes)} kept at a time{more}"]
        )


def plan_of(model: Any, graph: Graph, cells: Mapping[int, Cell]) -> Plan:
    """Plan a graph; `cells` say in which precision values are saved.

    Raises what a run would raise before or without computing: `CausalityError`, `SiteNotReachedError`, and torch's
    complaints about shapes, with the line that recorded them.
    """
    program = compile_graph(graph, model, warn=False)
    forwards = [forward for forward in program.forwards if forward.pending or forward.skips]
    # A forward counts down what it has passed, so its sites are read first.
    described = [_described(forward, graph) for forward in forwards]
    rehearsal = Rehearsal(model, program, cells)
    rehearsal.rehearse()
    ends = rehearsal.ends
    known = not rehearsal.reason
    return Plan(
        tuple(
            PlannedForward(
                **about,
                known=number < len(ends),
                stops_after=_name(stop) if number < len(ends) and (stop := ends[number]) is not None else None,
            )
            for number, about in enumerate(described)
        ),
        nodes=len(program.nodes),
        dropped=program.dropped,
        grad_mode="autograd" if program.differentiates else "inference",
        saved_bytes=rehearsal.saved_bytes if known else None,
        peak_bytes=rehearsal.peak_bytes if known else None,
        unknown=rehearsal.unknown,
        reason=rehearsal.reason,
    )


def _described(forward: Forward, graph: Graph) -> dict[str, Any]:
    numbers = [invoke.index for invoke in graph.invokes if invoke.stage == forward.stage.index]
    return {
        "mode": forward.stage.mode,
        "line": str(forward.stage.line),
        "prompts": tuple(numbers.index(one.index) for one in forward.invokes if one.inputs is not None),
        "sites": tuple(map(_name, forward.sites)),
        "written": tuple(sorted(map(_name, forward.written))),
        "skipped": tuple(dict.fromkeys(node.args[0] for node in forward.skips)),
        "eager": forward.eager or any(kind in ("scores", "pattern") for _, kind in forward.sites),
    }


def _name(place: Place) -> str:
    return str(Site(0, None, *place))


def _few(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - _SHOWN
    return ", ".join(names) if rest <= 1 else f"{', '.join(names[:_SHOWN])} and {rest} more"


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
