"""The operations of the table that are functions of ours: operators that also take Python numbers, indexing, factories.

Each is pure: it returns a new value and never writes to an argument. Values that are not tensors come from operations
such as `item` and `shape`; their arithmetic is bounded, so that no graph can grow an integer without end.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

MAX_ELEMENTS: Final = 2**31
"""Most elements of a tensor that a graph makes out of nothing."""
MAX_SEQUENCE: Final = 4096
"""Most entries of a tuple that a graph builds by joining others."""
_MAX_INT: Final = 2**63
INTERPOLATION: Final = '"linear"|"lower"|"higher"|"midpoint"|"nearest"'
"""Schema of the ways in which a quantile is taken between two values."""

Function = Callable[..., Any]


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
        raise OverflowError("a whole number of this trace left the range of 64 bits")
    return value


def _plain_power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) > 64 and abs(base) > 1:
        raise OverflowError(f"{base} ** {exponent} leaves the range of 64 bits")
    return base**exponent


def _plain_add(left: Any, right: Any) -> Any:
    if isinstance(left, tuple) and isinstance(right, tuple):  # `x.shape[:-1] + (heads, d_head)`
        if len(left) + len(right) > MAX_SEQUENCE:
            raise OverflowError(f"a joined tuple has more than {MAX_SEQUENCE} entries")
        return tuple(left) + tuple(right)
    return _numbers_only(operator.add)(left, right)


def _numbers_only(plain: Function) -> Function:
    """`plain` for two Python numbers, with a bounded result; TypeError for anything else."""

    def apply(left: object, right: object) -> Any:
        if not (_number(left) and _number(right)):
            names = f"{type(left).__name__} and {type(right).__name__}"
            raise TypeError(f"this operation takes tensors and numbers, not {names}")
        return _bounded(plain(left, right))

    return apply


def _comparable(plain: Function) -> Function:
    """`==` and `!=` of numbers, dtypes, devices and shapes."""

    def apply(left: object, right: object) -> Any:
        allowed = (int, float, tuple, torch.dtype, torch.device, type(None))
        if not (isinstance(left, allowed) and isinstance(right, allowed)):
            names = f"{type(left).__name__} and {type(right).__name__}"
            raise TypeError(f"{names} cannot be compared in a trace")
        return plain(left, right)

    return apply


def binary(of_tensors: Function, symbol: Function, plain: Function) -> Function:
    """One operation for tensors (`of_tensors`), a number before a tensor (`symbol`), and two numbers (`plain`)."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 2 or isinstance(args[0], Tensor):
            return of_tensors(*args, **kwargs)
        if isinstance(args[1], Tensor):
            return symbol(*args)
        return plain(*args)

    return apply


def unary(of_tensors: Function, plain: Function) -> Function:
    """One operation for a tensor and for a Python number."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and len(args) == 1 and _number(args[0]):
            return _bounded(plain(args[0]))
        return of_tensors(*args, **kwargs)

    return apply


add = binary(torch.add, operator.add, _plain_add)
sub = binary(torch.sub, operator.sub, _numbers_only(operator.sub))
mul = binary(torch.mul, operator.mul, _numbers_only(operator.mul))
div = binary(torch.div, operator.truediv, _numbers_only(operator.truediv))
floor_divide = binary(torch.floor_divide, operator.floordiv, _numbers_only(operator.floordiv))
remainder = binary(torch.remainder, operator.mod, _numbers_only(operator.mod))
power = binary(torch.pow, operator.pow, _numbers_only(_plain_power))
eq = binary(torch.eq, operator.eq, _comparable(operator.eq))
ne = binary(torch.ne, operator.ne, _comparable(operator.ne))
lt = binary(torch.lt, operator.lt, _numbers_only(operator.lt))
le = binary(torch.le, operator.le, _numbers_only(operator.le))
gt = binary(torch.gt, operator.gt, _numbers_only(operator.gt))
ge = binary(torch.ge, operator.ge, _numbers_only(operator.ge))
bitwise_and = binary(torch.bitwise_and, operator.and_, _numbers_only(operator.and_))
bitwise_or = binary(torch.bitwise_or, operator.or_, _numbers_only(operator.or_))
bitwise_xor = binary(torch.bitwise_xor, operator.xor, _numbers_only(operator.xor))
neg = unary(torch.neg, operator.neg)
positive = unary(torch.positive, operator.pos)
absolute = unary(torch.abs, operator.abs)


def getitem(value: Any, index: Any) -> Any:
    """`value[index]` of a tensor, a tuple, a list, a mapping, or what a model of transformers returned."""
    if isinstance(value, (Tensor, tuple, list, Mapping)) or type(value).__module__.startswith("transformers."):
        return value[index]
    raise TypeError(f"a {type(value).__name__} cannot be indexed in a trace")


def swapped(function: Function) -> Function:
    """`function` with its two operands exchanged: the reflected operators, called as tensor methods."""

    def apply(value: Any, other: Any, **kwargs: Any) -> Any:
        return function(other, value, **kwargs)

    return apply


def tensor_where(value: Tensor, condition: Tensor, other: Any) -> Tensor:
    """`value.where(condition, other)`: the method's order of arguments."""
    return torch.where(condition, value, other)


# -- fields of named results -------------------------------------------------------------------------------------------
RESULT_FIELDS: Final = frozenset(
    {
        "values", "indices", "U", "S", "V", "Vh", "Q", "R", "L", "LU", "eigenvalues", "eigenvectors", "logabsdet",
        "solution", "residuals", "singular_values",
    }
)  # fmt: skip
"""Fields of the named tuples that operations return: `topk(...).indices`."""


# -- properties --------------------------------------------------------------------------------------------------------
T: Final[Function] = operator.attrgetter("T")
mT: Final[Function] = operator.attrgetter("mT")  # noqa: N816 (torch's name)
H: Final[Function] = operator.attrgetter("H")
mH: Final[Function] = operator.attrgetter("mH")  # noqa: N816
dtype: Final[Function] = operator.attrgetter("dtype")
device: Final[Function] = operator.attrgetter("device")


def shape(value: Tensor) -> tuple[int, ...]:
    """The tensor's `torch.Size`, so that its numbers can be used while the trace runs."""
    return value.shape


def copy_to(value: Tensor, source: Any) -> Tensor:
    """What `value.copy_(source)` leaves in `value`: `source` in the dtype, on the device and in the shape of it."""
    return torch.empty_like(value).copy_(source)


# -- factories: the only ops that make memory out of nothing -----------------------------------------------------------
def _within(count: float, what: str) -> None:
    if count > MAX_ELEMENTS:
        raise ValueError(f"{what} would make {count:.0f} elements; a trace makes at most {MAX_ELEMENTS}")


def _sizes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    sizes = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    sizes = kwargs.get("size", sizes)
    return math.prod(int(size) for size in (sizes if isinstance(sizes, (tuple, list)) else (sizes,)))


def zeros(*size: Any, **kwargs: Any) -> Tensor:
    """`torch.zeros`, bounded."""
    _within(_sizes(size, kwargs), "zeros")
    return torch.zeros(*size, **kwargs)


def ones(*size: Any, **kwargs: Any) -> Tensor:
    """`torch.ones`, bounded."""
    _within(_sizes(size, kwargs), "ones")
    return torch.ones(*size, **kwargs)


def full(size: Any, fill_value: Any, **kwargs: Any) -> Tensor:
    """`torch.full`, bounded."""
    _within(_sizes((size,), {}), "full")
    return torch.full(size, fill_value, **kwargs)


def new_zeros(value: Tensor, /, *size: Any, **kwargs: Any) -> Tensor:
    """`Tensor.new_zeros`, bounded."""
    _within(_sizes(size, kwargs), "new_zeros")
    return value.new_zeros(*size, **kwargs)


def new_ones(value: Tensor, /, *size: Any, **kwargs: Any) -> Tensor:
    """`Tensor.new_ones`, bounded."""
    _within(_sizes(size, kwargs), "new_ones")
    return value.new_ones(*size, **kwargs)


def new_full(value: Tensor, size: Any, fill_value: Any, **kwargs: Any) -> Tensor:
    """`Tensor.new_full`, bounded."""
    _within(_sizes((size,), {}), "new_full")
    return value.new_full(size, fill_value, **kwargs)


def arange(*bounds: Any, **kwargs: Any) -> Tensor:
    """`torch.arange(end)`, `(start, end)`, `(start, end, step)`, bounded."""
    names = ("start", "end", "step") if len(bounds) != 1 else ("end",)
    given = {"start": 0, "step": 1, **dict(zip(names, bounds, strict=False)), **kwargs}
    _within(abs((given["end"] - given["start"]) / given["step"]), "arange")
    return torch.arange(*bounds, **kwargs)


def eye(*counts: Any, **kwargs: Any) -> Tensor:
    """`torch.eye(n)` or `(n, m)`, bounded."""
    rows = counts[0] if counts else kwargs["n"]
    columns = counts[1] if len(counts) > 1 else kwargs.get("m", rows)
    _within(rows * columns, "eye")
    return torch.eye(*counts, **kwargs)


def linspace(start: Any, end: Any, steps: Any, **kwargs: Any) -> Tensor:
    """`torch.linspace`, bounded."""
    _within(steps, "linspace")
    return torch.linspace(start, end, steps, **kwargs)


# -- in-place methods as pure functions --------------------------------------------------------------------------------
def in_place(method: Function, plain: Function | None = None) -> Function:
    """The value that `method` (`Tensor.add_`, …) leaves in its tensor, computed on a copy.

    The copy keeps torch's rules of writing in place: the tensor's dtype and shape stay, and an operand that does not
    fit is torch's own error. `plain` serves Python numbers, which `+=` and its kin replace.
    """

    def apply(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        if plain is not None and not isinstance(value, Tensor):
            return plain(value, *args, **kwargs)
        return method(value.clone(), *args, **kwargs)

    return apply
