"""What torch's kernels refuse although its shape functions, which run on fake tensors, let it pass.

A scan would know a shape for a call that the run then refuses. Four rules, with torch's own type and words: axes of
softmax and sort, operands of one dtype for products, index tensors within their range, and values that fit the place
they are written to.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from tracing.graph.lens import Steps, get
from tracing.graph.ops import TABLE
from tracing.graph.ops_schema import parse, words

_AXIS: Final = frozenset(words("softmax special.softmax F.softmax F.softmin sort argsort"))
_ONE_DTYPE: Final = frozenset(
    words(
        "matmul rmatmul mm mv addmm addmv F.linear cross linalg.cross cdist complex polar heaviside index_add "
        "index_copy F.conv1d F.conv2d F.binary_cross_entropy"
    )
)
_OTHER_DTYPE: Final = frozenset({"index"})
"""Operands that may be of another dtype."""


def check_call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise what the kernel of an operation of the table would; arguments are fake tensors and plain values."""
    if name in _AXIS:
        given = dict(_named(name, args, kwargs))
        check_axis(given.get("input"), given.get("dim"))
    elif name in _ONE_DTYPE:
        tensors = [value for key, value in _named(name, args, kwargs) if key not in _OTHER_DTYPE]
        check_dtypes([value for value in tensors if isinstance(value, Tensor)])
    elif name == "index_put":
        check_fits(args[0], (("index", tuple(args[1])),), args[2])


def check_axis(value: Any, axis: Any) -> None:
    """Raises IndexError for an axis that a tensor does not have."""
    if not isinstance(value, Tensor) or type(axis) is not int:
        return
    count = max(value.dim(), 1)
    if not -count <= axis < count:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-count}, {count - 1}], but got {axis})")


def check_dtypes(tensors: list[Tensor]) -> None:
    """Raises RuntimeError for operands of unequal dtypes, where nothing casts them."""
    first = next(iter(tensors), None)
    if first is None or torch.is_autocast_enabled(first.device.type):
        return
    for other in tensors[1:]:
        if other.dtype != first.dtype:
            raise RuntimeError(f"expected operands of the same dtype, but got: {first.dtype} != {other.dtype}")


def check_fits(value: Any, steps: Steps, new: Any) -> None:
    """Raises RuntimeError where `new` cannot be written to the elements that the last step, an index, picks."""
    if not steps or steps[-1][0] != "index" or not isinstance(new, Tensor):
        return
    picked = get(value, steps)
    whole = get(value, steps[:-1])
    if not isinstance(picked, Tensor) or not isinstance(whole, Tensor):
        return
    shape = tuple(new.shape)
    while shape and shape[0] == 1 and len(shape) > picked.dim():
        shape = shape[1:]  # as torch's own assignment drops leading axes of size 1
    if not _broadcasts(shape, picked.shape):
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(new.shape)} cannot be broadcast to indexing result of shape "
            f"{list(picked.shape)}"
        )
    if _by_tensor(steps[-1][1]) and new.dtype != whole.dtype:
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {whole.dtype} for the destination and "
            f"{new.dtype} for the source."
        )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    last = to[len(to) - len(shape) :]
    return len(shape) <= len(to) and all(one in (1, other) for one, other in zip(shape, last, strict=True))


def check_index(value: Any, steps: Steps) -> None:
    """Raises IndexError where a known tensor or list of positions picks one that is not there."""
    for number, step in enumerate(steps):
        if step[0] != "index" or not _by_tensor(step[1]) or _is_fake(step[1]):
            continue
        whole = get(value, steps[:number])
        if isinstance(whole, Tensor):
            shape = tuple(whole.shape)
            with unset_fake_temporarily():  # the same index of a tensor of this shape that takes one byte
                _ = torch.zeros((), dtype=torch.bool).expand(shape)[step[1]]


def _is_fake(key: Any) -> bool:
    return isinstance(key, FakeTensor) or (isinstance(key, (tuple, list)) and any(map(_is_fake, key)))


def _by_tensor(key: Any) -> bool:
    return isinstance(key, (Tensor, list)) or (isinstance(key, tuple) and any(map(_by_tensor, key)))


def _named(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arguments by the names of the operation's schema."""
    positional = parse(TABLE[name].schema).positional
    yield from ((parameter.name, value) for parameter, value in zip(positional, args, strict=False))
    yield from (("dim" if key == "axis" else key, value) for key, value in kwargs.items())
