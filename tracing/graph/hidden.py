"""`HiddenState`: what a cache gives for a residual block, indexed by the rule that holds for a block in a trace."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from tracing.graph.proxy_kinds import block_index


class HiddenState(Tensor):
    """The hidden state of a block, `[batch, position, d_model]`: `[0]` is the whole of it, another number an error.

    So `cache[path].output[0]` is what `block.output[0]` is. All else, and all that is computed from it, is as of an
    ordinary tensor. It shares the memory of the tensor that it is made of.
    """

    @staticmethod
    def of(value: Any) -> Any:
        """A tensor, or the list of those of several steps, seen so; anything else as it is."""
        if isinstance(value, list):
            return [HiddenState.of(one) for one in value]
        return value.as_subclass(HiddenState) if isinstance(value, Tensor) else value

    def _plain(self) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(kind not in _ORDINARY and kind is not cls for kind in types):
            return NotImplemented  # a value of a trace knows what to do
        # Indexing arrives here: with a __getitem__ of its own, torch would take the object for a list of numbers.
        if function in _INDEXING and type(args[0]) is cls:
            args = (args[0]._plain(), block_index(args[1]), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._plain().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._plain().__deepcopy__(memo)  # type: ignore[no-untyped-call]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return repr(self._plain())

    def __format__(self, specification: str) -> str:
        return format(self._plain(), specification)


_ORDINARY: Final = (Tensor, nn.Parameter)
_INDEXING: Final = (Tensor.__getitem__, Tensor.__setitem__)
