"""The operators of proxies, `a + b` and `a += b`, from one table: recorded while the trace is, computed afterwards."""

import operator
from collections.abc import Callable
from typing import Any

from tracing.graph import ops


class Operators:
    """A class with every operator, each of which comes down to `_operate` or `_operate_in_place`."""

    __slots__ = ()

    def _operate(self, op: str, function: Callable[..., Any], *operands: Any) -> Any:
        raise NotImplementedError

    def _operate_in_place(self, op: str, function: Callable[..., Any], other: Any) -> Any:
        raise NotImplementedError

    def __dir__(self) -> list[str]:
        """Attributes, and the operations that a graph holds."""
        return [*super().__dir__(), *ops.METHODS, *ops.PROPERTIES, *ops.INPLACE]


def _binary(op: str, function: Callable[[Any, Any], Any], *, swapped: bool = False) -> Callable[[Operators, Any], Any]:
    def method(self: Operators, other: Any) -> Any:
        return self._operate(op, function, *((other, self) if swapped else (self, other)))

    return method


def _unary(op: str, function: Callable[[Any], Any]) -> Callable[[Operators], Any]:
    def method(self: Operators) -> Any:
        return self._operate(op, function, self)

    return method


def _augmented(op: str, function: Callable[[Any, Any], Any]) -> Callable[[Operators, Any], Any]:
    def method(self: Operators, other: Any) -> Any:
        return self._operate_in_place(op, function, other)

    return method


_BINARY: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "add": ("add", operator.add),
    "sub": ("sub", operator.sub),
    "mul": ("mul", operator.mul),
    "truediv": ("div", operator.truediv),
    "floordiv": ("floor_divide", operator.floordiv),
    "mod": ("remainder", operator.mod),
    "pow": ("pow", operator.pow),
    "matmul": ("matmul", operator.matmul),
    "and": ("bitwise_and", operator.and_),
    "or": ("bitwise_or", operator.or_),
    "xor": ("bitwise_xor", operator.xor),
}
for _name, (_op, _function) in _BINARY.items():
    setattr(Operators, f"__{_name}__", _binary(_op, _function))
    setattr(Operators, f"__r{_name}__", _binary(_op, _function, swapped=True))
    setattr(Operators, f"__i{_name}__", _augmented(_op, _function))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Operators, f"__{_name}__", _binary(_name, getattr(operator, _name)))
for _name, _op in {"neg": "neg", "pos": "positive", "abs": "abs", "invert": "bitwise_not"}.items():
    setattr(Operators, f"__{_name}__", _unary(_op, getattr(operator, _name)))
