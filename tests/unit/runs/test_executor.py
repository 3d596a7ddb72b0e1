"""Executing a claimed run on the tiny model, against methods that behave and methods that do not."""

import errno
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from django.db import OperationalError
from django.test import override_settings

from interp_app.catalog.models import ModelSource
from interp_app.core.errors import ServiceError
from interp_app.runs import artifacts, claims, executor, outcome, panels, services
from interp_app.runs.control import Control, Stop
from interp_app.runs.models import Run, RunArtifact, Status, Tile, Worker
from interp_app.runs.warm_models import WarmModels
from tests.factories import WorkerFactory
from tracing.errors import MetricError, OutOfMemoryError
from tracing.experiments import events as said
from tracing.experiments import registry
from tracing.experiments.events import Log, Progress, Result
from tracing.models import LanguageModel

pytestmark = pytest.mark.django_db(transaction=True)

PARAMS = {"sites": ["resid_pre"], "dtype": "float64", "batch_rows": 1}


@pytest.fixture
def worker(db) -> Worker:
    return WorkerFactory(models_available=["tiny"])


@pytest.fixture(scope="module")
def warm() -> WarmModels:
    return WarmModels("cpu")


@pytest.fixture
def run(member, tiny_model, prompts) -> Run:
    return services.submit_run(
        owner=member, model=tiny_model, prompts=prompts, method="activation_patching", params=PARAMS
    )


def execute(worker: Worker, warm: WarmModels, control: Control | None = None) -> Run:
    claim = claims.claim_next(worker)
    assert claim is not None
    executor.execute(claim, worker, warm, control or Control())
    return Run.objects.get(pk=claim.run_id)


def replace_method(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Iterator]) -> None:
    """Have the registered method yield what `run(context)` yields."""
    found = registry.get("activation_patching")
    monkeypatch.setitem(
        registry._METHODS,
        found.name,
        registry.Method(**{
            **{name: getattr(found, name) for name in registry.Method.__slots__},
            "run": lambda spec, model, pairs, context: run(context),
        }),
    )  # fmt: skip


def fails_with(monkeypatch, error: BaseException) -> None:
    def run(context):
        yield Progress(0, 39, "computing")
        raise error

    replace_method(monkeypatch, run)


def test_a_run_ends_succeeded_with_every_cell_a_result_and_its_provenance(run, worker, warm, tiny_model):
    run = execute(worker, warm)
    assert (run.status, run.cells_done, run.cells_total, run.failure_code) == (Status.SUCCEEDED, 39, 39, "")
    found = panels.panel_values(run.pk, 0)
    assert found is not None
    assert not (found.words == panels.UNKNOWN).any()
    assert "resid_pre" in run.summary
    for column in ("weights_sha256", "tokenizer_sha256", "config_sha256"):
        assert run.provenance["model"][column] == getattr(tiny_model, column)
    assert {"python", "packages", "device", "dtype", "seed", "threads", "wall_seconds"} <= set(run.provenance)
    assert run.provenance["packages"]["torch"]
    kinds = [event.kind for event in run.events.all()]
    assert kinds[:3] == ["status", "status", "log"]
    assert kinds[-1] == "status"
    assert {"panel", "tile", "progress", "result"} <= set(kinds)


def test_the_result_is_an_artifact_that_reads_back(run, worker, warm):
    run = execute(worker, warm)
    row = RunArtifact.objects.get(run=run)
    data, arrays = artifacts.decode(artifacts.path_of(row.artifact_id).read_bytes())
    event = run.events.get(kind="result")
    assert event.payload["artifact"] == {"name": row.name, "sha256": row.artifact_id, "size": row.artifact.size}
    assert data["name"] == event.payload["name"]
    assert arrays


def test_a_result_whose_commit_was_not_answered_is_told_once(run, worker, warm, monkeypatch):
    attach, calls = outcome._attach, []

    def answer_lost(*arguments, **options) -> None:
        attach(*arguments, **options)
        calls.append(arguments)
        if len(calls) == 1:
            raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(outcome, "_attach", answer_lost)
    done = execute(worker, warm)
    assert done.status == Status.SUCCEEDED
    assert done.events.filter(kind="result").count() == 1
    assert RunArtifact.objects.filter(run=done).count() == 1


def test_progress_ends_at_all_cells_with_a_rate(run, worker, warm):
    run = execute(worker, warm)
    last = run.events.filter(kind="progress").last().payload
    assert (last["done"], last["total"]) == (39, 39)
    assert last["rate"] > 0


def test_tiles_of_an_earlier_attempt_are_not_computed_again(run, worker, warm):
    whole = execute(worker, warm)
    cells = panels.panel_values(whole.pk, 0).to_bytes()
    kept = Tile.objects.filter(run=whole, r0__gte=1)
    kept_seqs = set(kept.values_list("seq", flat=True))
    Tile.objects.filter(run=whole, r0=0).delete()
    Run.objects.filter(pk=whole.pk).update(status=Status.CANCELLED)
    services.resume_run(run=whole, actor=whole.owner)
    before = Tile.objects.filter(run=whole).count()
    again = execute(worker, warm)
    assert again.status == Status.SUCCEEDED
    assert again.attempt == 2
    assert kept_seqs <= set(Tile.objects.filter(run=again).values_list("seq", flat=True))
    assert Tile.objects.filter(run=again, seq__gt=whole.last_seq).count() < before
    assert panels.panel_values(again.pk, 0).to_bytes() == cells
    assert again.events.filter(kind="panel").count() == 1


@pytest.mark.parametrize(("reason", "status"), [(Stop.CANCEL, Status.CANCELLED), (Stop.SHUTDOWN, Status.QUEUED)])
def test_a_stop_between_two_tiles_keeps_what_was_computed(run, worker, warm, monkeypatch, reason, status):
    control = Control()
    original = registry.get("activation_patching").run

    def stop_after_one(spec, model, pairs, context):
        for event in original(spec, model, pairs, context):
            if event.kind == "tile":
                control.stop(reason)
            yield event

    found = registry.get("activation_patching")
    fields = {name: getattr(found, name) for name in registry.Method.__slots__}
    monkeypatch.setitem(registry._METHODS, found.name, registry.Method(**{**fields, "run": stop_after_one}))
    run = execute(worker, warm, control)
    assert (run.status, run.losses) == (status, 0)
    assert 0 < run.cells_done < run.cells_total
    assert Tile.objects.filter(run=run).count() == 1


def test_a_lost_claim_writes_nothing_more(run, worker, warm, monkeypatch):
    def lose(context):
        Run.objects.filter(pk=run.pk).update(attempt=5)
        yield Log("info", "late")

    replace_method(monkeypatch, lose)
    after = execute(worker, warm)
    assert (after.status, after.attempt) == (Status.RUNNING, 5)
    assert not after.events.filter(kind="log", payload__message="late").exists()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            MetricError("The metric is NaN on pair 2.", remedy="Check it.", where={"pair": 2}),
            "metric_invalid",
            "pair 2",
        ),
        (OutOfMemoryError("One row needs 9 GB."), "out_of_memory", "9 GB"),
        (ServiceError("model_unavailable", "Gone.", "Bring it back."), "model_unavailable", "Bring it back."),
        (artifacts.StorageFull("no room"), "storage_full", "no room"),
        (MemoryError(), "out_of_memory", "memory"),
    ],
    ids=lambda value: getattr(value, "code", None) or type(value).__name__,
)
def test_a_foreseen_error_is_told_in_its_own_words(run, worker, warm, monkeypatch, error, code, words):
    fails_with(monkeypatch, error)
    run = execute(worker, warm)
    assert (run.status, run.failure_code) == (Status.FAILED, code)
    assert words in run.failure_text
    assert run.events.last().payload["failure"]["code"] == code


def test_where_an_error_happened_is_kept_for_programs(run, worker, warm, monkeypatch):
    fails_with(monkeypatch, MetricError("NaN", remedy="Check it.", where={"pair": 2, "value": float("nan")}))
    run = execute(worker, warm)
    assert run.failure_detail == {"remedy": "Check it.", "where": {"pair": 2, "value": None}}


def test_an_unforeseen_error_shows_a_number_and_no_traceback(run, worker, warm, monkeypatch):
    fails_with(monkeypatch, RuntimeError("secret prompt at /home/ada"))
    run = execute(worker, warm)
    assert run.failure_code == "internal_error"
    assert run.failure_detail["error_id"] in run.failure_text
    assert "secret" not in run.failure_text
    assert "/home" not in str(run.failure_detail)


def test_a_broken_device_requeues_the_run_and_ends_the_process(run, worker, warm, monkeypatch):
    ended = []

    def leave(status):
        ended.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    fails_with(monkeypatch, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(SystemExit):
        execute(worker, warm)
    run.refresh_from_db()
    assert ended == [70]
    assert (run.status, run.losses) == (Status.QUEUED, 1)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_files_that_are_not_the_registered_ones_are_refused(member, prompts, worker, tiny_model, name):
    other = {
        "weights_sha256": {"model.safetensors": "0" * 64},
        "tokenizer_sha256": "0" * 64,
        "config_sha256": "0" * 64,
    }
    column = "weights_sha256" if name == "model.safetensors" else f"{name.removesuffix('.json')}_sha256"
    ModelSource.objects.filter(pk=tiny_model.pk).update(**{column: other[column]})
    tiny_model.refresh_from_db()
    services.submit_run(owner=member, model=tiny_model, prompts=prompts, method="activation_patching", params=PARAMS)
    run = execute(worker, WarmModels("cpu"))
    assert run.failure_code == "model_unavailable"
    assert f"not the ones that were registered: {name}." in run.failure_text
    assert run.failure_detail["where"] == {"files": [name]}


@pytest.mark.parametrize("column", ["weights_sha256", "tokenizer_sha256", "config_sha256"])
def test_a_run_queued_before_its_model_was_registered_again_fails_and_says_submit_again(
    run, worker, warm, tiny_model, column
):
    now = {"model.safetensors": "1" * 64} if column == "weights_sha256" else "1" * 64
    ModelSource.objects.filter(pk=tiny_model.pk).update(**{column: now})
    run = execute(worker, warm)
    assert (run.status, run.failure_code, run.cells_done) == (Status.FAILED, "model_changed", 0)
    assert "registered again with other files" in run.failure_text
    assert "Submit the experiment again" in run.failure_detail["remedy"]
    assert run.provenance == {}


def test_a_resumed_run_never_mixes_the_tiles_of_two_models(run, worker, warm, tiny_model):
    whole = execute(worker, warm)
    Tile.objects.filter(run=whole, r0=0).delete()
    Run.objects.filter(pk=whole.pk).update(status=Status.CANCELLED)
    services.resume_run(run=whole, actor=whole.owner)
    ModelSource.objects.filter(pk=tiny_model.pk).update(config_sha256="1" * 64)
    before = set(Tile.objects.filter(run=whole).values_list("seq", flat=True))
    again = execute(worker, warm)
    assert (again.status, again.failure_code) == (Status.FAILED, "model_changed")
    assert set(Tile.objects.filter(run=again).values_list("seq", flat=True)) == before
    assert again.provenance["model"]["config_sha256"] == whole.provenance["model"]["config_sha256"] != "1" * 64


def test_a_method_that_ends_with_unknown_cells_has_not_succeeded(run, worker, warm, monkeypatch):
    def stop_early(context):
        yield Progress(0, 39, "computing")
        for r0, rows in ((0, 2), (1, 1)):  # the second covers cells of the first again
            yield said.Tile(panel=0, r0=r0, c0=0, values=np.ones((1, rows, 13), dtype=np.float32))
        yield Progress(39, 39, "computing")

    replace_method(monkeypatch, stop_early)
    run = execute(worker, warm)
    assert (run.status, run.failure_code) == (Status.FAILED, "result_incomplete")
    assert "13 of 39 cells were not computed" in run.failure_text
    assert run.failure_detail["remedy"]
    assert Tile.objects.filter(run=run).count() == 2


def test_models_of_the_same_weights_under_another_config_are_not_shared(tiny_model, warm):
    warm.get(tiny_model, "float32")
    tiny_model.config_sha256 = "1" * 64
    assert not warm.has(tiny_model, "float32")


def test_a_full_disk_leaves_no_half_file(run, worker, warm, monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with override_settings(ARTIFACTS_DIR=tmp_path):
        run = execute(worker, warm)
    assert run.failure_code == "storage_full"
    assert run.cells_done == 39
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not RunArtifact.objects.exists()


def test_an_extra_array_is_an_artifact_under_a_safe_name(run, worker, warm, monkeypatch):
    def extra(context):
        yield said.Tile(panel=0, r0=0, c0=0, values=np.ones((1, 3, 13), dtype=np.float32))
        context.save_array("../x y", np.arange(3.0))
        yield Result("grid", "Grid", {"nan": float("nan")}, {"v": np.zeros(2)}, {"best": float("inf")})

    replace_method(monkeypatch, extra)
    run = execute(worker, warm)
    assert run.status == Status.SUCCEEDED
    assert run.summary == {"grid": {"best": None}}
    assert sorted(row.name for row in run.artifacts.all()) == ["grid.safetensors", "x-y.safetensors"]


def test_the_worker_learns_its_rate(run, worker, warm):
    run = execute(worker, warm)
    worker.refresh_from_db()
    assert worker.flops_per_second == pytest.approx(run.flops / run.provenance["compute_seconds"], rel=0.05)


def test_warm_models_keep_to_their_bytes_and_drop_the_oldest(tiny_model):
    one = WarmModels("cpu", limit_bytes=10**9)
    first = one.get(tiny_model, "float32")
    assert one.get(tiny_model, "float32") is first
    assert one.source_ids == [tiny_model.pk]
    size = sum(parameter.nbytes for parameter in first.module.parameters())
    small = WarmModels("cpu", limit_bytes=2 * size + size // 2)
    small.get(tiny_model, "float32")
    assert isinstance(small.get(tiny_model, "bfloat16"), LanguageModel)
    assert small.has(tiny_model, "float32")
    small.get(tiny_model, "float64")
    assert not small.has(tiny_model, "float32")
    assert small.has(tiny_model, "float64")
