"""`values, indices = logits.topk(2)`: proxies of several results whose number is known while the trace is recorded."""

from typing import TYPE_CHECKING, Any, Final

from tracing.graph.misuse import misuse

if TYPE_CHECKING:
    from tracing.graph.proxy import Proxy

_PAIRS: Final = frozenset({"topk", "sort", "kthvalue", "mode", "cummax", "cummin"})
"""Operations that always give values and indices."""
_PAIRS_ALONG: Final = frozenset({"max", "min", "median", "nanmedian"})
"""Operations that do so along a dimension, given as a number; without one they give a tensor."""


def unpacked(proxy: "Proxy") -> list[Any]:
    """The parts of a result, one by one. Raises `RecordError` where their number is known only later."""
    node, steps = proxy._base.node, proxy._steps
    if not steps and (
        node.op in _PAIRS or (node.op in _PAIRS_ALONG and type(node.kwargs.get("dim", (*node.args, None)[1])) is int)
    ):
        return [proxy.values, proxy.indices]
    if steps and steps[-1][:2] in (("view", "split"), ("view", "chunk")):
        _, op, args, kwargs = steps[-1]
        given = args[0] if args else kwargs.get("split_size", kwargs.get("chunks"))
        count = given if op == "chunk" else len(given) if isinstance(given, (tuple, list)) else None
        if type(count) is int:
            return [proxy[number] for number in range(count)]
    raise misuse("iter", proxy._line)
