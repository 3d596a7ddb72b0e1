"""Where an error came from: the user's line, the site and the shapes, added to the error as a note."""

from typing import Any

from torch import Tensor

from tracing.engines.visit import Part
from tracing.graph.lens import get
from tracing.graph.nodes import Node


def annotate(error: Exception, node: Node, env: dict[Node, Any]) -> None:
    """Say where an error of the user's operation was recorded, once."""
    if getattr(error, "_tracing_line", None) is not None:
        return
    error._tracing_line = node.line  # type: ignore[attr-defined]
    shapes = [
        _shape(_meant(node, env.get(operand)) if isinstance(operand, Node) else operand)
        for operand in node.args
        if isinstance(operand, (Node, Tensor))
    ]
    found = (_origin(one).site for one in (node, *node.deps))
    sites = {str(site) for site in found if site is not None and site.kind != "grad"}  # whose paths are no modules'
    error.add_note(
        f'Recorded at File "{node.line.file}", line {node.line.number}, in {node.line.function}: {node.op}'
        + (f"; site {', '.join(sorted(sites))}" if sites else "")
        + (f"; given {', '.join(shapes)}" if shapes else "")
    )


def _meant(node: Node, value: Any) -> Any:
    """Of a tuple or an output with fields, the tensor that the node reads or writes (a part of)."""
    if type(value) is Part:
        value = value.whole()
    if isinstance(value, Tensor) or node.op not in ("part", "write") or not node.args[1]:
        return value
    try:
        found = get(value, node.args[1][:1])
    except Exception:  # noqa: BLE001 (what is wrong with the value is being said already)
        return value
    return found if isinstance(found, Tensor) else value


def _origin(node: Node) -> Node:
    """The node that a part is a part of."""
    return node.args[0] if node.op == "part" else node


def _shape(value: Any) -> str:
    if type(value) is Part:
        value = value.whole()
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
