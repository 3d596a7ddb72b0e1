"""The recorder: few transactions, progress at a calm rate, and a database that may be away for a while."""

import time

import numpy as np
import pytest
from django.db import OperationalError

from interp_app.runs import events, recorder
from interp_app.runs.claims import Claim
from interp_app.runs.control import Control, Stop
from interp_app.runs.events import ClaimLost
from interp_app.runs.models import Run, Status
from interp_app.runs.recorder import Recorder
from tests.deadlines import eventually
from tests.factories import RunFactory, WorkerFactory
from tracing.experiments import events as said

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run() -> Run:
    return RunFactory(status=Status.RUNNING, attempt=1, worker=WorkerFactory(), cells_total=400)


@pytest.fixture
def control() -> Control:
    return Control()


def recording(run: Run, control: Control, **options) -> Recorder:
    claim = Claim(run.pk, 1, run.worker_id)
    return Recorder(claim, control, **{"total": 400, "done": {}, **options})


def tile(n: int) -> events.NewEvent:
    return events.tile_event(said.Tile(0, n // 20, n % 20, np.full((1, 1, 1), n, dtype=np.float32)))


def appends(monkeypatch: pytest.MonkeyPatch, before=lambda n: None, after=lambda n: None) -> list[int]:
    """Count the transactions; `before` and `after` may raise on the n-th."""
    sizes: list[int] = []
    original = events.append

    def counted(run_id, new, **options):
        sizes.append(len(new))
        before(len(sizes))
        last = original(run_id, new, **options)
        after(len(sizes))
        return last

    monkeypatch.setattr(events, "append", counted)
    return sizes


def fail_once(number: int) -> None:
    if number == 1:
        raise OperationalError("server closed the connection unexpectedly")


def test_many_tiles_at_once_are_few_transactions(run, control, monkeypatch):
    sizes = appends(monkeypatch)
    with recording(run, control) as log:
        for n in range(300):
            log.put(tile(n))
        log.drain()
    assert len(sizes) < 12
    run.refresh_from_db()
    assert (run.cells_done, run.tiles.count()) == (300, 300)


def put_every_10_ms(log: Recorder, seconds: float) -> None:
    """As the executor does: the stage before each tile."""
    started = time.monotonic()
    log.stage("computing")
    n = 0
    while time.monotonic() - started < seconds:
        log.stage("computing")
        log.put(tile(n % 400))
        n += 1
        time.sleep(0.01)


def test_a_steady_stream_of_tiles_is_at_most_ten_transactions_a_second(run, control, monkeypatch):
    sizes = appends(monkeypatch)
    with recording(run, control) as log:
        put_every_10_ms(log, 1.5)
        paced = len(sizes)
        log.drain()
    assert 5 <= paced <= 17


def test_a_tile_after_a_pause_is_written_without_delay(run, control, monkeypatch):
    # A flush interval of minutes: whatever is written before the end was not held back for it.
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 300.0)
    sizes = appends(monkeypatch)
    with recording(run, control) as log:
        log.put(tile(0))
        eventually(lambda: sizes, seconds=10)
        log.put(tile(1), tile(2))
        log._last_write -= 300.0
        log.put(tile(3))
        eventually(lambda: len(sizes) == 2, seconds=10)
    assert run.events.filter(kind="tile").count() == 4


def test_a_stage_that_says_nothing_new_is_not_written(run, control, monkeypatch):
    with recording(run, control) as log:
        log.stage("computing", "Sweeping.")
        log.drain()
        sizes = appends(monkeypatch)
        log.stage("computing")
        log.stage("computing", "Sweeping.", 12, 400)
        log.drain()
    assert sizes == []


def test_a_new_message_alone_is_told_within_the_progress_interval(run, control):
    with recording(run, control) as log:
        log.stage("baselines", "First.")
        log.drain()
        log.stage("baselines", "Second.")
        eventually(lambda: run.events.filter(kind="progress", payload__message="Second.").exists(), seconds=10)


def test_a_write_of_columns_alone_may_be_tried_again(run, control, monkeypatch):
    with recording(run, control) as log:
        appends(monkeypatch, after=fail_once)
        log._write([], {"cells_done": 7})
    run.refresh_from_db()
    assert run.cells_done == 7


def test_events_keep_their_order(run, control):
    with recording(run, control) as log:
        for n in range(50):
            log.put(events.log_event("info", str(n)))
        log.drain()
    said_ = run.events.filter(kind="log").values_list("payload__message", flat=True)
    assert list(said_) == [str(n) for n in range(50)]


def test_progress_is_told_at_most_twice_a_second_and_once_at_the_end(run, control):
    started = time.monotonic()
    with recording(run, control) as log:
        log.stage("computing")
        n = 0
        while time.monotonic() - started < 1.2:
            log.put(tile(n % 400))
            n += 1
            time.sleep(0.005)
        log.drain()
    told = run.events.filter(kind="progress")
    elapsed = time.monotonic() - started
    assert 2 <= told.count() <= 2 * elapsed + 2
    last = told.last().payload
    assert last["done"] == min(n, 400)
    assert last["rate"] > 0


def test_a_resumed_attempt_counts_on_from_what_is_stored(run, control):
    with recording(run, control, done={(0, 0, n): 1 for n in range(20)}) as log:
        log.put(tile(5), tile(20))
        log.drain()
    run.refresh_from_db()
    assert run.cells_done == 21


def test_a_database_that_is_away_for_a_moment_loses_nothing(run, control, monkeypatch):
    appends(monkeypatch, before=fail_once)
    with recording(run, control) as log:
        log.put(tile(0))
        log.drain()
    assert run.events.filter(kind="tile").count() == 1
    assert control.reason is None


def test_a_commit_whose_answer_was_lost_is_not_written_twice(run, control, monkeypatch):
    appends(monkeypatch, after=fail_once)
    with recording(run, control) as log:
        log.put(events.log_event("info", "once"))
        log.drain()
        log.put(events.log_event("info", "again"))
        log.drain()
    messages = run.events.filter(kind="log").order_by("seq").values_list("payload__message", flat=True)
    assert list(messages) == ["once", "again"]


def test_a_lost_claim_stops_the_run_and_is_raised(run, control):
    Run.objects.filter(pk=run.pk).update(attempt=2)
    with recording(run, control) as log:
        log.put(tile(0))
        eventually(lambda: control.reason is Stop.LOST, seconds=10)
        with pytest.raises(ClaimLost):
            log.put(tile(1))
        with pytest.raises(ClaimLost):
            log.drain()
    assert not run.events.exists()


def test_a_database_that_stays_away_is_given_up_once_the_claim_is_lost(run, control, monkeypatch):
    def always(number: int) -> None:
        control.stop(Stop.LOST)
        raise OperationalError("away")

    appends(monkeypatch, before=always)
    with recording(run, control) as log:
        log.put(tile(0))
        with pytest.raises(OperationalError):
            log.drain()


def test_a_new_stage_is_told_at_once(run, control):
    with recording(run, control) as log:
        log.stage("baselines", "Running the clean prompts.")
        log.drain()
    run.refresh_from_db()
    assert run.stage == "baselines"
    assert run.events.filter(kind="status").last().payload["stage"] == "baselines"


def test_retrying_outside_of_a_run_gives_up_in_the_end(monkeypatch):
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0.0)

    def away() -> None:
        raise OperationalError("away")

    with pytest.raises(OperationalError):
        recorder.retrying(away)


def last_progress(run: Run) -> dict:
    return run.events.filter(kind="progress").last().payload


def test_a_method_without_cells_counts_in_its_own_steps(run, control):
    with recording(run, control, total=0) as log:
        log.stage("computing", None, 0, 8)
        time.sleep(0.02)
        log.stage("computing", None, 6, 8)
        log.drain()
        told = last_progress(run)
    assert (told["done"], told["total"], told["unit"]) == (6, 8, "steps")
    assert told["rate"] > 0
    assert told["eta_seconds"] == pytest.approx(2 / told["rate"], abs=0.1)
    run.refresh_from_db()
    assert (run.steps_done, run.steps_total, run.cells_total) == (6, 8, 0)
    assert run.progress == {"done": 6, "total": 8, "unit": "steps"}


def test_steps_of_one_stage_say_nothing_about_the_next(run, control):
    with recording(run, control, total=0) as log:
        log.stage("gradients", None, 8, 8)
        log.drain()
        log.stage("checking")
        log.drain()
        told = last_progress(run)
    assert (told["done"], told["total"], told["stage"]) == (0, 0, "checking")
    assert "rate" not in told


def test_a_method_that_counts_its_cells_is_counted_by_the_tiles_that_arrived(run, control):
    with recording(run, control) as log:
        log.stage("computing", None, 300, 400)
        log.put(tile(0))
        log.drain()
    told = last_progress(run)
    assert (told["done"], told["total"], told["unit"]) == (1, 400, "cells")


def test_a_tile_sent_again_counts_once_and_its_newest_values_stay(run, control):
    with recording(run, control) as log:
        for value in (1.0, 2.0):
            log.put(events.tile_event(said.Tile(0, 0, 0, np.full((1, 2, 2), value, dtype=np.float32))))
            log.drain()
    run.refresh_from_db()
    assert (run.cells_done, run.tiles.count()) == (4, 1)
    assert np.frombuffer(bytes(run.tiles.get().values), "<f4").tolist() == [2.0] * 4
    assert [event.seq for event in run.events.filter(kind="tile")] == [1, 3]


def test_before_there_is_a_rate_the_time_left_is_what_was_estimated(run, control):
    with recording(run, control, expected_seconds=60.0) as log:
        log.stage("computing", "Begins.")
        log.drain()
    told = last_progress(run)
    assert "rate" not in told
    assert told["eta_seconds"] == pytest.approx(60.0, abs=2.0)


def test_a_stage_s_name_fits_its_column(run, control):
    with recording(run, control) as log:
        log.stage("x" * 60)
        log.drain()
    run.refresh_from_db()
    assert run.stage == "x" * 40
