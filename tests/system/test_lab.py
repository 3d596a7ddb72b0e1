"""The life of runs in a whole lab: the queue and its reasons, cancel and resume, duplicates, a full disk."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import eventually
from tests.system.harness import Lab, add_prompts

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

SMALL = {"sites": ["resid_pre"], "dtype": "float32", "batch_rows": None}


def test_a_run_on_a_model_no_worker_has_stays_queued_and_says_why(lab: Lab, folder: Path):
    run = lab.submit()
    alone = lab.run(run)["queue"]["reason"]
    (folder / "models").mkdir()
    lab.start_worker("poor", PATCHBAY_MODEL_ROOTS=f"tests={folder / 'models'}")
    waiting = lab.run(run)
    assert alone.startswith("No worker is online")
    assert waiting["status"] == "queued"
    assert waiting["queue"]["reason"] == "No online worker has the model Tiny."


def test_fifty_wake_ups_and_two_workers_execute_each_run_once(lab: Lab):
    lab.start_workers("left", "right")
    prompts = add_prompts(lab, 2)
    runs = [lab.submit(prompts=prompts, params=SMALL) for _ in range(20)]
    lab.manage("shell", "-v", "0", "-c", "from interp_app.runs import wake\nfor _ in range(50): wake.publish()")
    ended = [lab.wait_for(run, "succeeded", seconds=120) for run in runs]
    claims = lab.sql(
        "SELECT run_id, count(*) FROM runs_runevent WHERE run_id = ANY(%s::uuid[]) AND kind = 'status'"
        " AND payload->>'stage' = 'loading' GROUP BY run_id",
        runs,
    )
    assert {run["attempt"] for run in ended} == {1}
    assert sorted(count for _, count in claims) == [1] * 20


def test_a_full_disk_fails_the_run_leaves_no_half_file_and_a_resume_ends_it(lab: Lab):
    artifacts = lab.folder / "data" / "artifacts"
    before = set(artifacts.rglob("*"))
    full = lab.start_worker("full", largest_file=4096)
    run = lab.submit(prompts=add_prompts(lab, 40), params=SMALL)
    failed = lab.wait_for(run, "failed", seconds=90)
    left = [path for path in set(artifacts.rglob("*")) - before if path.is_file()]
    full.kill_all()
    lab.start_worker("roomy")
    assert lab.call("POST", f"/api/v1/runs/{run}/resume/")[0] in (200, 202)
    ended = lab.wait_for(run, "succeeded", seconds=90)
    assert failed["failure"]["code"] == "storage_full"
    assert failed["cells_done"] == failed["cells_total"]
    assert left == []
    assert [artifact["name"] for artifact in ended["artifacts"]] == ["resid_pre.safetensors"]


@pytest.fixture(scope="class")
def calm_worker(shared_lab: Lab) -> Iterator[None]:
    """One worker for tests that do it no harm: starting one takes longer than most of what they do."""
    worker = shared_lab.start_worker("calm")
    yield
    worker.end()
    shared_lab.processes.remove(worker)


@pytest.mark.usefixtures("calm_worker")
class TestWithOneWorker:
    def test_a_cancelled_run_stops_within_two_seconds_keeps_its_cells_and_resumes(self, lab: Lab):
        whole = lab.submit()
        lab.wait_for(whole, "succeeded", seconds=90)
        run = lab.submit()
        lab.wait_for_cells(run, 20)
        started = time.monotonic()
        assert lab.call("POST", f"/api/v1/runs/{run}/cancel/")[0] in (200, 202)
        cancelled = lab.wait_for(run, "cancelled", seconds=30)
        took = time.monotonic() - started
        kept = lab.cells(run)
        assert lab.call("POST", f"/api/v1/runs/{run}/resume/")[0] in (200, 202)
        ended = lab.wait_for(run, "succeeded", seconds=90)
        assert 20 <= cancelled["cells_done"] < cancelled["cells_total"]
        assert kept != lab.cells(whole)
        assert ended["attempt"] == 2
        assert lab.cells(run) == lab.cells(whole)
        assert took < 6.0  # two seconds, at three times the target on shared cores

    def test_an_identical_run_is_answered_from_the_first_and_says_so(self, lab: Lab):
        first = lab.submit(params=SMALL)
        lab.wait_for(first, "succeeded", seconds=90)
        again = lab.run(lab.submit(params=SMALL, force=False))
        assert (again["status"], again["reused_from"]) == ("succeeded", first)
        assert lab.cells(again["id"]) == lab.cells(first)

    def test_an_idle_worker_stays_online(self, lab: Lab):
        def beats() -> list[tuple]:
            return lab.sql("SELECT heartbeat_at FROM runs_worker WHERE name LIKE 'calm@%%'")

        first = beats()
        eventually(lambda: beats() != first, seconds=10, what="another heartbeat while idle")
