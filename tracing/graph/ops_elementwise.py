"""Rows of the op table: what acts on each element, comparisons, logic, and the activations of `torch`.

A row is name → (function, schema); `tracing.graph.ops_schema` explains the schemas.
"""

from typing import Final

import torch

from tracing.graph import ops_python as ours
from tracing.graph.ops_schema import Row, words

_UNARY: Final = words(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sin cos tan asin acos atan sinh cosh tanh asinh "
    "acosh atanh sigmoid relu ceil floor trunc frac erf erfc erfinv sign sgn signbit lgamma digamma sinc deg2rad "
    "rad2deg isnan isinf isfinite isposinf isneginf logical_not bitwise_not real imag angle"
)

_BINARY: Final = words(
    "maximum minimum fmax fmin atan2 hypot logaddexp logaddexp2 nextafter gcd lcm logical_and logical_or logical_xor "
    "heaviside"
)

ROWS: Final[dict[str, Row]] = {
    # -- operators: also for Python numbers, such as shapes and items ------------------------------------------------
    "add": (ours.add, "input N|shape, other N|shape, *, alpha number=, out none="),
    "sub": (ours.sub, "input N, other N, *, alpha number=, out none="),
    "rsub": (ours.swapped(ours.sub), "input N, other N"),
    "mul": (ours.mul, "input N, other N, *, out none="),
    "div": (ours.div, 'input N, other N, *, rounding_mode "trunc"|"floor"|none=, out none='),
    "rdiv": (ours.swapped(ours.div), "input N, other N"),
    "floor_divide": (ours.floor_divide, "input N, other N, *, out none="),
    "rfloor_divide": (ours.swapped(ours.floor_divide), "input N, other N"),
    "remainder": (ours.remainder, "input N, other N, *, out none="),
    "rremainder": (ours.swapped(ours.remainder), "input N, other N"),
    "pow": (ours.power, "input N, exponent N, *, out none="),
    "rpow": (ours.swapped(ours.power), "input N, other N"),
    "neg": (ours.neg, "input N"),
    "positive": (ours.positive, "input N"),
    "abs": (ours.absolute, "input N"),
    "eq": (ours.eq, "input N|dtype|device, other N|dtype|device|shape|none"),
    "ne": (ours.ne, "input N|dtype|device, other N|dtype|device|shape|none"),
    "lt": (ours.lt, "input N, other N"),
    "le": (ours.le, "input N, other N"),
    "gt": (ours.gt, "input N, other N"),
    "ge": (ours.ge, "input N, other N"),
    "bitwise_and": (ours.bitwise_and, "input N, other N"),
    "bitwise_or": (ours.bitwise_or, "input N, other N"),
    "bitwise_xor": (ours.bitwise_xor, "input N, other N"),
    # -- one tensor, two tensors -------------------------------------------------------------------------------------
    **{name: (getattr(torch, name), "input T, *, out none=") for name in _UNARY},
    **{name: (getattr(torch, name), "input T, other T, *, out none=") for name in _BINARY},
    "fmod": (torch.fmod, "input T, other N"),
    "copysign": (torch.copysign, "input T, other N"),
    "float_power": (torch.float_power, "input N, exponent N"),
    "ldexp": (torch.ldexp, "input T, other T"),
    "xlogy": (torch.xlogy, "input N, other N"),
    "clamp": (torch.clamp, "input T, min N?=, max N?=, *, out none="),
    "clamp_min": (torch.clamp_min, "input T, min N"),
    "clamp_max": (torch.clamp_max, "input T, max N"),
    "round": (torch.round, "input T, *, decimals int="),
    "nan_to_num": (torch.nan_to_num, "input T, nan number?=, posinf number?=, neginf number?="),
    "logit": (torch.logit, "input T, eps number?="),
    "lerp": (torch.lerp, "input T, end T, weight N"),
    "addcmul": (torch.addcmul, "input T, tensor1 T, tensor2 T, *, value number="),
    "addcdiv": (torch.addcdiv, "input T, tensor1 T, tensor2 T, *, value number="),
    "softmax": (torch.softmax, "input T, dim dim, dtype dtype?="),
    "log_softmax": (torch.log_softmax, "input T, dim dim, dtype dtype?="),
    "prelu": (torch.prelu, "input T, weight T"),
    "hardshrink": (torch.hardshrink, "input T, lambd number="),
    "isclose": (torch.isclose, "input T, other T, rtol number=, atol number=, equal_nan bool="),
    "allclose": (torch.allclose, "input T, other T, rtol number=, atol number=, equal_nan bool="),
    "equal": (torch.equal, "input T, other T"),
    "complex": (torch.complex, "real T, imag T"),
    "polar": (torch.polar, "abs T, angle T"),
    "view_as_real": (torch.view_as_real, "input T"),
    "view_as_complex": (torch.view_as_complex, "input T"),
    "special.entr": (torch.special.entr, "input T"),
    "special.logsumexp": (torch.special.logsumexp, "input T, dim dims, keepdim bool="),
    "special.softmax": (torch.special.softmax, "input T, dim dim, dtype dtype?="),
    "special.log_softmax": (torch.special.log_softmax, "input T, dim dim, dtype dtype?="),
    "special.ndtr": (torch.special.ndtr, "input T"),
}
