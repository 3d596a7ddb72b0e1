"""Arguments as a user gives them: nests with proxies in them, indices of any kind of whole number."""

import operator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from tracing.graph.operators import Operators
from tracing.graph.saved import Saved

if TYPE_CHECKING:
    from tracing.graph.recorder import Recorder


_PLAIN: Final = frozenset({int, type(None), type(Ellipsis), str, bool})
"""Types of most indices and of their parts, which are Python's own."""


def is_proxy(value: object) -> bool:
    """Whether a value is a proxy, saved or not."""
    return issubclass(type(value), Operators)


def recorder_in(values: Any) -> "Recorder | None":
    """The open recorder of the first live proxy in a nest of arguments."""
    for value in values:
        kind = type(value)
        if kind is Saved:
            value, kind = value._proxy, Operators
        if issubclass(kind, Operators):
            if value._base.recorder.open:
                return value._base.recorder  # type: ignore[no-any-return]
        elif kind is tuple or kind is list:
            found = recorder_in(value)
            if found is not None:
                return found
    return None


def plain(value: Any) -> Any:
    """A nest with saved proxies replaced by their values."""
    kind = type(value)
    if issubclass(kind, Operators):
        return value.value
    if kind is tuple:
        return tuple(map(plain, value))
    if kind is list:
        return [plain(item) for item in value]
    if kind is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


def plain_index(key: Any) -> Any:
    """An index with NumPy's whole numbers and torch's, which select a view as Python's do, as Python's."""
    kind = type(key)
    if kind in _PLAIN:
        return key
    if kind is tuple:
        return tuple(map(plain_index, key))
    if kind is slice:
        if type(key.start) in _PLAIN and type(key.stop) in _PLAIN and type(key.step) in _PLAIN:
            return key
        return slice(plain_index(key.start), plain_index(key.stop), plain_index(key.step))
    if kind is Saved and not key._proxy._base.recorder.open:
        key, kind = key.value, Tensor
    if kind is Tensor:
        whole = not key.dim() and not (key.is_floating_point() or key.is_complex() or key.dtype == torch.bool)
        return int(key) if whole and not key.is_meta else key
    return operator.index(key) if kind.__module__ == "numpy" and kind.__name__.startswith(("int", "uint")) else key


def is_view_index(key: Any) -> bool:
    """Whether an index is made of whole numbers, slices, names, None and `...`, so that torch gives a view."""
    if type(key) is tuple:
        return all(map(is_view_index, key))
    if isinstance(key, slice):
        return all(part is None or type(part) is int for part in (key.start, key.stop, key.step))
    return key is None or key is Ellipsis or (isinstance(key, (int, str)) and not isinstance(key, bool))
