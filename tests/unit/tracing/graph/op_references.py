"""What each operation of the table is to compute: the operator, function or method that it is named after."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

REFERENCES: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, **k: torch.add(a, b, **k) if k else (*a, *b) if isinstance(a, tuple) else a + b,
    "sub": lambda a, b, **k: torch.sub(a, b, **k) if k else a - b,
    "rsub": lambda a, b: b - a,
    "mul": lambda a, b: a * b,
    "div": lambda a, b, **k: torch.div(a, b, **k) if k else a / b,
    "rdiv": lambda a, b: b / a,
    "floor_divide": lambda a, b: a // b,
    "rfloor_divide": lambda a, b: b // a,
    "remainder": lambda a, b: a % b,
    "rremainder": lambda a, b: b % a,
    "pow": lambda a, b: a**b,
    "rpow": lambda a, b: b**a,
    "rmatmul": lambda a, b: b @ a,
    "neg": lambda a: -a,
    "positive": lambda a: +a,
    "abs": abs,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "getitem": lambda a, b: a[b],
    "tensor_where": lambda a, condition, b: a.where(condition, b),
    "copy_to": lambda a, b: a.clone().copy_(b if isinstance(b, Tensor) else torch.tensor(b)),
    **{name: (lambda a, name=name: getattr(a, name)) for name in ("T", "mT", "H", "mH", "shape", "dtype", "device")},
}
"""What each op of ours stands for, written as a user would; all others are torch's, found by name."""


def reference(name: str) -> Callable[..., Any]:
    """The torch function or method that an op is named after, found without the table."""
    if name in REFERENCES:
        return REFERENCES[name]
    if name.endswith("_"):
        return lambda value, /, *args, **kwargs: getattr(value.clone(), name)(*args, **kwargs)
    module, _, function = name.rpartition(".")
    home = {"": torch, "F": torch.nn.functional, "linalg": torch.linalg, "fft": torch.fft, "special": torch.special}
    found = getattr(home[module], function, None)
    use_method = (
        not callable(found)
        or isinstance(found, type)
        or name in ("reshape", "permute", "tile", "flip", "split", "size", "dtype")
    )
    return getattr(Tensor, function) if use_method else found
