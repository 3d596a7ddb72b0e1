"""What the tests of the pages share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.test import Client

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs.models import Run, Status
from tests.factories import RunEventFactory, RunFactory, TileFactory

PAIR = {
    "clean": "When Mary and John went to the store John gave a drink to",
    "corrupted": "When Mary and John went to the store Mary gave a drink to",
    "answer": "Mary",
    "foil": "John",
}


@pytest.fixture
def browser_of() -> Callable[[User | None], Client]:
    """A browser signed in as somebody, or as nobody."""

    def make(user: User | None) -> Client:
        client = Client()
        if user is not None:
            client.force_login(user)
        return client

    return make


@pytest.fixture
def ada(client: Client, member: User) -> Client:
    """The browser of the member Ada."""
    client.force_login(member)
    return client


@pytest.fixture
def finished(member: User, model: ModelSource, prompts: PromptSetVersion) -> Run:
    """A succeeded run of Ada's with one panel of 2 × 3 cells, one of which was not computed."""
    run = RunFactory(
        owner=member, model=model, prompts=prompts, title="Who gets it", status=Status.SUCCEEDED, cells_done=6,
        cells_total=6, last_seq=3, summary={"clean": 4.25, "corrupted": -3.5},
    )  # fmt: skip
    RunEventFactory(run=run, seq=1, payload={"level": "info", "message": "Loaded in 0.3 s"})
    RunEventFactory(run=run, seq=2, kind="panel", payload=panel(rows=2, columns=["When", " Mary", " to"]))
    values = np.array([[[0.25, 1.0], [-0.5, 0.0]]], dtype="<f4")
    TileFactory(run=run, seq=3, c0=0, r0=0, nr=2, nc=2, planes=1, values=values.tobytes())
    RunEventFactory(run=run, seq=3, kind="tile", payload={"panel": 0, "r0": 0, "c0": 0, "nr": 2, "nc": 2, "planes": 1})
    return run


def panel(*, rows: int, columns: list[str]) -> dict[str, Any]:
    """The payload of a panel event."""

    def tick(label: str) -> dict[str, Any]:
        return {"label": label, "corrupted": None, "differs": False, "varies": False}

    return {
        "index": 0,
        "name": "resid_pre",
        "title": "resid_pre, layer × position",
        "rows": {"name": "layer", "title": "Layer", "ticks": [tick(str(row)) for row in range(rows)]},
        "columns": {"name": "position", "title": "Position", "ticks": [tick(label) for label in columns]},
        "quantities": [
            {
                "key": "recovery",
                "title": "Recovery",
                "unit": "",
                "scale": "diverging",
                "domain": [-1, 1],
                "anchors": {"0": "corrupted run", "1": "clean run"},
            }
        ],
        "facts": {},
    }
