"""What runs should take: from a model's own timings, corrected by the runs that finish."""

import pytest
from django.utils import timezone

from interp_app.runs import claims, estimates, executor, services
from interp_app.runs.control import Control
from interp_app.runs.estimates import Estimate
from interp_app.runs.models import Calibration, Run, Status
from interp_app.runs.warm_models import WarmModels
from tests.factories import RunFactory, WorkerFactory
from tracing.experiments.calibration import FIXED_SECONDS as OWN
from tracing.experiments.registry import Cost

pytestmark = pytest.mark.django_db(transaction=True)

COST = Cost(cells=10, flops=1000.0, naive_flops=5000.0, launches=4)
SPEC = {"dtype": "float32"}
FIXED_SECONDS = OWN + estimates.STORING_SECONDS


def calibrated(worker, model, **changes) -> Calibration:
    fields = {
        "dtype": "float32", "flops_per_second": 100.0, "seconds_per_launch": 0.5, "weights": "w",
        "measured_at": timezone.now(),
    }  # fmt: skip
    return Calibration.objects.create(worker=worker, model=model, **{**fields, **changes})


def of_plan(model, spec=SPEC) -> Estimate | None:
    return estimates.of_plan("some_method", model, spec, COST)


def test_nothing_is_promised_before_anything_was_measured(model):
    WorkerFactory(models_available=["tiny"])
    assert of_plan(model) is None


def test_a_worker_that_never_had_the_model_is_judged_by_its_rate(model):
    WorkerFactory(models_available=["tiny"], flops_per_second=100.0)
    WorkerFactory(models_available=["other"], flops_per_second=1.0)
    assert of_plan(model) == Estimate(10.0, "rate")


def test_timings_of_the_model_count_flops_and_launches_and_come_before_rates(model):
    calibrated(WorkerFactory(models_available=["tiny"]), model)
    WorkerFactory(models_available=["tiny"], flops_per_second=1.0)
    assert of_plan(model) == Estimate(12.0 + FIXED_SECONDS, "model")
    assert of_plan(model, {"dtype": "float64"}) == Estimate(1000.0, "rate")


def test_a_preview_says_whether_an_earlier_run_or_only_the_models_speed_told_it(model, prompts):
    ran, other = WorkerFactory(models_available=["tiny"]), WorkerFactory(models_available=["tiny"])
    calibrated(ran, model)
    calibrated(other, model, flops_per_second=1.0)
    assert of_plan(model).basis == "model"
    run = RunFactory(model=model, prompts=prompts, method="some_method", spec=SPEC, flops=1000.0, launches=4)
    estimates.learn(ran, run, 24.0)
    # The worker that has not run it says nothing beside the one that has.
    assert of_plan(model) == Estimate(pytest.approx(24.0), "run")
    assert estimates.of_plan("another", model, SPEC, COST).basis == "model"


def test_a_finished_run_corrects_its_method_and_no_other(model, prompts):
    worker = WorkerFactory(models_available=["tiny"])
    row = calibrated(worker, model)
    run = RunFactory(model=model, prompts=prompts, method="some_method", spec=SPEC, flops=1000.0, launches=4)
    estimates.learn(worker, run, 24.0)
    assert of_plan(model).seconds == pytest.approx(24.0)
    estimates.learn(worker, run, 12.0)
    assert of_plan(model).seconds == pytest.approx(18.0)
    row.refresh_from_db()
    assert list(row.habits) == ["some_method"]
    assert estimates.of_plan("another", model, SPEC, COST).seconds == pytest.approx(12.0 + FIXED_SECONDS)


def test_runs_of_a_list_are_estimated_without_a_query_each(model, prompts, django_assert_num_queries):
    worker = WorkerFactory(models_available=["tiny"])
    calibrated(worker, model, dtype="float64", flops_per_second=10.0, seconds_per_launch=0.0)
    calibrated(worker, model, seconds_per_launch=0.0)
    RunFactory(model=model, prompts=prompts, spec={"dtype": "float64"}, flops=1000.0)
    RunFactory(model=model, prompts=prompts, spec={}, flops=1000.0)
    with django_assert_num_queries(2):
        runs = list(estimates.with_dtype(Run.objects.defer("spec")).order_by("created_at"))
        known = estimates.calibrations([worker], [model.pk])
        assert [estimates.of_run(run, worker, known) for run in runs] == [100.0 + FIXED_SECONDS, 10.0 + FIXED_SECONDS]


def test_the_first_load_of_a_model_measures_it_and_its_run_teaches(member, tiny_model, prompts):
    worker, warm = WorkerFactory(models_available=["tiny"]), WarmModels("cpu")

    def compute(**params) -> Run:
        services.submit_run(
            owner=member, model=tiny_model, prompts=prompts, method="activation_patching", params=params, force=True
        )
        claim = claims.claim_next(worker)
        executor.execute(claim, worker, warm, Control())
        return Run.objects.get(pk=claim.run_id)

    first = compute()
    row = Calibration.objects.get()
    assert (first.status, row.worker, row.model, row.dtype) == (Status.SUCCEEDED, worker, tiny_model, "float32")
    assert row.flops_per_second > 0
    assert row.seconds_per_launch >= 0
    assert "activation_patching" in row.habits or first.provenance["compute_seconds"] < 0.02
    compute()
    assert Calibration.objects.get().measured_at == row.measured_at
    compute(dtype="float64")
    assert Calibration.objects.count() == 2


def test_other_weights_are_measured_again(tiny_model):
    worker, warm = WorkerFactory(models_available=["tiny"]), WarmModels("cpu")
    calibrated(worker, tiny_model, weights="of other files", habits={"some_method": {"factor": 9.0}})
    estimates.calibrate(worker, tiny_model, "float32", warm.get(tiny_model, "float32"))
    assert Calibration.objects.get().habits == {}


def test_a_model_that_cannot_be_timed_fails_no_run(tiny_model, monkeypatch):
    def fails(_):
        raise RuntimeError("no forward")

    monkeypatch.setattr(estimates.calibration, "measure", fails)
    estimates.calibrate(WorkerFactory(), tiny_model, "float32", None)
    assert not Calibration.objects.exists()
