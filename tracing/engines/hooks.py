"""Hooks that cannot leak and cannot touch another thread's forward."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

PreHook = Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]] | None]
PostHook = Callable[[Any], Any]


class Hooks:
    """Registers hooks that fire only in the thread that made them; `hooks()` removes them all."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._handles: list[RemovableHandle] = []

    def before(self, module: nn.Module, hook: PreHook) -> None:
        """Call `hook(args, kwargs)` before the module runs; what it returns replaces them."""

        def guarded(_: nn.Module, args: Any, kwargs: Any = None) -> Any:
            # A hook taken off while another thread's forward iterates is called there without kwargs.
            return hook(args, kwargs) if threading.get_ident() == self._thread else None

        self._handles.append(module.register_forward_pre_hook(guarded, with_kwargs=True))

    def after(self, module: nn.Module, hook: PostHook) -> None:
        """Call `hook(output)` after the module ran; what it returns, unless None, replaces the output."""

        def guarded(_: nn.Module, *arguments: Any) -> Any:
            return hook(arguments[-1]) if threading.get_ident() == self._thread else None

        self._handles.append(module.register_forward_hook(guarded))

    def remove(self) -> None:
        """Take all hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@contextmanager
def _hooks() -> Iterator[Hooks]:
    registered = Hooks()
    try:
        yield registered
    finally:
        registered.remove()


def hooks() -> AbstractContextManager[Hooks]:
    """`with hooks() as h: …`: whatever happens inside, the modules end up without these hooks."""
    return _hooks()


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states a block, attention or norm was called with, positional or not."""
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, Tensor)
    return value


def with_first_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with other hidden states."""
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": value}


def main_output(output: Any) -> Tensor:
    """The tensor of a module's output: the output itself, or the first of a tuple (attention returns weights too)."""
    value = output[0] if isinstance(output, tuple) else output
    assert isinstance(value, Tensor)
    return value


def with_main_output(output: Any, value: Tensor) -> Any:
    """The same output with another main tensor."""
    return (value, *output[1:]) if isinstance(output, tuple) else value
