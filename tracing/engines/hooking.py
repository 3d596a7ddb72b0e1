"""The hooks of one forward: on the modules that its nodes name, only in this thread, gone afterwards."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from torch import nn
from torch.utils.hooks import RemovableHandle

from tracing.engines.attention import Taps, tapped
from tracing.engines.program import Forward, Place
from tracing.engines.run import Run
from tracing.engines.skipping import skipping

TAPS: Final = frozenset({"q_rot", "k_rot", "v", "scores", "pattern"})
"""Kinds of sites that lie inside attention."""


@contextmanager
def hooked(run: Run, forward: Forward, *, steps: bool = False) -> Iterator[None]:
    """Let the run see the sites of a forward; with `steps` also count calls of the model as generation steps."""
    handles: list[RemovableHandle] = []
    try:
        _register(run, forward, steps, handles)
        taps = _taps(run, forward)
        if not (taps or forward.eager or forward.skips):
            yield
            return
        with ExitStack() as stack:
            if taps or forward.eager:
                stack.enter_context(tapped(run.model.module, taps, eager=forward.eager))
            if forward.skips:
                stack.enter_context(skipping(run, forward))
            yield
    finally:
        for handle in handles:
            handle.remove()


def _register(run: Run, forward: Forward, steps: bool, handles: list[RemovableHandle]) -> None:
    """Hook the modules whose output or input the forward's nodes name."""
    me = threading.get_ident()
    if steps:
        handles.append(run.model.module.register_forward_pre_hook(_count_steps(run, me)))
    for place in forward.sites:
        path, kind = place
        if kind == "output":
            handles.append(run.model.submodule(path).register_forward_hook(_after(run, place, me)))
        elif kind == "inputs":
            module = run.model.submodule(path)
            handles.append(module.register_forward_pre_hook(_before(run, place, me), with_kwargs=True))


def _count_steps(run: Run, me: int) -> Any:
    def hook(module: nn.Module, *_: Any) -> None:
        if threading.get_ident() == me:
            run.next_step()

    return hook


def _after(run: Run, place: Place, me: int) -> Any:
    def hook(module: nn.Module, *arguments: Any) -> Any:
        if threading.get_ident() != me:
            return None
        output = arguments[-1]
        changed = run.visit(place, output)
        return None if changed is output else changed

    return hook


def _before(run: Run, place: Place, me: int) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        # A hook that its thread removes while another iterates is called there without kwargs; here it is not ours.
        if threading.get_ident() != me:
            return None
        before = (args, kwargs)
        changed = run.visit(place, before)
        return None if changed is before else changed

    return hook


def _taps(run: Run, forward: Forward) -> dict[nn.Module, Taps]:
    kinds: dict[str, set[str]] = {}
    for path, kind in forward.sites:
        if kind in TAPS:
            kinds.setdefault(path, set()).add(kind)
    return {
        run.model.submodule(path): Taps(
            _visitor(run, path, frozenset(named)),
            frozenset(named),
            frozenset(kind for kind in named if (path, kind) in forward.written),
        )
        for path, named in kinds.items()
    }


def _visitor(run: Run, path: str, named: frozenset[str]) -> Any:
    def visit(kind: str, tensor: Any) -> Any:
        return run.visit((path, kind), tensor) if kind in named else tensor

    return visit
