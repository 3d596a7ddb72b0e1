"""Edges between components: attribution, exact patching, and certificates of both.

`Layout` says which edges a model has; it is plain data, so importing this package does not load torch; using the rest
does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from tracing.circuits.layout import Layout

if TYPE_CHECKING:
    from tracing.circuits.attribution import attribution_steps, edge_attribution
    from tracing.circuits.certificate import certify
    from tracing.circuits.exact import circuit_metric, edge_effects
    from tracing.circuits.totals import node_totals

__all__ = [
    "Layout",
    "attribution_steps",
    "certify",
    "circuit_metric",
    "edge_attribution",
    "edge_effects",
    "node_totals",
]

_ELSEWHERE: Final = {
    "attribution_steps": "attribution",
    "certify": "certificate",
    "circuit_metric": "exact",
    "edge_attribution": "attribution",
    "edge_effects": "exact",
    "node_totals": "totals",
}


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(import_module(f"tracing.circuits.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
