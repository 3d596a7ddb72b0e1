"""Rows that API tests look at: runs with panels, tiles and files, and one of everything in each visibility."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs import artifacts, events
from interp_app.runs.models import Run, Status
from tests.factories import PromptSetVersionFactory, RunFactory
from tracing.experiments.events import Axis, Panel, PanelOpened, Quantity, Tick, Tile
from tracing.results import Bars, TypedResult

VISIBILITIES = ("private", "lab", "public")
COLUMN_LABELS = (" Mary", "=1+1")


def panel(index: int = 0) -> PanelOpened:
    """Two layers × two positions × two quantities; the second position's token looks like a formula."""
    return PanelOpened(
        index,
        Panel(
            name="resid_pre",
            title="Residual stream",
            rows=Axis("layer", "Layer", (Tick("0"), Tick("1"))),
            columns=Axis("position", "Position", tuple(Tick(label) for label in COLUMN_LABELS)),
            quantities=(
                Quantity("recovery", "Recovery", "", "diverging", (-1.0, 1.0)),
                Quantity("raw", "Logit difference", "logits", "diverging", (-3.0, 3.0)),
            ),
        ),
    )


def tile(r0: int, c0: int, values: list[list[list[float]]], *, index: int = 0) -> Tile:
    """A tile from nested lists `[planes][rows][columns]`."""
    return Tile(index, r0, c0, np.array(values, dtype=np.float32))


def log_of(run: Run, *tiles: Tile) -> None:
    """Write a panel and tiles to the log of `run`, as its worker would."""
    opened = panel()
    rows = [events.NewEvent("panel", opened.payload()), *(events.tile_event(one) for one in tiles)]
    events.append(run.pk, rows)
    run.refresh_from_db()


def finished_run(owner: User, model: ModelSource, prompts: PromptSetVersion, **fields: Any) -> Run:
    """A run that has succeeded: one panel, three of four cells, and a file `resid_pre.safetensors`."""
    run: Run = RunFactory(owner=owner, model=model, prompts=prompts, status=Status.SUCCEEDED, **fields)
    log_of(run, tile(0, 0, [[[1.0, 0.25]], [[2.0, float("nan")]]]), tile(1, 1, [[[-0.5]], [[-1.0]]]))
    artifacts.attach(run, artifacts.store(bytes(range(256)) * 40), "resid_pre.safetensors")
    return run


def add_result(run: Run, found: TypedResult | None = None) -> TypedResult:
    """Tell of a typed result (three bars called `heads`), as its worker would."""
    found = found or Bars(
        name="heads",
        title="Heads",
        axis=Axis("head", "Head", tuple(Tick(label) for label in ("a0.h0", "=a0.h1", "a0.h2"))),
        quantities=(Quantity("raw", "Logit difference", "logits", "diverging", (-3.0, 3.0)),),
        values={"raw": np.array([1.5, np.nan, -1.0], np.float32)},
    )
    event = found.result({"best": 1.5})
    blob = artifacts.encode({"name": event.name, "type": event.type, "data": event.data}, event.arrays)
    stored = artifacts.store(blob)
    name = f"{event.name}.safetensors"
    file = {"name": name, "sha256": stored.sha256, "size": stored.size}
    numbers = sum(array.size for array in event.arrays.values())
    payload = {**event.payload(), "title": found.title, "numbers": numbers, "artifact": file}
    events.append(run.pk, [events.NewEvent("result", payload)])
    artifacts.attach(run, stored, name)
    run.refresh_from_db()
    return found


@dataclass(frozen=True)
class World:
    """What one owner has, by visibility. Titles hold `secret-<visibility>` so that a leak shows in any text.

    `reused` and `lost` are public runs that stand on private things: values of a private run that it is also a clone
    of, and a private prompt set.
    """

    runs: dict[str, Run]
    queued: dict[str, Run]
    prompts: dict[str, PromptSetVersion]
    reused: Run
    lost: Run

    @property
    def private_ids(self) -> list[str]:
        """Ids of what only the owner and administrators may know of."""
        return [str(self.runs["private"].pk), str(self.prompts["private"].prompt_set_id)]


def build_world(owner: User, model: ModelSource) -> World:
    """A finished run, a queued run and a prompt set in each visibility, and public runs on private things."""
    prompts = {
        level: PromptSetVersionFactory(
            prompt_set__owner=owner, prompt_set__visibility=level, prompt_set__title=f"secret-{level} prompts"
        )
        for level in VISIBILITIES
    }
    runs = {
        level: finished_run(owner, model, prompts[level], visibility=level, title=f"secret-{level} run")
        for level in VISIBILITIES
    }
    for run in runs.values():
        add_result(run)
    queued = {
        level: RunFactory(
            owner=owner, model=model, prompts=prompts[level], visibility=level, title=f"secret-{level} queued"
        )
        for level in VISIBILITIES
    }
    shared = {"owner": owner, "model": model, "prompts": prompts["private"], "visibility": "public"}
    source = {"reused_from": runs["private"], "cloned_from": runs["private"]}
    reused = RunFactory(**shared, **source, title="shared values", status=Status.SUCCEEDED)
    lost = RunFactory(
        **shared,
        title="shared failure",
        status=Status.FAILED,
        failure_code="worker_lost",
        failure_text="The run lost its worker 3 times in a row.",
        failure_detail={"losses": 3, "worker": "gpu-7.lab.example"},
    )
    return World(runs, queued, prompts, reused, lost)
