"""Whatever is killed in the middle of a run, the run ends `succeeded` with the cells of an undisturbed run."""

import os
import signal

import pytest

from tests.deadlines import eventually
from tests.system.harness import LEASE_SECONDS, Lab

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def undisturbed(shared_lab: Lab) -> list[bytes]:
    """The cells of the run every test here submits, computed without any disturbance."""
    worker = shared_lab.start_worker("calm")
    run = shared_lab.submit()
    shared_lab.wait_for(run, "succeeded", seconds=90)
    worker.end()
    return shared_lab.cells(run)


def test_an_undisturbed_run_is_repeatable_bit_by_bit(lab: Lab, undisturbed: list[bytes]):
    lab.start_worker("again")
    run = lab.submit()
    lab.wait_for(run, "succeeded", seconds=90)
    assert lab.cells(run) == undisturbed


def test_a_killed_pool_process_costs_one_attempt(lab: Lab, undisturbed: list[bytes]):
    worker = lab.start_worker()
    run = lab.submit()
    lab.wait_for_cells(run)
    (child,) = computing_children(lab, worker.pid)
    os.kill(child, signal.SIGKILL)
    ended = lab.wait_for(run, "succeeded", seconds=90)
    assert ended["attempt"] == 2
    assert lab.cells(run) == undisturbed


def test_a_killed_worker_is_replaced_by_another(lab: Lab, undisturbed: list[bytes]):
    worker = lab.start_worker("first")
    run = lab.submit()
    lab.wait_for_cells(run)
    worker.kill_all()
    lab.start_worker("second")
    ended = lab.wait_for(run, "succeeded", seconds=90)
    assert ended["attempt"] == 2
    assert lab.cells(run) == undisturbed


def computing_children(lab: Lab, parent: int) -> list[int]:
    """Pool processes of a Celery worker: its children that are not Python's resource tracker."""
    found = []
    for pid in open(f"/proc/{parent}/task/{parent}/children").read().split():
        command = open(f"/proc/{pid}/cmdline").read()
        if "resource_tracker" not in command and "semaphore_tracker" not in command:
            found.append(int(pid))
    return found
