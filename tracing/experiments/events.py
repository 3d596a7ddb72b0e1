"""The events of a run, for methods: they live in `tracing.events`, below the methods and the results they yield."""

from tracing.events import (
    Axis,
    Event,
    Level,
    Log,
    Panel,
    PanelOpened,
    Progress,
    Quantity,
    Result,
    Scale,
    Tick,
    Tile,
)

__all__ = [
    "Axis",
    "Event",
    "Level",
    "Log",
    "Panel",
    "PanelOpened",
    "Progress",
    "Quantity",
    "Result",
    "Scale",
    "Tick",
    "Tile",
]
