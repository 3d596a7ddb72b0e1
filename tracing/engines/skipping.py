"""`module.skip(value)`: the module does not run, and the value stands for its output.

torch has no hook that keeps a forward from running, so the instance's `forward` is shadowed for the time of a trace, by
a function that does so in the tracing thread only. Where only some prompts of a batch skip, the module runs for the
others, and the skipping prompts' rows are replaced.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from tracing.engines.rows import own
from tracing.engines.visit import Visit
from tracing.errors import CausalityError
from tracing.graph.lens import Steps
from tracing.graph.nodes import nodes_in, substitute

if TYPE_CHECKING:
    from tracing.engines.program import Forward
    from tracing.engines.run import Run

_lock = threading.Lock()
_shadowed: dict[nn.Module, dict[int, Callable[..., Any]]] = {}
"""Modules whose forward is shadowed, and by which threads."""


@contextmanager
def skipping(run: "Run", forward: "Forward") -> Iterator[None]:
    """Within the block, skipped modules of this thread's forwards give what the program says."""
    me = threading.get_ident()
    modules = {run.model.submodule(path): path for path in {node.args[0] for node in forward.skips}}
    try:
        for module, path in modules.items():
            _shadow(module, me, _replacement(run, module, path))
        yield
    finally:
        for module in modules:
            _unshadow(module, me)


def _replacement(run: "Run", module: nn.Module, path: str) -> Callable[..., Any]:
    forward = type(module).forward

    def replaced(*args: Any, **kwargs: Any) -> Any:
        return _skip(run, path, lambda: forward(module, *args, **kwargs))

    return replaced


def _skip(run: "Run", path: str, forward: Callable[[], Any]) -> Any:
    """What stands for a module's output; it runs only for other prompts, or to give the rest of a tuple."""
    skips = run.skips_now(path)
    if not skips:
        return forward()
    for node in skips:
        if any(dependency not in run.env for dependency in nodes_in(node.args[1])):
            raise CausalityError(
                f"The skip at {node.line} of {path} needs a value that the model computes only later.",
                remedy="Skip with a value that is known when the module is entered.",
            )
    values = [substitute(node.args[1], run) for node in skips]
    assert run.forward is not None
    alone = len(skips) == 1 and len(run.forward.invokes) == 1
    if alone and not run.model.returns_tuple(path):
        return own(values[0])  # the model may change it in place, at each call of the module
    visit = Visit(forward())
    for node, value in zip(skips, values, strict=True):
        steps: Steps = () if isinstance(value, tuple) else (("main",),)
        visit.write(run.scope_of(node.args[2]), steps, value)
    return visit.raw


def _shadow(module: nn.Module, thread: int, replacement: Callable[..., Any]) -> None:
    original = type(module).forward
    with _lock:
        by_thread = _shadowed.setdefault(module, {})
        by_thread[thread] = replacement
        if "forward" in module.__dict__:
            return

        def forward(*args: Any, **kwargs: Any) -> Any:
            mine = by_thread.get(threading.get_ident())
            return original(module, *args, **kwargs) if mine is None else mine(*args, **kwargs)

        module.__dict__["forward"] = forward


def _unshadow(module: nn.Module, thread: int) -> None:
    with _lock:
        by_thread = _shadowed.get(module, {})
        by_thread.pop(thread, None)
        if not by_thread and module in _shadowed:
            del _shadowed[module]
            module.__dict__.pop("forward", None)
