"""`Saved`: what `.save()` returns, a real `torch.Tensor` object, so that C code may read the value's memory.

While the trace is recorded it forwards everything to its proxy. When the value is known, the value's memory becomes
this object's own (`publish`), and everything is forwarded to the value.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from tracing.graph.operators import Operators

if TYPE_CHECKING:
    from tracing.graph.proxy import Proxy

_NOT_YET: Final = torch.empty(0, device="meta")
"""What C code finds before the value is known: a tensor that has no data to read."""

_OWN: Final = frozenset(
    {
        "_proxy", "_operate", "_operate_in_place", "__class__", "__dict__", "__torch_function__", "__reduce_ex__",
        "__deepcopy__",
    }
)  # fmt: skip


class Saved(Operators, Tensor):
    """A saved value: the proxy while its trace is recorded, the tensor afterwards."""

    _proxy: "Proxy"

    @staticmethod
    def of(proxy: "Proxy") -> "Saved":
        """The saved face of a proxy."""
        made: Saved = Tensor._make_subclass(Saved, _NOT_YET)
        object.__getattribute__(made, "__dict__")["_proxy"] = proxy
        return made

    # -- everything is the proxy's, which is the value's when there is one ---------------------------------------------
    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_proxy"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._proxy, name, value)

    def _operate(self, op: str, function: Callable[..., Any], *operands: Any) -> Any:
        return self._proxy._operate(op, function, *operands)

    def _operate_in_place(self, op: str, function: Callable[..., Any], other: Any) -> Any:
        result = self._proxy._operate_in_place(op, function, other)
        return self if result is self._proxy else result

    def __len__(self) -> int:
        return len(self._proxy)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._proxy)

    def __contains__(self, item: object) -> bool:
        return item in self._proxy

    def __reversed__(self) -> Any:
        return self._proxy.flip(0)

    def __bool__(self) -> bool:
        return bool(self._proxy)

    def __int__(self) -> int:
        return int(self._proxy)

    def __float__(self) -> float:
        return float(self._proxy)

    def __complex__(self) -> complex:
        return complex(self._proxy.value)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self._proxy.value, digits)

    def __index__(self) -> int:
        return self._proxy.__index__()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._proxy.__array__(dtype, copy)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return repr(self._proxy)

    def __str__(self) -> str:
        return str(self._proxy)

    def __format__(self, specification: str) -> str:
        return format(self._proxy, specification)

    def __dir__(self) -> list[str]:
        return dir(self._proxy.value if self._proxy._resolved() else self._proxy)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._proxy(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._proxy.value.__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._proxy.value.__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Indexing arrives here: with a __getitem__ of our own, torch would take the object for a list of numbers.
        if function is Tensor.__getitem__ and type(args[0]) is Saved:
            return args[0]._proxy[args[1]]
        if function is Tensor.__setitem__ and type(args[0]) is Saved:
            args[0]._proxy[args[1]] = args[2]
            return None
        return _proxy_class(args, kwargs or {}).__torch_function__(function, types, args, kwargs)


def _proxy_class(args: Any, kwargs: dict[str, Any]) -> Any:
    """The class of the proxy behind the first saved value in the arguments of a torch function."""
    for value in (*args, *kwargs.values()):
        if type(value) is Saved:
            return type(value._proxy)
        if isinstance(value, (tuple, list)):
            found = _proxy_class(value, {})
            if found is not None:
                return found
    return None


def publish(saved: Saved, value: Any) -> None:
    """Let C code see the value's memory in the saved object; a number is seen as a tensor of it.

    To be called outside of inference mode, so that the object is an ordinary tensor.
    """
    if isinstance(value, (bool, int, float, complex)):
        value = torch.tensor(value)
    if isinstance(value, Tensor):
        torch._C._swap_tensor_impl(saved, value.detach())
