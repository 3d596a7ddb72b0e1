"""What becomes of sites that a finished forward has not passed.

A site that no call passed is an error. A generation step that never came (the model ended its text before) is not: its
values are absent, lists go without them, and reading one says at which step the generation ended.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from tracing.errors import SiteNotReachedError, StepNotReachedError, StepNotReachedWarning
from tracing.graph.lines import Line
from tracing.graph.nodes import Node, Site

if TYPE_CHECKING:
    from tracing.engines.program import Forward
    from tracing.engines.run import Run


NO_STEP: Final = frozenset({"result", "grad"})
"""Kinds of sites that are of no generation step."""


def refuse_late(run: "Run", forward: "Forward") -> None:
    """Raises `StepNotReachedError` for a write or skip in a step that the generation cannot reach."""
    if forward.stage.mode != "generate":
        return
    most = run.model.most_steps(forward.stage.options)
    if most is None:
        return
    for node, site in _changes(run, forward):
        if site.step >= most:
            raise StepNotReachedError(
                f"The {node.op} at {node.line} is of step {site.step} of {site._replace(step=0)}, and the generation "
                f"has at most {most} steps, 0 to {most - 1}.",
                remedy="Let the steps end there (tracer.iter[:] does), or give model.generate more max_new_tokens.",
                where={"step": site.step, "steps": most},
            )


def _changes(run: "Run", forward: "Forward") -> Iterator[tuple[Node, Site]]:
    """Writes and skips in the steps of a generation."""
    for node in run.program.nodes:
        site = node.args[2] if node.op == "skip" else node.site if node.op == "write" else None
        if site is not None and site.stage == forward.stage.index and site.kind not in NO_STEP:
            yield node, site


def _warn_missed(run: "Run", forward: "Forward") -> None:
    """Warn, once a line, of changes in named steps that never came."""
    missed: dict[Line, tuple[Node, Site]] = {}
    for node, site in _changes(run, forward):
        if site.step > run.step and node.guard is None and site in run.program.graph.expected:
            missed.setdefault(node.line, (node, site))
    for line, (node, site) in missed.items():
        warnings.warn_explicit(
            f"The generation ended after {run.step + 1} step{'s' if run.step else ''}, so the {node.op} in step "
            f"{site.step} of {site.path or 'model'} did not take place. To write for as long as the text lasts, loop "
            "over tracer.iter[:]; eos_token_id=None keeps the text from ending.",
            StepNotReachedWarning,
            line.file,
            line.number or 1,
        )


def settle(run: "Run", forward: "Forward") -> None:
    """After a forward: raise for what it never passed, mark sites of steps that never came as absent."""
    stopped = run.stopped(forward)
    if forward.stage.mode == "generate" and run.program.graph.expected and not stopped:
        _warn_missed(run, forward)
    if forward.skips and not stopped:
        _refuse_skips(run, forward)
    left = [node for calls in forward.sites.values() for nodes in calls.values() for node in nodes]
    if not left:
        return
    if not stopped:
        never = [node for node in left if not (node.kwargs.get("optional") or _ended_before(run, forward, node))]
        never = never or [node for node in left if not _ended_before(run, forward, node) and _missed(run, node, left)]
        if never:
            raise not_reached(never, run.model)
    ended = _ended(run.step + 1) if forward.stage.mode == "generate" else _not_called
    run.absent(left, _stopped if stopped else ended)


def _refuse_skips(run: "Run", forward: "Forward") -> None:
    """Raises `SiteNotReachedError` for a skip of a module that the forward did not call in a step that came."""
    for node in forward.skips:
        path, _, site = node.args
        if node in run.passed or site.step > run.step or node.kwargs.get("optional"):
            continue
        raise SiteNotReachedError(
            f"The forward never called {path or 'model'}, so the skip at {node.line} has no effect.",
            remedy=run.model.why_not_reached(path),
            where={"site": str(site), "line": str(node.line)},
        )


def _ended_before(run: "Run", forward: "Forward", node: Node) -> bool:
    """Whether the step of a site never came, though the module was called in those that did."""
    site = node.args[0]
    return forward.stage.mode == "generate" and site.step > run.step


def _missed(run: "Run", node: Node, left: list[Node]) -> bool:
    """Whether the value of an optional site was to be written to a site that the forward did pass."""
    todo, seen = [node], {node}
    while todo:
        for user in run.program.users[todo.pop()]:
            if user in seen:
                continue
            seen.add(user)
            todo.append(user)
            if user.op == "write" and user.site is not None and user.site != node.site:
                written = user
                while written.op == "write":
                    written = written.args[0]
                if written not in left:
                    return True
    return False


def _ended(steps: int) -> Any:
    def error(node: Node) -> SiteNotReachedError:
        site = node.args[0]
        return StepNotReachedError(
            f"The generation ended after {steps} steps, so step {site.step} of {site._replace(step=0)} "
            f"(asked for at {node.line}) never came.",
            remedy="Collect the values of a loop in tracer.list(): it holds the steps that came.",
            where={"step": site.step, "steps": steps},
        )

    return error


def _not_called(node: Node) -> SiteNotReachedError:
    return SiteNotReachedError(f"The forward did not call {node.args[0]}.", remedy="The cache holds what it called.")


def _stopped(node: Node) -> SiteNotReachedError:
    return SiteNotReachedError(
        f"tracer.stop() ended the forward before it reached {node.args[0]} (asked for at {node.line}).",
        remedy="Read it before the stop, or leave the stop out.",
    )


def not_reached(nodes: list[Node], model: Any) -> SiteNotReachedError:
    """The error for sites that the forward never passed."""
    node = min(nodes, key=lambda node: node.id)
    site = node.args[0]
    return SiteNotReachedError(
        f"The forward never reached {site} (asked for at {node.line}).",
        remedy=model.why_not_reached(site.path),
        where={"site": str(site), "line": str(node.line)},
    )
