"""Exact activation patching: sweeps over layer × position and layer × head.

`sweep(model, pairs)` gives a `Grid`; `prepare` and `tiles` give the same piece by piece. The plan (`make_plan`,
`Optimise`) is plain arithmetic, so importing this package does not load torch; using a sweep does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracing.patching.plan import Optimise, Plan, make_plan

if TYPE_CHECKING:
    from tracing.patching.sweeps import Sweep, grids, prepare, sweep, tiles

__all__ = ["Optimise", "Plan", "Sweep", "grids", "make_plan", "prepare", "sweep", "tiles"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("tracing.patching.sweeps"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
