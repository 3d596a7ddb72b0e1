"""Operations of the op table as the torch calls that a Python script writes for them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from tracing.graph.nodes import Node
from tracing.graph.ops import TABLE
from tracing.graph.text import ATTRIBUTES, SYMBOLS, arguments, index_text, literal

_SWAPPED: Final = {"rsub": "sub", "rdiv": "div", "rfloor_divide": "floor_divide", "rremainder": "remainder",
                   "rpow": "pow", "rmatmul": "matmul"}  # fmt: skip
_UNARY: Final = {"neg": "-", "positive": "+", "bitwise_not": "~"}
_NUMBERS: Final = frozenset({"item", "size", "dim", "numel", "tolist", "element_size", "stride"})
"""Operations whose result is no tensor."""


class Expressions:
    """Python expressions for nodes of the op table."""

    def __init__(self, name: Callable[[Node], str], constant: Callable[[Tensor], str]) -> None:
        self._name = name
        self._constant = constant

    def value(self, value: Any) -> str:
        """Any argument. Raises `TypeError` for an object that has no literal."""
        return literal(value, self._name, self._constant)

    def operand(self, value: Any) -> str:
        """An argument beside a symbol or before a dot."""
        text = self.value(value)
        return f"({text})" if isinstance(value, (int, float)) and text.startswith("-") else text

    def call(self, args: Any, kwargs: Mapping[str, Any]) -> str:
        """Arguments in parentheses."""
        return f"({arguments(args, kwargs, self._name, self._constant)})"

    def index(self, index: Any) -> str:
        """What stands in brackets."""
        return index_text(index, self._name, self._constant)

    def of(self, node: Node) -> str:
        """The expression of a node whose operation is in the table. Raises `LookupError` for one without a call."""
        op, args, kwargs = node.op, node.args, node.kwargs
        if op in _SWAPPED and len(args) == 2 and not kwargs:
            return f"{self.operand(args[1])} {SYMBOLS[_SWAPPED[op]]} {self.operand(args[0])}"
        if op in SYMBOLS and len(args) == 2 and not kwargs:
            return f"{self.operand(args[0])} {SYMBOLS[op]} {self.operand(args[1])}"
        if op in _UNARY and len(args) == 1 and not kwargs:
            return f"{_UNARY[op]}{self.operand(args[0])}"
        if op == "getitem":
            return f"{self.operand(args[0])}[{self.index(args[1])}]"
        if op in ATTRIBUTES:
            return f"{self.operand(args[0])}.{op}"
        if op == "abs" and not isinstance(args[0], Tensor):  # of a tensor or of a number
            return f"abs({self.value(args[0])})"
        if op == "tensor_where":
            return f"{self.operand(args[0])}.where{self.call(args[1:], kwargs)}"
        if op == "copy_to":
            return f"torch.empty_like({self.value(args[0])}).copy_{self.call(args[1:], kwargs)}"
        if op == "copy_":
            return f"{self.operand(args[0])}.clone().copy_{self.call(args[1:], kwargs)}"
        if op == "zero_":
            return f"torch.zeros_like{self.call(args, kwargs)}"
        if op.endswith("_") and op in TABLE:
            return self._in_place(node)
        return self._function(node)

    def _in_place(self, node: Node) -> str:
        args, stem = node.args, node.op.removesuffix("_")
        first = args[0]
        if stem in SYMBOLS and isinstance(first, Node) and first.op in _NUMBERS:
            return f"{self.operand(first)} {SYMBOLS[stem]} {self.operand(args[1])}"
        return f"{self.operand(first)}.clone().{node.op}{self.call(args[1:], node.kwargs)}"

    def _function(self, node: Node) -> str:
        op, args, kwargs = node.op, node.args, node.kwargs
        start, dot, rest = op.partition(".")
        if dot and hasattr(torch.nn.functional if start == "F" else getattr(torch, start, None), rest):
            return f"{op if start == 'F' else f'torch.{op}'}{self.call(args, kwargs)}"
        if not dot and TABLE[op].function is getattr(Tensor, op, None) and args:
            return f"{self.operand(args[0])}.{op}{self.call(args[1:], kwargs)}"
        if not dot and callable(getattr(torch, op, None)):
            return f"torch.{op}{self.call(args, kwargs)}"
        if not dot and hasattr(Tensor, op) and args:
            return f"{self.operand(args[0])}.{op}{self.call(args[1:], kwargs)}"
        raise LookupError(op)
