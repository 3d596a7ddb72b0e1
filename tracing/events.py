"""What an experiment says while it runs: a method is a generator of these events, and nothing else leaves it.

The worker stores them in the run's event log; browsers, API clients and the command line read the same log.
Arrays are numpy (never torch), so an event outlives the device that computed it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["diverging", "sequential"]
Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Tick:
    """One place on an axis. For positions: the clean token, the corrupted one where it differs, and what varies."""

    label: str
    corrupted: str | None = None
    differs: bool = False
    varies: bool = False
    """True where the prompt pairs of the set do not share this token: `label` then shows the first pair's."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis of a figure: `name` is the field's term (`layer`, `position`, `head`)."""

    name: str
    title: str
    ticks: tuple[Tick, ...]

    def __len__(self) -> int:
        return len(self.ticks)


@dataclass(frozen=True, slots=True)
class Quantity:
    """One plane of a panel: what its numbers mean, and the fixed domain they are coloured over."""

    key: str
    title: str
    unit: str
    scale: Scale
    domain: tuple[float, float]
    anchors: dict[str, str] = field(default_factory=dict)
    """Domain values worth naming in the legend, e.g. {"0": "corrupted run", "1": "clean run"}."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A grid the run will fill: rows × columns × planes (one plane a quantity). Announced before its first tile."""

    name: str
    title: str
    rows: Axis
    columns: Axis
    quantities: tuple[Quantity, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    """Small JSON facts shown beside the figure: direction, metric, `clean` and `corrupted` baselines, pair count."""


@dataclass(frozen=True, slots=True)
class PanelOpened:
    """Declares panel number `index` (0, 1, …); tiles refer to it by that number."""

    index: int
    panel: Panel
    kind: Literal["panel"] = "panel"

    def payload(self) -> dict[str, Any]:
        """JSON form stored in the event log."""
        return {"index": self.index, **asdict(self.panel)}


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A finished rectangle of cells of one panel.

    `values` is float32 `[planes, rows, columns]` with NaN for a value that does not exist.
    `examples` is the raw metric per prompt pair, `[pairs, rows, columns]`, float32 or float64; kept with the results,
    not sent to browsers.
    """

    panel: int
    r0: int
    c0: int
    values: NDArray[np.float32]
    examples: NDArray[Any] | None = None
    kind: Literal["tile"] = "tile"

    def payload(self) -> dict[str, Any]:
        """JSON form stored in the event log: the rectangle, not the values (they are a row of their own)."""
        planes, rows, columns = self.values.shape
        return {"panel": self.panel, "r0": self.r0, "c0": self.c0, "nr": rows, "nc": columns, "planes": planes}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is. `done` and `total` count cells; `stage`: `loading`, `baselines`, `computing`, `saving`."""

    done: int
    total: int
    stage: str
    message: str = ""
    kind: Literal["progress"] = "progress"

    def payload(self) -> dict[str, Any]:
        return {"done": self.done, "total": self.total, "stage": self.stage, "message": self.message}


@dataclass(frozen=True, slots=True)
class Log:
    """A sentence for the run's log."""

    level: Level
    message: str
    kind: Literal["log"] = "log"

    def payload(self) -> dict[str, Any]:
        return {"level": self.level, "message": self.message}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished typed result (see `tracing.results`): JSON `data` plus named arrays, stored as one artifact."""

    name: str
    type: str
    data: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    """A few numbers for the history table, e.g. the baselines and the strongest cell."""
    kind: Literal["result"] = "result"

    def payload(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "summary": self.summary}


Event = PanelOpened | Tile | Progress | Log | Result
