"""A graph as text for people: one line a node, as Python writes it.

    %0 = site transformer.h.5.output [prompt 0]  # notebook.py:4
    %1 = %0[:, -1]  # notebook.py:4
    %2 = softmax(%1, dim=-1)  # notebook.py:5  → saved
    %3 = write(%0[:, -1], %2)  → transformer.h.5.output [prompt 0]  # notebook.py:6

A site is written as the module's path and what of it; `[prompt 0]` is whose rows, where there are several prompts. A
write makes a new version of the site that it names behind the arrow.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from tracing.graph.lines import NOWHERE, Line
from tracing.graph.nodes import Graph, Guard, Node, Site, Stage

Name = Callable[[Node], str]
"""How a node is called in an expression."""

_MOST_LITERALS: Final = 16
"""Most numbers of a constant that are written out."""

SYMBOLS: Final[Mapping[str, str]] = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floor_divide": "//", "remainder": "%", "pow": "**",
    "matmul": "@", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
"""Operations of two operands that Python has a symbol for."""

ATTRIBUTES: Final = frozenset({"shape", "dtype", "device", "T", "mT", "H", "mH"})
"""Operations that are an attribute of a tensor."""


# -- values -----------------------------------------------------------------------------------------------------------
def literal(value: Any, name: Name, constant: Callable[[Tensor], str]) -> str:
    """A value as a Python expression; nodes by `name`, tensors by `constant`. Raises `TypeError` for an object."""
    if isinstance(value, Node):
        return name(value)
    if isinstance(value, Tensor):
        return constant(value)
    if isinstance(value, (tuple, list)):
        items = ", ".join([literal(item, name, constant) for item in value])
        if isinstance(value, list):
            return f"[{items}]"
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, Mapping):
        pairs = (f"{quoted(key)}: {literal(item, name, constant)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, slice):
        parts = (literal(part, name, constant) for part in (value.start, value.stop, value.step))
        return f"slice({', '.join(parts)})"
    return _plain(value)


def _plain(value: Any) -> str:
    """A value that holds no others."""
    if value is Ellipsis:
        return "..."
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    raise TypeError(f"a {type(value).__name__} has no text")


def quoted(text: str) -> str:
    """Text as a Python literal, in double quotes where that needs no more escapes."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in text and "\\'" not in plain else plain


def one_line(line: Line) -> str:
    """A line of the user's code as a comment; a stored graph's may hold anything, line breaks too."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(line))


def index_text(index: Any, name: Name, constant: Callable[[Tensor], str]) -> str:
    """What stands between the brackets: `:, -1`."""
    if isinstance(index, tuple) and index:
        items = ", ".join(index_text(item, name, constant) for item in index)
        return f"{items}," if len(index) == 1 else items
    if isinstance(index, slice):
        start, stop = ("" if part is None else literal(part, name, constant) for part in (index.start, index.stop))
        step = "" if index.step is None else f":{literal(index.step, name, constant)}"
        return f"{start}:{stop}{step}"
    return literal(index, name, constant)


def steps_text(text: str, steps: tuple[Any, ...], name: Name, constant: Callable[[Tensor], str]) -> str:
    """`text` followed by the steps into it: `%1[:, -1].transpose(0, 1)`."""
    for step in steps:
        kind = step[0]
        if kind == "index":
            text = f"{text}[{index_text(step[1], name, constant)}]"
        elif kind == "field":
            text = f"{text}.{step[1]}"
        elif kind == "view":
            text = view_text(text, step, name, constant)
        elif kind in ("main", "logits"):
            text = f"{text}.{kind}"
        elif kind in ("first", "args"):
            text = f"{text}.{'input' if kind == 'first' else 'args'}"
        else:
            text = f"{text}.{kind}({', '.join(literal(part, name, constant) for part in step[1:])})"
    return text


def view_text(text: str, step: tuple[Any, ...], name: Name, constant: Callable[[Tensor], str]) -> str:
    """A viewing operation of the table, as a method."""
    _, op, args, kwargs = step
    return f"{text}.{op}" if op in ATTRIBUTES else f"{text}.{op}({arguments(args, kwargs, name, constant)})"


def arguments(args: Any, kwargs: Mapping[str, Any], name: Name, constant: Callable[[Tensor], str]) -> str:
    """Arguments of a call."""
    given = [literal(value, name, constant) for value in args]
    given += [f"{key}={literal(value, name, constant)}" for key, value in kwargs.items()]
    return ", ".join(given)


# -- graphs -----------------------------------------------------------------------------------------------------------
def graph_text(graph: Graph) -> str:
    """The whole graph, one line a node, the traces of a session apart."""
    stages = graph.stages if len(graph.stages) > 1 else ()
    lines = [_stage_text(graph, stage) for stage in stages]
    return "\n".join((*lines, *(_line(graph, node) for node in graph.nodes)))


def _stage_text(graph: Graph, stage: Stage) -> str:
    prompts = [str(invoke.index) for invoke in graph.invokes if invoke.stage == stage.index]
    return f"trace {stage.index}: {stage.mode} of {'prompts' if len(prompts) > 1 else 'prompt'} {', '.join(prompts)}"


def _line(graph: Graph, node: Node) -> str:
    notes = list(_guards(node.guard))
    if node.loop is not None:
        notes.append(f"at steps {', '.join(map(str, node.loop.steps))}")
    if node.id in graph.saves:
        name = graph.saves[node.id]
        notes.append(f"→ saved as {quoted(name)}" if name else "→ saved")
    if node.line != NOWHERE:
        notes.append(f"# {one_line(node.line)}")
    return "  ".join((f"%{node.id} = {_expression(node, len(graph.invokes) > 1)}", *notes))


def _guards(guard: Guard | None) -> Iterator[str]:
    while guard is not None:
        yield f"if {'' if guard.expected else 'not '}%{guard.condition.id}"
        guard = guard.outer


def _expression(node: Node, several: bool) -> str:
    if node.op == "site":
        return f"site {_site(node.args[0], several)}"
    if node.op == "part":
        return _steps(node.args[0], node.args[1])
    if node.op == "write":
        base, steps, new, site = node.args
        reached = "" if site is None else f"  → {_site(site, several)}"
        return f"write({_steps(base, steps)}, {_value(new)}){reached}"
    if node.op == "grad":
        return f"{_steps(node.args[1], node.args[2])}.grad of backward {node.args[0].step}"
    if node.op == "backward":
        loss, gradient, number = node.args
        return f"backward {number} of {_value(loss)}{'' if gradient is None else f', gradient={_value(gradient)}'}"
    if node.op == "module":
        path, args, kwargs = node.args
        return f"{path}({arguments(args, kwargs, _name, _tensor)})"
    if node.op == "skip":
        return f"skip({_value(node.args[1])})  → {node.args[0]}"
    if node.op == "stop":
        return "stop"
    if node.op == "getitem" and len(node.args) == 2:
        return f"{_value(node.args[0])}[{index_text(node.args[1], _name, _value)}]"
    if node.op in SYMBOLS and len(node.args) == 2 and not node.kwargs:
        return f"{_value(node.args[0])} {SYMBOLS[node.op]} {_value(node.args[1])}"
    given = [_value(value) for value in node.args] + [f"{key}={_value(item)}" for key, item in node.kwargs.items()]
    return f"{node.op}({', '.join(given)})"


def _site(site: Site, several: bool) -> str:
    if site.kind == "grad":
        return f"gradient of {site.path.split('.')[0]}, backward {site.step}"
    return f"{site} [prompt {site.invoke}]" if several else str(site)


def _steps(base: Node, steps: tuple[Any, ...]) -> str:
    shown = tuple(step for step in steps if step[0] not in ("main", "logits"))
    return steps_text(f"%{base.id}", shown, _name, _value)


def _name(node: Node) -> str:
    return f"%{node.id}"


def _tensor(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    short = tensor.dim() == 0 or (tensor.numel() <= _MOST_LITERALS and not tensor.is_floating_point())
    if short and not tensor.is_meta:
        return f"tensor({tensor.tolist()})"
    return f"tensor<{kind} {list(tensor.shape)}>"


def _value(value: Any) -> str:
    try:
        return literal(value, _name, _tensor)
    except TypeError:  # a function of tracer.apply, or an object that only a graph in memory holds
        return f"<{getattr(value, '__name__', None) or type(value).__name__}>"
