"""Whatever is killed in the middle of a run, the run ends `succeeded` with the cells of an undisturbed run."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.deadlines import eventually
from tests.system.harness import LEASE_SECONDS, Lab

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def undisturbed(shared_lab: Lab) -> list[bytes]:
    """The cells of the run that every test here submits, computed without any disturbance."""
    worker = shared_lab.start_worker("calm")
    run = shared_lab.submit()
    shared_lab.wait_for(run, "succeeded", seconds=90)
    worker.end()
    return shared_lab.cells(run)


def rows_of(lab: Lab, run: str) -> list[tuple]:
    """Everything stored of a run: its row, its events and its tiles."""
    found = lab.sql("SELECT * FROM runs_run WHERE id = %s", run)
    found += lab.sql("SELECT * FROM runs_runevent WHERE run_id = %s ORDER BY seq", run)
    return found + lab.sql("SELECT * FROM runs_tile WHERE run_id = %s ORDER BY seq", run)


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than an entry that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def assert_log_is_gapless(lab: Lab, run: str) -> None:
    seqs = [seq for (seq,) in lab.sql("SELECT seq FROM runs_runevent WHERE run_id = %s ORDER BY seq", run)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_killed_pool_process_costs_one_attempt(lab: Lab, undisturbed: list[bytes]):
    worker = lab.start_worker()
    run = lab.submit()
    lab.wait_for_cells(run)
    os.kill(worker.pool_process(), signal.SIGKILL)
    ended = lab.wait_for(run, "succeeded", seconds=90)
    assert ended["attempt"] == 2
    assert lab.cells(run) == undisturbed
    assert_log_is_gapless(lab, run)


def test_a_killed_worker_is_replaced_by_another(lab: Lab, undisturbed: list[bytes]):
    workers = lab.start_workers("first", "second")
    run = lab.submit()
    lab.wait_for_cells(run)
    worker = workers[lab.holder(run)]
    pool = worker.pool_process()
    worker.kill()  # the parent alone: its pool process must not live on as an orphan
    eventually(lambda: not is_running(pool), seconds=30, what="the pool process has ended")
    ended = lab.wait_for(run, "succeeded", seconds=90)
    assert ended["attempt"] == 2
    assert lab.cells(run) == undisturbed


def test_a_worker_killed_with_all_its_processes_leaves_a_run_that_the_next_one_ends(lab: Lab, undisturbed: list[bytes]):
    worker = lab.start_worker("gone")
    run = lab.submit()
    lab.wait_for_cells(run)
    pool = worker.pool_process()
    worker.kill_all()
    eventually(lambda: not is_running(pool), seconds=10, what="the pool process has ended")
    waiting = lab.wait_for(run, "queued", seconds=LEASE_SECONDS + 30)  # nobody but the web process can see to that
    lab.start_worker("next")
    ended = lab.wait_for(run, "succeeded", seconds=90)
    ((told,),) = lab.sql(
        "SELECT payload->>'reason' FROM runs_runevent WHERE run_id = %s AND payload->>'status' = 'queued'"
        " AND payload->>'attempt' = '1'",
        run,
    )
    assert waiting["queue"]["reason"].startswith("No worker is online")
    assert "the worker stopped answering. The run is queued again. No other worker is online." in told
    assert (ended["attempt"], ended["cells_done"]) == (2, ended["cells_total"])
    assert lab.cells(run) == undisturbed
    assert_log_is_gapless(lab, run)


def test_redis_killed_mid_run_costs_nothing_and_the_queue_goes_on_by_itself(lab: Lab, undisturbed: list[bytes]):
    lab.start_worker()
    run = lab.submit()
    lab.wait_for_cells(run)
    lab.redis.kill()
    started = time.monotonic()
    later = lab.submit()
    posting = time.monotonic() - started
    ended = lab.wait_for(run, "succeeded", seconds=90)
    lab.redis.start()
    lab.wait_for(later, "succeeded", seconds=120)
    latest = lab.submit()
    lab.wait_for(latest, "succeeded", seconds=120)
    assert posting < 5.0
    assert ended["attempt"] == 1
    assert lab.cells(run) == lab.cells(later) == lab.cells(latest) == undisturbed


def test_a_worker_stopped_past_its_lease_writes_nothing_when_it_wakes(lab: Lab, undisturbed: list[bytes]):
    workers = lab.start_workers("left", "right")
    run = lab.submit()
    lab.wait_for_cells(run)
    sleeper = workers[lab.holder(run)]
    pool = sleeper.pool_process()
    os.kill(pool, signal.SIGSTOP)
    ended = lab.wait_for(run, "succeeded", seconds=90 + LEASE_SECONDS)
    before = rows_of(lab, run)
    os.kill(pool, signal.SIGCONT)
    eventually(lambda: "claim_lost" in sleeper.tail(), seconds=30, what="the sleeper notices")
    assert ended["attempt"] == 2
    assert rows_of(lab, run) == before
    assert lab.cells(run) == undisturbed


def test_postgres_restarted_mid_run_does_not_end_the_run(lab: Lab, undisturbed: list[bytes]):
    lab.start_worker()
    run = lab.submit()
    lab.wait_for_cells(run)
    lab.postgres.stop()
    eventually(lambda: not lab.answers("/readyz"), seconds=15, what="the web process says that it is not ready")
    lab.postgres.start()
    eventually(lambda: lab.answers("/readyz"), seconds=15, what="the web process is ready again")
    lab.wait_for(run, "succeeded", seconds=90)
    assert lab.cells(run) == undisturbed
    assert_log_is_gapless(lab, run)


def test_a_worker_that_is_told_to_stop_gives_its_run_back_without_a_loss(lab: Lab, undisturbed: list[bytes]):
    leaver = lab.start_worker("leaver")
    run = lab.submit()
    lab.wait_for_cells(run)
    leaver.send(signal.SIGTERM)
    started = time.monotonic()
    leaver.wait(30)
    took = time.monotonic() - started
    ((status, losses),) = lab.sql("SELECT status, losses FROM runs_run WHERE id = %s", run)
    lab.start_worker("stayer")
    lab.wait_for(run, "succeeded", seconds=90)
    assert (status, losses) == ("queued", 0)
    assert took < 12
    assert lab.cells(run) == undisturbed


def test_a_run_that_always_loses_its_worker_fails_and_blocks_nobody(lab: Lab):
    worker = lab.start_worker()
    run = lab.submit()
    lab.wait_for_cells(run)
    lab.sql("UPDATE runs_run SET losses = 2 WHERE id = %s", run)  # it was lost twice before
    os.kill(worker.pool_process(), signal.SIGKILL)
    failure = lab.wait_for(run, "failed", seconds=60)["failure"]
    lab.wait_for(lab.submit(params={"sites": ["resid_pre"]}), "succeeded", seconds=90)
    assert failure["code"] == "worker_lost"
