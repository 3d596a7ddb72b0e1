"""Exact activation patching: sweeps over any axes of layer, head, position, neuron, span and prompt pair.

`sweep(model, pairs)` gives a `Grid`; `prepare` and `tiles` give the same piece by piece. The plan (`make_plan`,
`Optimise`) is plain arithmetic, so importing this package does not load torch; using a sweep does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracing.patching.packing import make_plan
from tracing.patching.plan import Optimise, Plan
from tracing.patching.sources import Interchange, Mean, Noise, Resample, Zero

if TYPE_CHECKING:
    from tracing.patching.attribution import atp_star, attribution_patching, attribution_steps
    from tracing.patching.attribution_check import check_attribution
    from tracing.patching.inputs import ImagePair
    from tracing.patching.sweeps import Sweep, grids, prepare, sweep, tiles

__all__ = [
    "ImagePair",
    "Interchange",
    "Mean",
    "Noise",
    "Optimise",
    "Plan",
    "Resample",
    "Sweep",
    "Zero",
    "atp_star",
    "attribution_patching",
    "attribution_steps",
    "check_attribution",
    "grids",
    "make_plan",
    "prepare",
    "sweep",
    "tiles",
]


_ELSEWHERE = {
    "atp_star": "attribution",
    "attribution_patching": "attribution",
    "attribution_steps": "attribution",
    "check_attribution": "attribution_check",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"tracing.patching.{_ELSEWHERE.get(name, 'sweeps')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
