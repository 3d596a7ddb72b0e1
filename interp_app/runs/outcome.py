"""What an attempt leaves behind when it succeeds: results and arrays, on the disk as they come, in the run at its end.

1. `add` writes a result to the artifacts' storage under its hash. A file that no run names is no harm, and computing
   goes on without holding the arrays.
2. `publish` tells of all of them in one transaction, fenced by the attempt. A run that fails, is stopped or loses its
   claim half way has no result, rather than some of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import transaction
from numpy.typing import NDArray

from interp_app.core.canonical import json_safe
from interp_app.runs import artifacts, events
from interp_app.runs.claims import Claim
from interp_app.runs.control import Control
from interp_app.runs.events import NewEvent
from interp_app.runs.models import Artifact, Run, RunEvent
from interp_app.runs.recorder import payload, retrying
from tracing.experiments import events as said

MAX_NUMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file on the disk, the name it gets in the run, and what tells of it."""

    name: str
    artifact: Artifact
    event: NewEvent | None
    summary: tuple[str, Any] | None


class Outcome:
    """The results of one attempt, not told yet."""

    def __init__(self, claim: Claim, control: Control) -> None:
        self._claim = claim
        self._control = control
        self._kept: dict[str, _Kept] = {}
        self._panels: dict[int, int] = {}

    @property
    def results(self) -> int:
        """How many results were added."""
        return sum(kept.event is not None for kept in self._kept.values())

    def opened(self, event: said.PanelOpened) -> int:
        """Note a panel; the cells of all panels so far."""
        self._panels[event.index] = len(event.panel.rows) * len(event.panel.columns)
        return sum(self._panels.values())

    def add(self, result: said.Result) -> None:
        """Write a result to the disk. A second one of a name takes the place of the first. Raises `StorageFull`."""
        blob = artifacts.encode({"name": result.name, "type": result.type, "data": result.data}, result.arrays)
        artifact = retrying(lambda: artifacts.store(blob), self._control)
        name = self._file_name(result.name)
        told = {
            **payload(result),
            "title": str(result.data.get("title") or result.name),
            "numbers": sum(array.size for array in result.arrays.values()),
            "artifact": {"name": name, "sha256": artifact.sha256, "size": artifact.size},
        }
        summary = (result.name, json_safe(result.summary))
        self._kept[f"result {result.name}"] = _Kept(name, artifact, NewEvent("result", told), summary)

    def add_array(self, name: str, array: NDArray[np.generic]) -> None:
        """Write an array that belongs to no result to the disk. Raises `StorageFull`."""
        artifact = retrying(lambda: artifacts.store(artifacts.encode({"name": name}, {"values": array})), self._control)
        self._kept[f"array {name}"] = _Kept(artifacts.safe_name(f"{name}.safetensors"), artifact, None, None)

    def publish(self, run: Run) -> None:
        """Tell of all that was added, at once. Raises `ClaimLost` (nothing told) where the attempt lost the run."""
        retrying(lambda: _attach(self._claim, list(self._kept.values())), self._control, already=self._told)
        run.refresh_from_db(fields=["summary"])

    def _told(self) -> bool | None:
        """Whether the results were stored although the answer of the commit was lost."""
        mine = RunEvent.objects.filter(run_id=self._claim.run_id, attempt=self._claim.attempt, kind="result")
        return mine.exists() or None

    def _file_name(self, name: str) -> str:
        """A file name of its own for the result, also where two results differ only in what file names cannot hold."""
        taken = {kept.name for key, kept in self._kept.items() if key != f"result {name}"}
        wanted = artifacts.safe_name(f"{name}.safetensors")
        stem = wanted.removesuffix(".safetensors")
        numbered = (f"{stem}-{number}.safetensors" for number in range(2, MAX_NUMBERED))
        return wanted if wanted not in taken else next(free for free in numbered if free not in taken)


def _attach(claim: Claim, kept: list[_Kept]) -> None:
    summary = dict(one.summary for one in kept if one.summary is not None)
    told = [one.event for one in kept if one.event is not None]
    with transaction.atomic():
        events.append(claim.run_id, told, attempt=claim.attempt, fields={"summary": summary} if summary else None)
        for one in kept:
            artifacts.attach(Run(pk=claim.run_id), one.artifact, one.name)
