"""What becomes of sites that a finished forward has not passed.

A site that no call passed is an error. A generation step that never came (the model ended its text before) is not: its
values are absent, lists go without them, and reading one says at which step the generation ended.
"""

from typing import TYPE_CHECKING, Any

from tracing.errors import SiteNotReachedError, StepNotReachedError
from tracing.graph.nodes import Node

if TYPE_CHECKING:
    from tracing.engines.program import Forward
    from tracing.engines.run import Run


def settle(run: "Run", forward: "Forward") -> None:
    """After a forward: raise for sites that were never passed, mark those of steps that never came as absent."""
    left = [node for calls in forward.sites.values() for nodes in calls.values() for node in nodes]
    if not left:
        return
    if not run.stopped:
        never = [node for node in left if not (node.kwargs.get("optional") or _ended_before(run, forward, node))]
        never = never or [node for node in left if not _ended_before(run, forward, node) and _missed(run, node, left)]
        if never:
            raise not_reached(never, run.model)
    ended = _ended(run.step + 1) if forward.stage.mode == "generate" else _not_called
    run.absent(left, _stopped if run.stopped else ended)


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
