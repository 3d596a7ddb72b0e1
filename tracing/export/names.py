"""Names in an exported script: of variables, and of modules as nnsight calls them."""

import builtins
import keyword
import re
from typing import Final

from tracing.graph.nodes import Node, Site

RESERVED: Final = frozenset(
    {"model", "module", "tracer", "torch", "F", "save", "saved", "constants", "step", "nnsight", "result", "main",
     "copy", "sys", "MODEL", "HERE", "Path", "replaced", "without_padding", "tokenizer", "folder", *keyword.kwlist,
     *dir(builtins)}
)  # fmt: skip

SERVED: Final = frozenset(
    {"input", "inputs", "output", "iter", "source", "device", "devices", "parent", "root"}
)  # fmt: skip
"""Submodules of these names nnsight calls `E_output` and so on: encoders have some."""


class Names:
    """Variables that nothing else is called."""

    def __init__(self) -> None:
        self._taken = set(RESERVED)

    def unique(self, name: str) -> str:
        """`name`, or with a number where it is taken."""
        name = re.sub(r"\W", "_", name)
        name = f"v{name}" if not name or name[0].isdigit() or name[0] == "_" else name
        number, found = 2, name
        while found in self._taken:
            found, number = f"{name}_{number}", number + 1
        self._taken.add(found)
        return found


def envoy_text(path: str) -> str:
    """A module as nnsight calls it: `model.transformer.h[5]`."""
    text = "model"
    for part in path.split(".") if path else ():
        if part.isdigit():
            text += f"[{part}]"
        else:
            part = f"E_{part}" if part in SERVED else part
            text += f".{part}" if part.isidentifier() and not keyword.iskeyword(part) else f'.get("{part}")'
    return text


def site_name(site: Site) -> str:
    """What the variable of a site is called: `h_5_mlp`."""
    if not site.path:
        return "model_input" if site.kind == "inputs" else "logits"
    parts = site.path.split(".")
    name = "_".join(parts[-2:] if len(parts) < 3 or parts[-1].isdigit() else parts[-3:])
    return f"{name}_input" if site.kind == "inputs" else name


def stem(node: Node) -> str:
    """What a variable made from a node is called."""
    while node.op in ("part", "write", "grad"):
        node = node.args[1] if node.op == "grad" else node.args[0]
    return site_name(node.args[0]) if node.op == "site" else operation_name(node)


def edited(name: str) -> str:
    """The name of a changed version."""
    return f"{name.removesuffix('_edited')}_edited"


def operation_name(node: Node) -> str:
    """The operation without its module: `softmax`."""
    return node.op.split(".")[-1].strip("_")
