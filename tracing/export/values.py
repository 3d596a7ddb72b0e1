"""Sites in an exported script: how its parts are read, and how a changed part goes back into the whole."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor

from tracing.export.ops import Expressions
from tracing.graph.heads import HEADS
from tracing.graph.lens import SAME_FOR_TENSORS, Steps, first_name, get
from tracing.graph.text import quoted, view_text

FIRST: Final[tuple[Steps, ...]] = ((("first",),), (("args",), ("index", 0)))
"""The ways to say the first argument."""

LOGITS: Final[tuple[Steps, ...]] = ((("logits",),),)

COPYING: Final = frozenset({"reshape", "reshape_as", "flatten", "ravel"})
"""Views that torch makes copies of where the memory does not lie right."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a value is its prompt's."""

    pad: int = 0
    """Columns before its first token."""
    length: int = 0
    """Positions of the batch."""
    rows: int = 0
    generating: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What a variable of the script holds: a site's whole structure, or its first argument or logits."""

    text: str
    """The variable."""
    value: Any
    """The same on fake tensors."""
    target: str = ""
    """What is assigned to write it back: `model.transformer.h[1].output`."""
    taken: tuple[Steps, ...] = ()
    """First steps that the variable has taken already, in each way to say them."""
    inner: Steps = ()
    """Steps before all others; gradients of parts have some."""
    scope: Scope = Scope()


class Unwritable(Exception):
    """Why a write has no statement."""


class Places:
    """Expressions for parts of what variables hold."""

    def __init__(self, expressions: Expressions) -> None:
        self._expressions = expressions

    def split(self, held: Held, steps: Steps) -> tuple[Steps, Any, Steps]:
        """The steps to the first tensor, it, and the steps inside it."""
        steps = (*held.inner, *steps)
        steps = next((steps[len(first) :] for first in held.taken if steps[: len(first)] == first), steps)
        value = held.value
        for number, step in enumerate(steps):
            if isinstance(value, Tensor):
                return steps[:number], value, tuple(one for one in steps[number:] if one[0] not in SAME_FOR_TENSORS)
            value = get(value, (step,))
        return steps, value, ()

    def read(self, held: Held, steps: Steps) -> str:
        """A part, as its prompt sees it. Raises `Unwritable` for a structure that has padding."""
        prefix, value, rest = self.split(held, steps)
        text = self.walk(held.text, held.value, prefix)
        if isinstance(value, Tensor):
            return self.inside(self.own(text, value, held), rest, held)
        if held.scope.pad and _has_tensors(value):
            raise Unwritable("it is a structure of several tensors, in which padding lies")
        return text

    def walk(self, text: str, value: Any, steps: Steps) -> str:
        """`text` followed by steps through structures."""
        for step in steps:
            if not isinstance(value, Tensor):
                text = self._access(text, value, step)
            value = get(value, (step,))
        return text

    def _access(self, text: str, value: Any, step: tuple[Any, ...]) -> str:
        kind = step[0]
        if kind == "index":
            return f"{text}[{self._expressions.index(step[1])}]"
        if kind == "field":
            return f"{text}.{step[1]}"
        if kind == "logits" and getattr(value, "logits", None) is not None:
            return f"{text}.logits"
        if kind in ("logits", "main"):
            return f"{text}[0]" if isinstance(value, (tuple, list)) else text
        args, kwargs = value
        if kind == "first":
            return f"{text}[0][0]" if args else f"{text}[1][{quoted(first_name(kwargs))}]"
        return f"{text}[0]" if args else f"({text}[1][{quoted(first_name(kwargs))}],)"

    def own(self, text: str, tensor: Tensor, held: Held) -> str:
        """A tensor without the padding before its prompt's first token."""
        scope = held.scope
        if not scope.pad or not tensor.dim():
            return text
        if scope.generating:  # its forwards pass what the fake one does, but not always as many positions
            return f"without_padding({text}, {scope.pad}, {scope.length})"
        padded = [tensor.shape[dim] == scope.length for dim in range(1, tensor.dim())]
        if not any(padded):
            return text
        last = max(number for number, one in enumerate(padded) if one)
        slices = [f"{scope.pad}:" if one else ":" for one in padded[: last + 1]]
        return f"{text}[{', '.join((':', *slices))}]"

    def inside(
        self, text: str, steps: Steps, held: Held | None = None, *, writing: bool = False, grouped: bool = False
    ) -> str:
        """Steps inside a tensor. Raises `Unwritable` for what may copy where a write must reach the whole."""
        for number, step in enumerate(steps):
            kind = step[0]
            if kind == "index":
                text = f"{text}[{self._expressions.index(step[1])}]"
            elif kind == "rows":
                text = f"{text}.unflatten(0, ({0 if held is None else held.scope.rows}, -1))"
            elif kind in HEADS:
                text = heads_text(text, step, grouped=grouped and number == len(steps) - 1)
            elif kind == "view":
                if writing and step[1] in COPYING and number:
                    raise Unwritable(f"{step[1]} may copy there, so that a write would be lost")
                text = view_text(text, step, self._expressions.value, self._expressions.value)
            elif kind == "field":
                text = f"{text}.{step[1]}"
            elif kind == "main":
                text = f"(lambda value: value[0] if isinstance(value, (tuple, list)) else value)({text})"
        return text

    def rebuilt(self, text: str, value: Any, steps: Steps, new: str) -> str:
        """The structure `text` with `new` at `steps`."""
        if not steps:
            return new
        step, kind = steps[0], steps[0][0]
        inner = self.rebuilt(self._access(text, value, step), get(value, (step,)), steps[1:], new)
        if kind in ("first", "args"):
            args, kwargs = value
            if args:
                return f"({inner}, {text}[1])" if kind == "args" else f"(({inner}, *{text}[0][1:]), {text}[1])"
            first = inner if kind == "first" else f"{inner}[0]"
            return f"({text}[0], {{**{text}[1], {quoted(first_name(kwargs))}: {first}}})"
        if isinstance(value, Mapping) or kind == "field" or getattr(value, "logits", None) is not None:
            name = "logits" if kind in ("logits", "main") else step[1]
            return f"replaced({text}, {quoted(name)}, {inner})" if isinstance(name, str) else _unfit(value)
        if isinstance(value, (tuple, list)):
            index = 0 if kind in ("main", "logits") else step[1]
            return _tuple_with(text, value, index, inner)
        return inner

    def tensor(self, held: Held, text: str) -> Held:
        """The same place, held by another variable."""
        return replace(held, text=text)


def _tuple_with(text: str, value: Any, index: Any, new: str) -> str:
    if type(index) is not int:
        return _unfit(value)
    index %= len(value)
    parts = [f"*{text}[:{index}]"] if index else []
    parts.append(new)
    if index + 1 < len(value):
        parts.append(f"*{text}[{index + 1}:]")
    inside = ", ".join(parts)
    return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(parts) == 1 else ''})"


def _unfit(value: Any) -> str:
    raise Unwritable(f"a part of a {type(value).__name__} is written by something other than a whole number or a name")


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    return isinstance(value, (tuple, list)) and any(map(_has_tensors, value))


def copies_heads(step: tuple[Any, ...]) -> bool:
    """Whether heads lie apart in memory, group by group, so that all of them together are a copy."""
    return bool(step[0] == "heads_grouped" and step[1] == 0)


def heads_text(text: str, step: tuple[Any, ...], *, grouped: bool = False) -> str:
    """The heads of a projection; `grouped` leaves the groups of query heads apart, as a write needs them."""
    kind = step[0]
    if kind == "heads":
        _, part, parts, d_head = step
        if parts == 1:
            return f"{text}.unflatten(-1, (-1, {d_head}))"
        return f"{text}.unflatten(-1, ({parts}, -1, {d_head})).select(-3, {part})"
    if kind == "heads_interleaved":
        _, part, parts, d_head = step
        return f"{text}.unflatten(-1, (-1, {parts}, {d_head})).select(-2, {part})"
    if kind == "heads_grouped":
        _, part, n_heads, n_kv, d_head = step
        group = n_heads // n_kv
        where = f":{group}" if part == 0 else f"{group + part - 1}:{group + part}"
        split = f"{text}.unflatten(-1, ({n_kv}, {group + 2}, {d_head}))[..., {where}, :]"
        return split if grouped else f"{split}.flatten(-3, -2)"
    _, part, n_heads, d_head = step
    where = f":{n_heads}" if part == 0 else f"{n_heads + part - 1}:{n_heads + part}"
    return f"{text}.unflatten(-1, ({n_heads + 2}, {d_head}))[..., {where}, :]"
