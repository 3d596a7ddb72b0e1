"""Model folders that go wrong after they were registered, through a real worker process: what the run's page then says.

Nothing here is replaced by a double: folders are registered, run and broken as an administrator might break them.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from safetensors.torch import load_file, save_file

from interp_app.catalog import services as catalog
from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs import queue, services
from interp_app.runs.models import Run, Status, Tile
from interp_app.runs.worker import WorkerProcess
from tests import tiny

pytestmark = pytest.mark.django_db(transaction=True)

PARAMS = {"sites": ["resid_pre"], "dtype": "float64", "batch_rows": 1}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of this test's own."""
    monkeypatch.setitem(settings.MODEL_ROOTS, "lab", tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def start(db: None) -> Iterator[Callable[[], WorkerProcess]]:
    """Starts worker processes, each with nothing loaded; without their heartbeat threads, which no test here needs."""
    started: list[WorkerProcess] = []

    def start_one() -> WorkerProcess:
        started.append(WorkerProcess(f"worker-{len(started)}", leave=lambda _: None))
        return started[-1]

    yield start_one
    for one in started:
        one.close()


@pytest.fixture
def submit(folder: Path, member: User, prompts: PromptSetVersion) -> Callable[[], Run]:
    def submit_one() -> Run:
        model = catalog.register_model(actor=None, location="lab/own", slug="own", title="Own")
        return services.submit_run(
            owner=member, model=model, prompts=prompts, method="activation_patching", params=PARAMS
        )

    return submit_one


def computed_by(worker: WorkerProcess, run: Run) -> Run:
    assert worker.work_once()
    return Run.objects.get(pk=run.pk)


def assert_told(run: Run, code: str, words: str, remedy: str) -> None:
    """The run failed, and says so to programs, to people, and with what to do next, nowhere with a path."""
    assert (run.status, run.failure_code) == (Status.FAILED, code)
    assert words in run.failure_text
    assert remedy in run.failure_detail["remedy"]
    event = run.events.last()
    assert event is not None
    assert event.payload["failure"] == {"code": code, "text": run.failure_text, "detail": run.failure_detail}
    assert str(settings.MODEL_ROOTS["lab"]) not in run.failure_text + str(run.failure_detail)


def test_a_folder_that_vanished_under_a_worker_fails_the_run_with_where_to_put_it(submit, start, folder) -> None:
    run = submit()
    worker = start()
    shutil.rmtree(folder)
    run = computed_by(worker, run)
    assert_told(run, "model_unavailable", "There is no model folder 'lab/own'", "PATCHBAY_MODEL_ROOTS")


def test_a_folder_that_vanished_before_a_worker_came_leaves_the_run_queued_with_the_reason(
    submit, start, folder, member
) -> None:
    run = submit()
    shutil.rmtree(folder)
    worker = start()
    worker._write_row()
    assert not worker.work_once()
    (entry,) = queue.queue_view(member)
    assert (entry.run.pk, entry.run.status) == (run.pk, Status.QUEUED)
    assert entry.reason == "No online worker has the model Own."


def test_pickled_weights_in_the_place_of_the_registered_ones_are_never_read(submit, start, folder) -> None:
    run = submit()
    worker = start()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    run = computed_by(worker, run)
    assert_told(run, "model_unavailable", "pickled weights only (pytorch_model.bin)", "safe_serialization=True")
    assert not start().work_once()


def test_a_config_changed_after_registration_fails_the_run(submit, start, folder) -> None:
    run = submit()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"n_head": 4', '"n_head": 2'))
    run = computed_by(start(), run)
    assert_told(run, "model_unavailable", "not the ones that were registered: config.json", "register the model again")


def test_a_model_registered_again_fails_what_waited_for_the_old_one_and_runs_what_is_submitted_anew(
    submit, start, folder
) -> None:
    old = submit()
    tiny.make(folder, seed=7)
    new = submit()
    worker = start()
    old, new = computed_by(worker, old), computed_by(worker, new)
    assert_told(Run.objects.get(pk=old.pk), "model_changed", "registered again with other files", "Submit")
    assert Run.objects.get(pk=new.pk).status == Status.SUCCEEDED


def test_a_metric_that_is_not_a_number_names_the_pair(submit, start, folder) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][tiny.VOCABULARY.index("Anna")] = float("nan")  # in the second pair only
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run = submit()
    run = computed_by(start(), run)
    assert_told(run, "metric_invalid", "pair 2", "")
    assert run.cells_done == 0


def test_what_was_computed_before_the_folder_vanished_is_kept(submit, start, folder) -> None:
    run = submit()
    run = computed_by(start(), run)
    assert run.status == Status.SUCCEEDED
    Tile.objects.filter(run=run, r0=0).delete()
    Run.objects.filter(pk=run.pk).update(status=Status.CANCELLED, cells_done=26)
    services.resume_run(run=run, actor=run.owner)
    kept = set(Tile.objects.filter(run=run).values_list("seq", flat=True))
    worker = start()
    shutil.rmtree(folder)
    run = computed_by(worker, run)
    assert_told(run, "model_unavailable", "There is no model folder", "PATCHBAY_MODEL_ROOTS")
    assert kept
    assert set(Tile.objects.filter(run=run).values_list("seq", flat=True)) == kept
    assert 0 < run.cells_done < run.cells_total
    assert ModelSource.objects.get(slug="own").runs.count() == 1
