"""The event log: gapless numbers, one transaction, and tiles as they were computed."""

import json

import numpy as np
import pytest
from django.db import IntegrityError, transaction

from interp_app.runs import events, panels, selectors
from interp_app.runs.models import Run, RunEvent, Status, Tile
from tests.factories import RunFactory
from tracing.experiments import events as said

pytestmark = pytest.mark.django_db


@pytest.fixture
def run() -> Run:
    return RunFactory(status=Status.RUNNING, attempt=1)


def tile(r0: int, c0: int, value: float, *, rows: int = 1, columns: int = 2, planes: int = 2) -> said.Tile:
    return said.Tile(panel=0, r0=r0, c0=c0, values=np.full((planes, rows, columns), value, dtype=np.float32))


def opened(rows: int = 2, columns: int = 4) -> events.NewEvent:
    axes = [said.Axis(name, name, tuple(said.Tick(str(n)) for n in range(size))) for name, size in
            (("layer", rows), ("position", columns))]  # fmt: skip
    quantities = tuple(said.Quantity(key, key, "", "diverging", (-1, 1)) for key in ("recovery", "raw"))
    event = said.PanelOpened(0, said.Panel("resid_pre", "resid_pre", *axes, quantities))
    return events.NewEvent("panel", json.loads(json.dumps(event.payload())))


def test_seqs_are_gapless_over_several_appends(run):
    events.append(run.pk, [events.log_event("info", "one"), events.log_event("info", "two")], attempt=1)
    last = events.append(run.pk, [events.log_event("info", "three")], attempt=1)
    run.refresh_from_db()
    assert last == run.last_seq == 3
    assert [event.seq for event in selectors.events_after(run.pk, 0)] == [1, 2, 3]


def test_columns_change_in_the_same_transaction_as_the_events(run):
    with pytest.raises(IntegrityError), transaction.atomic():  # succeeded without a finish time breaks a constraint
        events.append(run.pk, [events.log_event("info", "one")], fields={"status": Status.SUCCEEDED})
    run.refresh_from_db()
    assert (run.status, run.last_seq) == (Status.RUNNING, 0)
    assert not RunEvent.objects.exists()


def test_a_refused_append_keeps_the_number(run):
    with pytest.raises(events.ClaimLost):
        events.append(run.pk, [events.log_event("info", "one")], attempt=7, fields={"stage": "x"})
    run.refresh_from_db()
    assert (run.last_seq, run.stage) == (0, "")
    assert not RunEvent.objects.exists()


def test_a_run_that_is_no_longer_running_takes_no_worker_events():
    run = RunFactory(status=Status.CANCELLED, attempt=1)
    with pytest.raises(events.ClaimLost):
        events.append(run.pk, [events.log_event("info", "late")], attempt=1)


def test_a_tile_is_read_back_bit_by_bit(run):
    values = np.array([[[0.1, np.nan]], [[-0.0, 3e-42]]], dtype=np.float32)
    examples = np.arange(4, dtype=np.float64).reshape(2, 1, 2) / 3
    events.append(run.pk, [events.tile_event(said.Tile(0, 1, 2, values, examples))], attempt=1)
    (event,) = selectors.events_after(run.pk, 0)
    assert event.tile is not None
    assert panels.tile_values(event.tile).tobytes() == values.tobytes()
    stored = Tile.objects.get()
    assert (stored.examples_dtype, bytes(stored.examples)) == ("float64", examples.tobytes())
    assert event.payload == {"panel": 0, "r0": 1, "c0": 2, "nr": 1, "nc": 2, "planes": 2}


def test_a_place_computed_again_keeps_the_newest_values_and_both_events(run):
    events.append(run.pk, [events.tile_event(tile(0, 0, 1.0))], attempt=1)
    events.append(run.pk, [events.tile_event(tile(0, 0, 2.0))], attempt=1)
    first, second = selectors.events_after(run.pk, 0)
    assert first.tile is None
    assert second.tile is not None
    assert panels.tile_values(second.tile).max() == 2.0


def test_a_place_computed_twice_in_one_batch_is_one_row(run):
    events.append(run.pk, [events.tile_event(tile(0, 0, 1.0)), events.tile_event(tile(0, 0, 2.0))], attempt=1)
    assert panels.tile_values(Tile.objects.get()).max() == 2.0


def test_a_panel_tells_unknown_cells_from_cells_that_are_not_a_number(run):
    events.append(
        run.pk, [opened(), events.tile_event(tile(0, 0, np.nan)), events.tile_event(tile(1, 2, 0.5))], attempt=1
    )
    found = panels.panel_values(run.pk, 0)
    assert found is not None
    assert found.words.shape == (2, 2, 4)
    assert found.seq == 3
    assert (found.words[:, 0, :2] == panels.NOT_A_NUMBER).all()
    assert (found.words[:, 0, 2:] == panels.UNKNOWN).all()
    assert (found.values[:, 1, 2:] == 0.5).all()


def test_a_panel_announced_again_counts_once(run):
    events.append(run.pk, [opened(), opened(rows=3)], attempt=1)
    (panel,) = panels.panels_of(run.pk).panels
    assert len(panel["rows"]["ticks"]) == 3


def test_there_is_no_panel_that_was_not_opened(run):
    assert panels.panel_values(run.pk, 0) is None


def test_events_after_reads_a_page_in_two_queries(run, django_assert_num_queries):
    events.append(run.pk, [opened(), *(events.tile_event(tile(0, n * 2, 1.0)) for n in range(2))], attempt=1)
    with django_assert_num_queries(2):
        assert [event.seq for event in selectors.events_after(run.pk, 1, limit=1)] == [2]
