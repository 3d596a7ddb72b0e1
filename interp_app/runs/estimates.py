"""How long runs take: measured once a worker, model and precision, then learned from the runs that finish.

`calibrate` times the model a worker has just loaded (`tracing.experiments.calibration`), `learn` compares a finished
run with what it should have taken, `of_plan` and `of_run` answer previews, the queue and a run's own progress. An
estimate's `basis` is "run" where an earlier run of the method on that worker and model corrects it, "model" where only
the model's speed is known, and "rate" where the worker never had the model: then its last runs' rate must do.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog
from django.db.models import TextField, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Coalesce
from django.utils import timezone

from interp_app.catalog.models import ModelSource
from interp_app.core.canonical import sha256_of
from interp_app.core.visibility import VisibleQuerySet
from interp_app.runs.models import Calibration, Run, Worker
from tracing.experiments import calibration
from tracing.experiments.calibration import FIXED_SECONDS, Habit, Rates
from tracing.experiments.registry import Cost

if TYPE_CHECKING:
    from tracing.models import LanguageModel

log = structlog.get_logger(__name__)

MIN_MEASURED_SECONDS: Final = 0.02
WORKERS_ASKED: Final = 50
STORING_SECONDS: Final = 0.02
"""What a worker adds to a method's own time, until a run has told: its events and results are written."""
DEFAULT_DTYPE: Final = "float32"
BASES: Final = ("run", "model", "rate")
"""What an estimate is told from, the best first."""
Key = tuple[uuid.UUID, uuid.UUID, str]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of computing, and what they were told from."""

    seconds: float
    basis: Literal["run", "model", "rate"]


def calibrate(worker: Worker, source: ModelSource, dtype: str, model: "LanguageModel") -> None:
    """Time the model, unless this worker has done so with these weights. What cannot be timed is only logged."""
    calibration.preload()
    weights = _weights(source)
    known = Calibration.objects.filter(worker=worker, model=source, dtype=dtype, weights=weights)
    if known.exists():
        return
    try:
        rates = calibration.measure(model)
    except Exception as error:  # noqa: BLE001 - an estimate is no reason to fail a run
        log.warning("not_calibrated", model=source.slug, dtype=dtype, error=str(error)[:300])
        return
    Calibration.objects.update_or_create(
        worker=worker,
        model=source,
        dtype=dtype,
        defaults={
            "flops_per_second": rates.flops_per_second,
            "seconds_per_launch": rates.seconds_per_launch,
            "habits": {},
            "weights": weights,
            "measured_at": timezone.now(),
        },
    )
    log.info("calibrated", model=source.slug, dtype=dtype, flops_per_second=round(rates.flops_per_second))


def learn(worker: Worker, run: Run, seconds: float) -> None:
    """Take in that `run`, computed whole by one attempt, took `seconds`."""
    if seconds < MIN_MEASURED_SECONDS or not run.flops:
        return
    rate = run.flops / seconds
    worker.flops_per_second = rate if not worker.flops_per_second else (rate + worker.flops_per_second) / 2
    Worker.objects.filter(pk=worker.pk).update(flops_per_second=worker.flops_per_second)
    found = Calibration.objects.filter(worker=worker, model=run.model_id, dtype=_dtype(run.spec)).first()
    if found is not None:
        expected = _rates(found).seconds(run.flops, run.launches)
        habit = asdict(_habit(found, run.method).after(expected, seconds))
        Calibration.objects.filter(pk=found.pk).update(habits={**found.habits, run.method: habit})


def of_plan(method: str, model: ModelSource, spec: Mapping[str, Any], cost: Cost) -> Estimate | None:
    """How long such a run would compute: the median of the workers that have the model; None where none was measured.

    Two queries.
    """
    asked = Worker.objects.order_by("-heartbeat_at")[:WORKERS_ASKED]
    able = [worker for worker in asked if model.slug in worker.models_available]
    known = calibrations(able, [model.pk])
    found = [
        estimate
        for worker in able
        if (estimate := _estimate(worker, known, method, model.pk, spec, cost.flops, cost.launches))
    ]
    # A worker that has run this method on this model knows better than any number that have not.
    bases = [one.basis for one in found]
    best = [one for one in found if one.basis == min(bases, key=BASES.index)]
    return Estimate(median(one.seconds for one in best), best[0].basis) if best else None


def of_run(run: Run, worker: Worker, known: Mapping[Key, Calibration] | None = None) -> float | None:
    """How long `worker` would compute the whole of `run`; None where it was never measured.

    To ask about many without a query each, give `known` (from `calibrations`) and runs `with_dtype`.
    """
    if known is None:
        known = calibrations([worker], [run.model_id])
    spec = {"dtype": dtype} if (dtype := getattr(run, "asked_dtype", None)) else run.spec
    found = _estimate(worker, known, run.method, run.model_id, spec, run.flops, run.launches)
    return found.seconds if found else None


def with_dtype(runs: VisibleQuerySet) -> VisibleQuerySet:
    """The runs with the one thing of their spec that `of_run` needs, which lists leave in the database."""
    found: VisibleQuerySet = runs.annotate(
        asked_dtype=Coalesce(KT("spec__dtype"), Value(DEFAULT_DTYPE), output_field=TextField())
    )
    return found


def calibrations(workers: Sequence[Worker], models: Sequence[uuid.UUID]) -> dict[Key, Calibration]:
    """What is known of these workers and models. One query, none for no workers."""
    if not workers:
        return {}
    rows = Calibration.objects.filter(worker__in=[worker.pk for worker in workers], model__in=set(models))
    return {(row.worker_id, row.model_id, row.dtype): row for row in rows}


def _estimate(
    worker: Worker,
    known: Mapping[Key, Calibration],
    method: str,
    model: uuid.UUID,
    spec: Mapping[str, Any],
    flops: float,
    launches: int,
) -> Estimate | None:
    row = known.get((worker.pk, model, _dtype(spec)))
    if row is not None:
        habit = _habit(row, method)
        return Estimate(habit.seconds(_rates(row).seconds(flops, launches)), "run" if habit.runs else "model")
    return Estimate(flops / worker.flops_per_second, "rate") if worker.flops_per_second else None


def _rates(row: Calibration) -> Rates:
    return Rates(row.flops_per_second, row.seconds_per_launch)


def _habit(row: Calibration, method: str) -> Habit:
    return Habit(**row.habits.get(method, {"fixed": FIXED_SECONDS + STORING_SECONDS}))


def _dtype(spec: Mapping[str, Any]) -> str:
    return str(spec.get("dtype", DEFAULT_DTYPE))


def _weights(source: ModelSource) -> str:
    return sha256_of([source.weights_sha256, source.config_sha256])
