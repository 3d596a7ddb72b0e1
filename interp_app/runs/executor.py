"""Carries out one claimed run: the only place where the tracing library and the database meet.

1. Check that the request still means what it did when it was submitted, and freeze the provenance. 2. Load the model,
or take it warm. 3. Iterate the method's events into the run's log, stopping between two of them when asked to. Results
go to the disk as they come. 4. Once the method has ended, tell of all results in one transaction: a run that fails or
is stopped half way has none of them. 5. Write how it ended: succeeded only with every cell of its panels computed, and
something to show. What earlier attempts stored is handed to the method, which does not compute it again.
"""

import os
import time
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import numpy as np
import structlog
from django.db import InterfaceError, OperationalError
from numpy.typing import NDArray

from interp_app.catalog import selectors as catalog
from interp_app.core.errors import ServiceError
from interp_app.runs import claims, doorbell, estimates, events, planning, provenance
from interp_app.runs.claims import Claim
from interp_app.runs.control import Control, Stop
from interp_app.runs.events import ClaimLost, NewEvent
from interp_app.runs.failures import Failure, failure_of, is_device_fault, is_out_of_memory
from interp_app.runs.models import Run, RunEvent, Status, Tile, Worker
from interp_app.runs.outcome import Outcome
from interp_app.runs.panels import covered_cells, panel_cells, tile_values
from interp_app.runs.recorder import Recorder, payload, retrying
from interp_app.runs.warm_models import WarmModels
from tracing.errors import OutOfMemoryError
from tracing.experiments import events as said

log = structlog.get_logger(__name__)

EXIT_DEVICE_FAULT: Final = 70


class Context:
    """What a method sees of its worker (`tracing.experiments.registry.RunContext`)."""

    def __init__(self, claim: Claim, control: Control, outcome: Outcome) -> None:
        self._claim = claim
        self._control = control
        self._outcome = outcome
        self.told_to_stop = False

    def should_stop(self) -> bool:
        self.told_to_stop = self.told_to_stop or self._control.stopping
        return self.told_to_stop

    def stored_tiles(self, panel: int) -> Sequence[said.Tile]:
        rows = Tile.objects.filter(run_id=self._claim.run_id, panel=panel).order_by("seq")
        return retrying(lambda: [_as_said(row) for row in rows.all()], self._control)

    def save_array(self, name: str, array: NDArray[np.generic]) -> None:
        self._outcome.add_array(name, array)


def execute(claim: Claim, worker: Worker, warm: WarmModels, control: Control) -> None:
    """Compute the claimed run to an end that is written, unless the claim is lost on the way. Never raises for a run.

    A fault that breaks the device for good ends the process, so that a clean one starts.
    """
    structlog.contextvars.bind_contextvars(run_id=str(claim.run_id), attempt=claim.attempt)
    started = time.monotonic()
    try:
        failure = _attempt(claim, worker, warm, control, started)
        if failure is not None:
            retrying(lambda: claims.finish(claim, Status.FAILED, failure=dict(failure)), control)
            log.info("run_failed", code=failure["code"])
    except ClaimLost:
        log.warning("claim_lost")
    finally:
        structlog.contextvars.unbind_contextvars("run_id", "attempt")


def _attempt(claim: Claim, worker: Worker, warm: WarmModels, control: Control, started: float) -> Failure | None:
    """One attempt; the failure to write, or None where the end is written already."""
    caught: BaseException
    try:
        _compute(claim, worker, warm, control, started)
        return None
    except ClaimLost:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a method raises becomes the run's failure
        caught = error
    if control.reason is Stop.LOST:
        raise ClaimLost(str(claim.run_id)) from caught
    if isinstance(caught, OperationalError | InterfaceError):  # it stayed away longer than we retry
        log.error("database_gone", error=str(caught)[:300])
        retrying(lambda: claims.lose(claim, "its worker could not reach the database"), control)
        return None
    if is_device_fault(caught):
        _end_process(claim, caught)
    if is_out_of_memory(caught) or isinstance(caught, OutOfMemoryError):
        caught.__traceback__ = None  # its frames hold the tensors that did not fit
        warm.clear()
    return failure_of(caught, device=worker.device)


def _compute(claim: Claim, worker: Worker, warm: WarmModels, control: Control, started: float) -> None:
    run: Run = retrying(
        lambda: Run.objects.select_related("model", "prompts__prompt_set").get(pk=claim.run_id), control
    )
    _require_unchanged(run)
    _freeze(claim, run, worker, warm.device)
    outcome = Outcome(claim, control)
    context = Context(claim, control, outcome)
    done = retrying(lambda: _stored_places(run), control)
    expected = retrying(lambda: estimates.of_run(run, worker), control)
    with Recorder(claim, control, total=run.cells_total, done=done, expected_seconds=expected) as recorder:
        method = planning.find_method(run.method)
        spec = planning.parse_spec(method, run.spec)
        model = _model(run, worker, warm, recorder, control)
        begun = time.monotonic()
        stream = method.run(spec, model, catalog.pairs_of(run.prompts), context)
        recorder.stage("baselines")
        completed = True
        for event in stream:
            _take(event, run, recorder, outcome, control)
            if control.stopping:
                completed = False
                break
        recorder.drain()
        completed = completed and not context.told_to_stop
        compute_seconds = time.monotonic() - begun
    if completed:
        retrying(lambda: _require_whole(run, outcome), control)
        outcome.publish(run)
        _succeed(claim, run, worker, started, compute_seconds)
    else:
        _stop(claim, control)


def _require_unchanged(run: Run) -> None:
    """Raises `ServiceError` `model_changed` where the run would compute something else than was submitted.

    Its model's row may have been rewritten while it waited, or between two attempts; then tiles of two models, or of
    two engines, would meet in one figure, and the result would be found under a hash that is not its own.
    """
    if planning.spec_hash(run.method, run.spec, run.model, run.prompts) == run.spec_hash:
        return
    raise ServiceError(
        "model_changed",
        f"{run.model.title} was registered again with other files, or Patchbay was upgraded to another engine, since "
        "this run was submitted.",
        "Submit the experiment again: it then runs with what is registered now.",
    )


def _require_whole(run: Run, outcome: Outcome) -> None:
    """Raises `ServiceError` `result_incomplete` where the method ended by itself with cells nobody computed, or with
    nothing to show at all."""
    planned: int = Run.objects.values_list("cells_total", flat=True).get(pk=run.pk)
    total = panel_cells(run.pk) or planned
    missing = total - covered_cells(run.pk)
    if missing <= 0 and (total or outcome.results):
        return
    log.error("result_incomplete", missing=missing, total=total, method=run.method)
    what = f"{missing} of {total} cells were not computed" if total else "it gave no result"
    raise ServiceError(
        "result_incomplete",
        f"The method ended although {what}. This is a fault of Patchbay, not of the experiment; "
        "the cells that were computed are kept.",
        "Submit the experiment again with “compute again”, and tell an administrator the run's address.",
    )


def _model(run: Run, worker: Worker, warm: WarmModels, recorder: Recorder, control: Control) -> Any:
    """The run's model, and at its first load on this worker its speed, for the estimates."""
    dtype = str(run.spec.get("dtype", "float32"))
    loading = not warm.has(run.model, dtype)
    if loading:
        recorder.put(events.log_event("info", f"Loading {run.model.title} as {dtype} on {warm.device}."))
    model = warm.get(run.model, dtype)
    if loading:
        retrying(lambda: estimates.calibrate(worker, run.model, dtype, model), control)
    return model


def _take(event: said.Event, run: Run, recorder: Recorder, outcome: Outcome, control: Control) -> None:
    """Store one event of the method."""
    if isinstance(event, said.Tile):
        if recorder.computing_since is None:
            recorder.stage("computing")
        recorder.put(NewEvent("tile", payload(event), event))
    elif isinstance(event, said.Progress):
        recorder.stage(event.stage, event.message, event.done, event.total)
    elif isinstance(event, said.Result):
        recorder.stage("saving")
        outcome.add(event)
    elif isinstance(event, said.PanelOpened):
        recorder.opened(outcome.opened(event))
        if not retrying(lambda: _already_open(run, event), control):
            recorder.put(NewEvent(event.kind, payload(event)))
    else:
        recorder.put(NewEvent(event.kind, payload(event)))


def _succeed(claim: Claim, run: Run, worker: Worker, started: float, compute_seconds: float) -> None:
    ended = provenance.at_end(
        wall_seconds=time.monotonic() - started,
        compute_seconds=compute_seconds,
        peak_device_bytes=_peak_device_bytes(),
    )
    fields = {"provenance": {**run.provenance, **ended}, "steps_done": 0, "steps_total": 0}
    retrying(lambda: claims.finish(claim, Status.SUCCEEDED, fields=fields))
    if run.attempt == 1:  # a later attempt computed only what was missing
        retrying(lambda: estimates.learn(worker, run, compute_seconds))
    log.info("run_succeeded", seconds=ended["wall_seconds"])


def _stop(claim: Claim, control: Control) -> None:
    """Write the end of an attempt that was told to stop; a lost one writes nothing."""
    if control.reason is Stop.CANCEL:
        retrying(lambda: claims.finish(claim, Status.CANCELLED), control)
        log.info("run_cancelled")
    elif control.reason is Stop.SHUTDOWN:
        retrying(lambda: claims.release(claim, "The worker is stopping; the run is queued again."), control)
        log.info("run_released")
    else:
        raise ClaimLost(str(claim.run_id))


def _freeze(claim: Claim, run: Run, worker: Worker, device: str) -> None:
    import torch  # the executor's process computes; importing it costs nothing it does not need

    run.provenance = provenance.at_claim(run, worker, device=device, threads=torch.get_num_threads())
    retrying(lambda: events.append(run.pk, [], attempt=claim.attempt, fields={"provenance": run.provenance}))
    torch.manual_seed(int(run.spec.get("seed") or 0))
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def _peak_device_bytes() -> int | None:
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None


def _stored_places(run: Run) -> dict[tuple[int, int, int], int]:
    rows = Tile.objects.filter(run=run).values_list("panel", "r0", "c0", "nr", "nc")
    return {(panel, r0, c0): nr * nc for panel, r0, c0, nr, nc in rows}


def _already_open(run: Run, event: said.PanelOpened) -> bool:
    """Whether an earlier attempt announced this very panel."""
    earlier = RunEvent.objects.filter(run=run, kind="panel", payload__index=event.index).order_by("-seq").first()
    return earlier is not None and earlier.payload == payload(event)


def _as_said(row: Tile) -> said.Tile:
    examples = None
    if row.examples_dtype:
        flat = np.frombuffer(bytes(row.examples), dtype=np.dtype(row.examples_dtype).newbyteorder("<"))
        examples = flat.reshape(-1, row.nr, row.nc)
    return said.Tile(panel=row.panel, r0=row.r0, c0=row.c0, values=tile_values(row), examples=examples)


def _end_process(claim: Claim, error: BaseException) -> NoReturn:
    """The CUDA context is broken for good: give the run back as a loss and let a clean process start."""
    log.error("device_fault", error=str(error)[:500])
    claims.lose(claim, "its device reported an error, so the worker process was replaced")
    doorbell.flush()
    os._exit(EXIT_DEVICE_FAULT)
