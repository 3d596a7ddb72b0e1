"""The op table: every operation that a graph can hold, by name. What is not here cannot be expressed.

The rows are in `ops_elementwise`, `ops_tensor` and `ops_functional`. This module joins them, finds the name of a torch
function or tensor method, and says which are views, properties and in-place methods.

No operation gets an attribute by name, calls a value, opens a file, reads memory outside its tensors, leaves memory
uninitialised, draws random numbers, or changes an argument or torch's state. `REFUSED` says why names that users try
are not here.
"""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from tracing.errors import GraphFormatError
from tracing.graph import ops_elementwise, ops_functional, ops_python, ops_tensor
from tracing.graph.ops_schema import Op, check_call, words

_ROWS: Final = {**ops_elementwise.ROWS, **ops_tensor.ROWS, **ops_functional.ROWS}

# -- in-place methods ------------------------------------------------------------------------------------------------
_IN_PLACE_METHODS: Final = words(
    "add sub mul div floor_divide remainder fmod pow neg abs exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square "
    "reciprocal sin cos tan sinh cosh tanh asin acos atan sigmoid relu ceil floor trunc frac round erf sign clamp "
    "clamp_min clamp_max nan_to_num lerp addcmul addcdiv maximum logical_not logical_and logical_or logical_xor "
    "bitwise_and bitwise_or bitwise_xor bitwise_not eq ne lt le gt ge cumsum cumprod tril triu addmm addmv baddbmm "
    "fill copy masked_fill masked_scatter scatter scatter_add scatter_reduce index_add index_copy index_fill index_put "
    "multiply subtract divide true_divide clip absolute negative xlogy copysign atan2 hypot logit renorm"
)
_FUNCTIONAL_NAMES: Final = {
    "copy": "copy_to", "multiply": "mul", "subtract": "sub", "divide": "div", "true_divide": "div", "clip": "clamp",
    "absolute": "abs", "negative": "neg",
}  # fmt: skip


def _in_place_rows() -> dict[str, tuple[Callable[..., Any], str]]:
    """`add_` and its kin: what the method leaves in its tensor, in its dtype and shape, as a new tensor."""
    rows: dict[str, tuple[Callable[..., Any], str]] = {}
    for stem in _IN_PLACE_METHODS:
        name = _FUNCTIONAL_NAMES.get(stem, stem)
        method = getattr(Tensor, f"{stem}_", None)
        if method is None or name not in _ROWS or (stem != "copy" and stem in _FUNCTIONAL_NAMES):
            continue
        function, schema = _ROWS[name]
        plain = function if stem in ("add", "sub", "mul", "div", "floor_divide", "remainder", "pow") else None
        rows[f"{stem}_"] = (ops_python.in_place(method, plain), schema.removesuffix(", *, out none="))
    rows["zero_"] = (torch.zeros_like, "input T")
    rows["fill_diagonal_"] = (ops_python.in_place(Tensor.fill_diagonal_), "self T, fill_value number, wrap bool=")
    return rows


_IN_PLACE_ROWS: Final = _in_place_rows()

TABLE: Final[Mapping[str, Op]] = MappingProxyType(
    {name: Op(name, function, schema) for name, (function, schema) in {**_ROWS, **_IN_PLACE_ROWS}.items()}
)
"""Every operation by name. `TABLE["softmax"].function` is pure: it changes none of its arguments."""

INPLACE: Final[Mapping[str, str]] = MappingProxyType(
    {name: name for name in _IN_PLACE_ROWS}
    | {f"{stem}_": f"{name}_" for stem, name in _FUNCTIONAL_NAMES.items() if f"{name}_" in _IN_PLACE_ROWS}
)
"""In-place method → the operation that gives the value it would leave, from (tensor, *args)."""

# -- names of functions and methods ----------------------------------------------------------------------------------
METHOD_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "absolute": "abs", "negative": "neg", "multiply": "mul", "subtract": "sub", "divide": "div",
        "true_divide": "div", "clip": "clamp", "arctan2": "atan2", "arccos": "acos", "arcsin": "asin",
        "arctan": "atan", "arccosh": "acosh", "arcsinh": "asinh", "arctanh": "atanh", "fix": "trunc",
        "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "ger": "outer",
        "ndimension": "dim", "nelement": "numel", "where": "tensor_where",
    }
)  # fmt: skip
_NOT_METHODS: Final = frozenset(
    {"where", "complex", "polar", "tensor_where", "getitem", "shape", "dtype", "device", "T", "mT", "H", "mH", "real",
     "imag", "copy_to", "stack", "cat"}
)  # fmt: skip
"""Ops that are no method of a tensor, or one with other arguments, or a property."""

METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {name: name for name in _ROWS if "." not in name and name not in _NOT_METHODS and hasattr(Tensor, name)}
    | {alias: name for alias, name in METHOD_ALIASES.items() if hasattr(Tensor, alias) and name in _ROWS}
)
"""Tensor method → op. The op takes the tensor first."""

PROPERTIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "shape": "shape", "ndim": "dim", "dtype": "dtype", "device": "device", "T": "T", "mT": "mT", "H": "H",
        "mH": "mH", "real": "real", "imag": "imag", "itemsize": "element_size",
    }
)  # fmt: skip
"""Tensor property → op of one tensor."""

VIEWS: Final = frozenset(
    {
        "transpose", "permute", "view", "view_as", "reshape", "reshape_as", "unflatten", "flatten", "ravel", "squeeze",
        "unsqueeze", "narrow", "select", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "diagonal", "T", "mT",
        "detach", "split", "chunk", "unbind",
    }
)  # fmt: skip
"""Ops whose result is a view of their first argument, so that a write to the result reaches it."""

PARTS: Final = frozenset({"split", "chunk", "unbind"})
"""Views that are a tuple of views."""

RESULT_FIELDS: Final = ops_python.RESULT_FIELDS

_FUNCTION_ALIASES: Final[dict[str, tuple[Any, ...]]] = {
    "abs": (torch.absolute,),
    "neg": (torch.negative,),
    "mul": (torch.multiply,),
    "sub": (torch.subtract,),
    "rsub": (torch.rsub, Tensor.__rsub__),
    "div": (torch.divide, torch.true_divide),
    "rdiv": (Tensor.__rdiv__,),
    "rfloor_divide": (Tensor.__rfloordiv__,),
    "floor_divide": (Tensor.__floordiv__,),
    "rremainder": (Tensor.__rmod__,),
    "pow": (Tensor.__pow__,),
    "rpow": (Tensor.__rpow__,),
    "rmatmul": (Tensor.__rmatmul__,),
    "bitwise_and": (Tensor.__and__, Tensor.__rand__),
    "bitwise_or": (Tensor.__or__, Tensor.__ror__),
    "bitwise_xor": (Tensor.__xor__, Tensor.__rxor__),
    "bitwise_not": (Tensor.__invert__,),
    "getitem": (Tensor.__getitem__,),
    "clamp": (torch.clip,),
    "atan2": (torch.arctan2,),
    "gt": (torch.greater,),
    "ge": (torch.greater_equal,),
    "lt": (torch.less,),
    "le": (torch.less_equal,),
    "ne": (torch.not_equal,),
    "cat": (torch.concat, torch.concatenate),
    "vstack": (torch.row_stack,),
    "outer": (torch.ger,),
    "sigmoid": (torch.special.expit,),
    "exp2": (torch.special.exp2,),
    "round": (torch.special.round,),
    "xlogy": (torch.special.xlogy,),
    "norm": (torch.functional.norm, Tensor.norm),
    "tensor_where": (Tensor.where,),
    "unique": (torch.functional.unique, Tensor.unique),
}


def _names_by_function() -> dict[Any, str]:
    """Which op a function is, as `__torch_function__` receives it."""
    names: dict[Any, str] = {}
    for name, op in TABLE.items():
        if name in _IN_PLACE_ROWS:  # written into a plain tensor, these could not be deferred
            continue
        names.setdefault(op.function, name)
        if "." not in name and name not in ("tensor_where", "copy_to") and callable(getattr(torch, name, None)):
            names[getattr(torch, name)] = name
    for method, name in METHODS.items():
        names[getattr(Tensor, method)] = name
    for name, functions in _FUNCTION_ALIASES.items():
        names.update(dict.fromkeys(functions, name))
    for attribute, name in PROPERTIES.items():
        names[getattr(Tensor, attribute).__get__] = name
    return names


_NAMES: Final = _names_by_function()


def op_of(function: Callable[..., Any]) -> str | None:
    """The op of a torch function or tensor method, as `__torch_function__` receives it; None if it is not one."""
    try:
        return _NAMES.get(function)
    except TypeError:  # not hashable
        return None


# -- what is refused -------------------------------------------------------------------------------------------------
_RANDOM: Final = "it draws random numbers: draw them before the trace and use the tensor"
_UNINITIALISED: Final = "it shows uninitialised memory: use zeros_like"
_MEMORY: Final = "it reaches memory outside its tensor"
_OUTSIDE: Final = "it leaves torch: save the value and use it after the trace"
_STATE: Final = "it changes a tensor's or torch's state"
REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            words(
                "dropout feature_dropout alpha_dropout rand randn randint randperm rand_like randn_like randint_like "
                "bernoulli multinomial normal poisson normal_ uniform_ random_ bernoulli_ exponential_ cauchy_ "
                "log_normal_ geometric_ gumbel_softmax rrelu"
            ),
            _RANDOM,
        ),
        **dict.fromkeys(words("empty empty_like new_empty empty_strided resize_ resize_as_"), _UNINITIALISED),
        **dict.fromkeys(words("as_strided as_strided_ set_ data_ptr storage untyped_storage data"), _MEMORY),
        **dict.fromkeys(words("numpy __array__ to_dense save load from_file from_numpy __reduce__"), _OUTSIDE),
        **dict.fromkeys(
            words(
                "requires_grad_ detach_ squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ share_memory_ "
                "register_hook set_grad_enabled manual_seed apply_ map_"
            ),
            _STATE,
        ),
        "new_tensor": "make the tensor before the trace and use it",
        "new": _UNINITIALISED,
        "type": "use to(dtype)",
        "cuda": 'use to("cuda")',
    }
)
"""Names that users try and that no graph holds, with the reason."""


def suggestions(name: str) -> list[str]:
    """Up to three operations with a name near to this one, best first."""
    short = name.rsplit(".", 1)[-1].lower()
    known = {op.rsplit(".", 1)[-1].lower(): op for op in _ROWS}
    known |= {name: name for name in (*METHODS, *PROPERTIES, *INPLACE, *RESULT_FIELDS)}
    return [known[near] for near in difflib.get_close_matches(short[:100], known, n=3, cutoff=0.7)]


def refusal(name: str) -> str:
    """Why a graph never holds this operation; "" where there is no special reason."""
    return REFUSED.get(name.rsplit(".", 1)[-1], "")


def check(op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Check the arguments of an operation of the table; nodes stand for any value.

    Raises `GraphFormatError` naming the operation, the argument and what it takes.
    """
    found = TABLE.get(op)
    if found is None:
        reason = refusal(op)
        near = suggestions(op)
        hint = f" ({reason})" if reason else f" Did you mean {', '.join(near)}?" if near else ""
        raise GraphFormatError(f"There is no operation {op[:80]!r}.{hint}")
    check_call(found, args, kwargs)
