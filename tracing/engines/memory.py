"""Which values may lie in the memory of others.

A table operation is pure, but some give their argument itself or a view of it. Where that is a tensor of the model,
which the model may change once its module is left, the value needs memory of its own.
"""

from typing import Any, Final

from torch import Tensor

from tracing.engines.visit import Part
from tracing.graph.nodes import Node
from tracing.graph.ops import TABLE, VIEWS

MAY_SHARE: Final = VIEWS | {
    "H", "adjoint", "atleast_1d", "atleast_2d", "broadcast_tensors", "broadcast_to", "contiguous", "einsum", "expand",
    "expand_as", "getitem", "imag", "linalg.diagonal", "mH", "meshgrid", "positive", "real", "split_with_sizes",
    "tensor_split", "unfold", "view_as_complex", "view_as_real",
    "to", "cpu", "type_as", "float", "double", "half", "bfloat16", "long", "int", "short", "char", "byte", "bool",
}  # fmt: skip
"""Operations whose result may lie in the memory of an argument."""


def is_made(node: Any) -> bool:
    """Whether a value is a new tensor, whatever the operation was given."""
    return type(node) is Node and node.op in TABLE and node.op not in MAY_SHARE


def may_lie_in(value: Any, base: Any) -> bool:
    """Whether a result lies in its argument's memory; of a structure, that is taken to be so."""
    raw = base.raw if type(base) is Part else base
    if isinstance(value, Tensor) and isinstance(raw, Tensor):
        return bool(value.untyped_storage()._cdata == raw.untyped_storage()._cdata)
    return True
