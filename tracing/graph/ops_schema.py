"""Schemas of operations: which argument takes what. Used on graphs from outside, never while recording.

A schema is text, parsed when it is first needed: `"input T, dim dims?=, *, dtype dtype?="`. Each entry is a name and
the kinds it takes, `|` between them; `?` also takes None, `=` may be left out, a bare `*` starts the arguments that
are given by keyword only, and `*name` takes all remaining positions, or one sequence of them.
Values of other nodes fit wherever data can stand: tensors, numbers, sizes, dtypes, devices; never where the schema
wants one of a closed set of words, a constant, or an equation.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from tracing.errors import GraphFormatError
from tracing.graph.nodes import Node

Row = tuple[Callable[..., Any], str]

MAX_INT: Final = 2**63
MAX_SIZE: Final = 2**31
"""Largest single size, and most elements of a tensor that is made or expanded."""
MAX_COUNT: Final = 2**20
"""Largest count: of chunks, repetitions, classes, bins, items of top-k."""
MAX_DIMS: Final = 64
MAX_ITEMS: Final = 4096
"""Most entries of a sequence."""
MAX_DEPTH: Final = 16
MAX_WORD: Final = 200

_ALIASES: Final = {
    "axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other",
}  # fmt: skip
"""Numpy's names, which torch takes as well."""
DEVICE: Final = re.compile(r"(cpu|mps|(cuda|xpu)(:\d{1,2})?)")
_EQUATION: Final = re.compile(r"[A-Za-z.,\s]{0,200}(->[A-Za-z.\s]{0,100})?")


def words(text: str) -> list[str]:
    """Names written as one text, for rows that differ in their names only."""
    return text.split()


class Op(NamedTuple):
    """One operation of the table."""

    name: str
    function: Callable[..., Any]
    schema: str


class Parameter(NamedTuple):
    """One argument of a schema."""

    name: str
    kinds: tuple[str, ...]
    optional: bool


class Schema(NamedTuple):
    """A parsed schema: `rest` takes all remaining positions."""

    positional: tuple[Parameter, ...]
    rest: Parameter | None
    keywords: Mapping[str, Parameter]


@lru_cache(maxsize=1024)
def parse(text: str) -> Schema:
    """Read a schema. Raises ValueError for text that is none: a fault of the table."""
    positional: list[Parameter] = []
    keywords: dict[str, Parameter] = {}
    rest: Parameter | None = None
    by_keyword = False
    for entry in text.split(", "):
        if entry == "*":
            by_keyword = True
            continue
        name, _, kinds = entry.strip().partition(" ")
        optional, kinds = kinds.endswith("="), kinds.removesuffix("=")
        names = (*kinds.removesuffix("?").split("|"), *(["none"] if kinds.endswith("?") else []))
        unknown = [kind for kind in names if kind not in _KINDS and not kind.startswith('"')]
        if unknown or not name:
            raise ValueError(f"schema {text!r}: no kind {', '.join(unknown)}")
        if name.startswith("*"):
            rest, by_keyword = Parameter(name[1:], names, True), True
            keywords[name[1:]] = rest
            continue
        parameter = Parameter(name, names, optional)
        keywords[name] = parameter
        if not by_keyword:
            positional.append(parameter)
    return Schema(tuple(positional), rest, keywords)


def check_call(op: Op, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `GraphFormatError` naming the argument that `op` does not take."""
    schema = parse(op.schema)
    given: set[str] = set()
    for parameter, value in zip(schema.positional, args, strict=False):
        given.add(parameter.name)
        _check(op.name, parameter, value)
    surplus = args[len(schema.positional) :]
    if surplus:
        if schema.rest is None:
            raise GraphFormatError(f"{op.name} takes {len(schema.positional)} positional arguments, not {len(args)}.")
        given.add(schema.rest.name)
        _check(op.name, schema.rest, surplus[0] if len(surplus) == 1 else surplus)
    for name, value in kwargs.items():
        known = name if name in schema.keywords else _ALIASES.get(name, name)
        keyword = schema.keywords.get(known)
        if keyword is None:
            near = difflib.get_close_matches(str(name)[:MAX_WORD], schema.keywords, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise GraphFormatError(f"{op.name} has no argument {str(name)[:MAX_WORD]!r}.{hint}")
        if known in given:
            raise GraphFormatError(f"{op.name} is given {known!r} twice.")
        given.add(known)
        _check(op.name, keyword, value)
    missing = [p.name for p in schema.positional if not p.optional and p.name not in given]
    missing += [n for n, p in schema.keywords.items() if not p.optional and n not in given and n not in missing]
    if missing:
        raise GraphFormatError(f"{op.name} lacks its argument {missing[0]!r}.")


def _check(op: str, parameter: Parameter, value: Any) -> None:
    for kind in parameter.kinds:
        if kind.startswith('"'):
            if isinstance(value, str) and value == kind[1:-1]:
                return
        elif _KINDS[kind](value):
            return
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    takes = " or ".join(_NAMES.get(kind, kind) for kind in parameter.kinds)
    raise GraphFormatError(f"{op}: argument {parameter.name!r} takes {takes}, not {shown}.")


# -- kinds ------------------------------------------------------------------------------------------------------------
def is_ref(value: object) -> bool:
    """Whether a value comes from another node."""
    return isinstance(value, Node)


def _plain_int(value: object, low: int = -MAX_INT, high: int = MAX_INT - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: object) -> bool:
    return is_ref(value) or isinstance(value, (bool, float)) or _plain_int(value)


def _tensor(value: object) -> bool:
    return is_ref(value) or isinstance(value, Tensor)


def _between(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: is_ref(value) or _plain_int(value, low, high)


def _sequence(of: Callable[[Any], bool], limit: int = MAX_ITEMS) -> Callable[[Any], bool]:
    """One value, or a sequence of them; a node may stand for either."""

    def check(value: Any) -> bool:
        if isinstance(value, (tuple, list)):
            return len(value) <= limit and all(map(of, value))
        return of(value)

    return check


def _product(of: Callable[[Any], bool], most: int) -> Callable[[Any], bool]:
    """A sequence whose numbers, multiplied, stay within `most`."""
    within = _sequence(of, MAX_DIMS)

    def check(value: Any) -> bool:
        items = value if isinstance(value, (tuple, list)) else (value,)
        return within(value) and math.prod(item for item in items if isinstance(item, int) and item > 0) <= most

    return check


def _tensors(value: Any) -> bool:
    if is_ref(value) or isinstance(value, Tensor):
        return True
    return isinstance(value, (tuple, list)) and len(value) <= MAX_ITEMS and all(map(_tensor, value))


def _one_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) <= MAX_DIMS and all(map(_SIZE, value))


def _axes(value: Any) -> bool:
    """`tensordot(dims=2)` or `dims=([1], [0])`."""
    if isinstance(value, (tuple, list)):
        return len(value) <= 2 and all(map(_sequence(_DIM, MAX_DIMS), value))
    return _between(0, MAX_DIMS)(value)


def _device(value: object) -> bool:
    if is_ref(value):
        return True
    return isinstance(value, (str, torch.device)) and DEVICE.fullmatch(str(value)) is not None


def _equation(value: object) -> bool:
    return isinstance(value, str) and _EQUATION.fullmatch(value) is not None


def _scale(value: Any) -> bool:
    def one(item: Any) -> bool:
        return is_ref(item) or (isinstance(item, (int, float)) and 0 < item <= MAX_DIMS)

    return _sequence(one, 3)(value)


def plain_word(value: object) -> bool:
    """A short name that is no dunder: a key of a mapping, a field."""
    return isinstance(value, str) and 0 < len(value) <= MAX_WORD and not value.startswith("_")


def is_index(value: Any, depth: int = 0) -> bool:
    """What may stand in `value[...]`."""
    if isinstance(value, (tuple, list)):
        return depth < 4 and len(value) <= MAX_ITEMS and all(is_index(item, depth + 1) for item in value)
    if isinstance(value, slice):
        return all(part is None or is_ref(part) or _plain_int(part) for part in (value.start, value.stop, value.step))
    if value is None or value is Ellipsis or isinstance(value, bool):
        return True
    return _tensor(value) or _plain_int(value) or (depth == 0 and plain_word(value))


_DIM: Final = _between(-MAX_DIMS, MAX_DIMS - 1)
_SIZE: Final = _between(-1, MAX_SIZE)
_COUNT: Final = _between(0, MAX_COUNT)

_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "T": _tensor,
    "N": lambda value: _tensor(value) or _number(value),
    "Ts": _tensors,
    "number": _number,
    "int": _between(-MAX_INT, MAX_INT - 1),
    "small": _between(-MAX_COUNT, MAX_COUNT),
    "ints": _sequence(_between(-MAX_INT, MAX_INT - 1)),
    "count": _COUNT,
    "bool": lambda value: is_ref(value) or isinstance(value, bool),
    "dim": _DIM,
    "dims": _sequence(_DIM, MAX_DIMS),
    "axes": _axes,
    "sizes": _product(_SIZE, MAX_SIZE),
    "made": _product(_between(0, MAX_SIZE), MAX_SIZE),
    "repeats": _product(_COUNT, MAX_COUNT),
    "pads": _sequence(_between(-(2**16), 2**16), MAX_DIMS),
    "window": _sequence(_between(0, 2**12), 3),
    "scale": _scale,
    "shape": _one_shape,
    "index": is_index,
    "dtype": lambda value: is_ref(value) or isinstance(value, torch.dtype),
    "device": _device,
    "memory_format": lambda value: isinstance(value, torch.memory_format),
    "equation": _equation,
    "none": lambda value: value is None,
    "false": lambda value: value is False,
    "zero": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0,
}

_NAMES: Final = {
    "T": "a tensor",
    "N": "a tensor or a number",
    "Ts": f"a sequence of at most {MAX_ITEMS} tensors",
    "number": "a number",
    "int": "a whole number of 64 bits",
    "small": f"a whole number up to {MAX_COUNT}",
    "ints": "whole numbers of 64 bits",
    "count": f"a whole number from 0 to {MAX_COUNT}",
    "bool": "true or false",
    "dim": f"a dimension ({-MAX_DIMS} to {MAX_DIMS - 1})",
    "dims": f"dimensions ({-MAX_DIMS} to {MAX_DIMS - 1})",
    "axes": "a number of dimensions, or two lists of dimensions",
    "sizes": f"sizes whose product is at most {MAX_SIZE}",
    "made": f"sizes whose product is at most {MAX_SIZE}",
    "repeats": f"repetitions whose product is at most {MAX_COUNT}",
    "pads": "widths up to 65536",
    "window": "at most three whole numbers up to 4096",
    "scale": f"at most three factors up to {MAX_DIMS}",
    "index": "an index (whole numbers, slices, names, tensors)",
    "dtype": "a dtype",
    "device": "a device (cpu, cuda, cuda:0, mps, xpu)",
    "memory_format": "a memory format",
    "equation": "an einsum equation",
    "none": "null",
    "false": "false",
    "zero": "0 (a graph draws no random numbers)",
}
