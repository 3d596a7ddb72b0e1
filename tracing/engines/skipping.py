"""`module.skip(value)`: the module does not run, and the value stands for its output.

torch has no hook that keeps a forward from running, so the instance's `forward` is shadowed for the time of a trace, by
a function that does so in the tracing thread only. Where only some prompts of a batch skip, the module runs for the
others, and the skipping prompts' rows are replaced.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from tracing.engines.notes import annotate
from tracing.engines.rows import own
from tracing.engines.values import SKIPPED
from tracing.engines.visit import Visit
from tracing.errors import CausalityError
from tracing.graph.lens import Steps
from tracing.graph.nodes import nodes_in, substitute

if TYPE_CHECKING:
    from tracing.engines.program import Forward
    from tracing.engines.run import Run

Replacement = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called with the forward that it stands for, and what that was to be called with."""


class _Shadow:
    """Stands for a module's forward while some thread skips the module."""

    __slots__ = ("before", "module", "own", "threads")

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.own = "forward" in module.__dict__
        """Whether the instance had a forward of its own, as accelerate, PEFT and taps of attention give one."""
        self.before: Callable[..., Any] = module.forward
        self.threads: dict[int, Replacement] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        mine = self.threads.get(threading.get_ident())
        return self.before(*args, **kwargs) if mine is None else mine(self.before, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.before, memo)  # a copy of the module is skipped by nobody

    def take_away(self) -> None:
        """Put back what stood there, unless somebody has put something else there meanwhile: that stays."""
        attributes = self.module.__dict__
        if attributes.get("forward") is not self:
            return
        if self.own:
            attributes["forward"] = self.before
        else:
            del attributes["forward"]


_lock = threading.Lock()
_shadows: dict[nn.Module, _Shadow] = {}


@contextmanager
def skipping(run: "Run", forward: "Forward") -> Iterator[None]:
    """Within the block, skipped modules of this thread's forwards give what the program says."""
    me = threading.get_ident()
    modules = {run.model.submodule(path): path for path in {node.args[0] for node in forward.skips}}
    try:
        for module, path in modules.items():
            _shadow(module, me, _replacement(run, path))
        yield
    finally:
        for module in modules:
            _unshadow(module, me)


def _replacement(run: "Run", path: str) -> Replacement:
    def replaced(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _skip(run, path, lambda: forward(*args, **kwargs))

    return replaced


def _skip(run: "Run", path: str, forward: Callable[[], Any]) -> Any:
    """What stands for a module's output; it runs only for other prompts, or to give the rest of a tuple."""
    if run.quiet:  # called beside the forward
        return forward()
    skips = run.skips_now(path)
    if not skips:
        return forward()
    for node in skips:
        if any(dependency not in run.env for dependency in nodes_in(node.args[1])):
            raise CausalityError(
                f"The skip at {node.line} of {path} needs a value that the model computes only later.",
                remedy="Skip with a value that is known when the module is entered.",
            )
    given = [(node, substitute(node.args[1], run)) for node in skips]
    given = [(node, value) for node, value in given if value is not SKIPPED]
    if not given:
        return forward()
    assert run.forward is not None
    alone = len(given) == 1 and len(run.forward.invokes) == 1
    if alone and not run.model.returns_tuple(path):
        return own(given[0][1])  # the model may change it in place, at each call of the module
    visit = Visit(forward())
    for node, value in given:
        steps: Steps = () if isinstance(value, tuple) else (("main",),)
        try:
            visit.write(run.scope_of(node.args[2]), steps, value)
        except Exception as error:
            annotate(error, node, run.env)
            raise
    return visit.raw


def note_tuples(run: "Run", forward: "Forward", error: Exception) -> None:
    """Say of an error of the model where it was given a tuple for a module that perhaps returns a tensor."""
    if getattr(error, "_tracing_line", None) is None:
        for node in run.passed.intersection(forward.skips):
            if isinstance(node.args[1], (tuple, list)):
                error.add_note(
                    f'The skip recorded at File "{node.line.file}", line {node.line.number}, in {node.line.function} '
                    f"gives a tuple for {node.args[0]}: if that returns one tensor, give the tensor."
                )


def _shadow(module: nn.Module, thread: int, replacement: Replacement) -> None:
    with _lock:
        shadow = _shadows.get(module)
        if shadow is None:
            standing = module.__dict__.get("forward")  # one that a tap of another thread has put back
            shadow = _shadows[module] = standing if type(standing) is _Shadow else _Shadow(module)
            module.__dict__["forward"] = shadow
        shadow.threads[thread] = replacement


def _unshadow(module: nn.Module, thread: int) -> None:
    with _lock:
        shadow = _shadows.get(module)
        if shadow is None:
            return
        shadow.threads.pop(thread, None)
        if not shadow.threads:
            del _shadows[module]
            shadow.take_away()
