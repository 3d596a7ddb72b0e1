"""Runs and what belongs to them.

Invariants, kept by `claims`, `events` and `services` and by the constraints below:
- a running run has a lease, a terminal run has a finish time;
- every write of a worker carries the attempt it claimed, so a worker that lost its lease changes nothing;
- `RunEvent.seq` of a run is 1, 2, 3 … without gaps, and `Run.last_seq` is the last one written.
"""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.ids import new_id
from interp_app.core.visibility import Visibility, VisibleQuerySet


class Status(models.TextChoices):
    """queued → running → succeeded | failed | cancelled. Cancelled and failed runs may be resumed (→ queued).

    A lost worker takes running → queued again. "Cancelling" is a running run with `cancel_requested_at` set.
    """

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


TERMINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Worker(models.Model):
    """A worker process. Offline once its heartbeat is older than `settings.RUN_LEASE_SECONDS`."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=120, unique=True)
    device = models.CharField(max_length=80)
    device_memory_bytes = models.BigIntegerField(default=0)
    models_available = models.JSONField(default=list)
    """Slugs of the catalog's models whose folder this worker can read."""
    models_warm = models.JSONField(default=list)
    flops_per_second = models.FloatField(null=True)
    """Measured over its last runs, whatever they computed: what a preview has for a model without a `Calibration`."""
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField(db_index=True)
    stopped_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Calibration(models.Model):
    """How fast one worker computes one model: plain seconds = FLOPs / rate + launches × seconds a launch.

    Measured when the model is first loaded in a dtype. `habits` are learned from finished runs, one a method: the
    fields of `tracing.experiments.calibration.Habit`.
    """

    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="calibrations")
    model = models.ForeignKey(ModelSource, on_delete=models.CASCADE, related_name="calibrations")
    dtype = models.CharField(max_length=10)
    flops_per_second = models.FloatField()
    seconds_per_launch = models.FloatField()
    habits = models.JSONField(default=dict, blank=True)
    weights = models.CharField(max_length=64)
    """Hash of the weight hashes it was measured on: other weights may be another architecture."""
    measured_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("worker", "model", "dtype"), name="one_calibration"),)

    def __str__(self) -> str:
        return f"{self.flops_per_second:.3g} FLOP/s, {self.seconds_per_launch:.3g} s a launch"


class Tag(models.Model):
    """A word runs are filed under."""

    name = models.CharField(max_length=40, unique=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Run(models.Model):
    """One experiment: what was asked (`method`, `spec`, `model`, `prompts`), where it stands, and what it ran on."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    title = models.CharField(max_length=160)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="runs")
    visibility = models.CharField(max_length=8, choices=Visibility, default=Visibility.LAB)
    tags = models.ManyToManyField(Tag, blank=True, related_name="runs")
    archived_at = models.DateTimeField(null=True, blank=True)

    method = models.CharField(max_length=40)
    spec = models.JSONField()
    """Normalised: defaults filled in, as the method's pydantic model dumps it."""
    spec_hash = models.CharField(max_length=64, db_index=True)
    model = models.ForeignKey(ModelSource, on_delete=models.PROTECT, related_name="runs")
    prompts = models.ForeignKey(PromptSetVersion, on_delete=models.PROTECT, related_name="runs")
    reused_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="reuses")
    cloned_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="clones")

    status = models.CharField(max_length=9, choices=Status, default=Status.QUEUED)
    stage = models.CharField(max_length=40, blank=True)
    attempt = models.PositiveIntegerField(default=0)
    losses = models.PositiveIntegerField(default=0)
    """How often in a row a worker was lost on this run; reset by a resume."""
    worker = models.ForeignKey(Worker, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs")
    lease_until = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cells_done = models.PositiveIntegerField(default=0)
    cells_total = models.PositiveIntegerField(default=0)
    steps_done = models.PositiveIntegerField(default=0)
    steps_total = models.PositiveIntegerField(default=0)
    """Steps of the present stage, for methods whose progress is not counted in cells; 0 where it is."""
    flops = models.FloatField(default=0)
    launches = models.PositiveBigIntegerField(default=0)
    last_seq = models.PositiveBigIntegerField(default=0)
    summary = models.JSONField(default=dict, blank=True)
    failure_code = models.CharField(max_length=40, blank=True)
    failure_text = models.TextField(blank=True)
    failure_detail = models.JSONField(default=dict, blank=True)
    provenance = models.JSONField(default=dict, blank=True)

    created_at = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=("-created_at", "-id"), name="run_newest"),
            models.Index(fields=("owner", "-created_at"), name="run_owner_newest"),
            models.Index(fields=("owner", "-started_at"), name="run_owner_served"),
            models.Index(fields=("status", "-created_at"), name="run_status_newest"),
            models.Index(fields=("model", "-created_at"), name="run_model_newest"),
            models.Index(fields=("status", "queued_at"), name="run_queue"),
            models.Index(fields=("lease_until",), name="run_lease", condition=Q(status="running")),
        )
        constraints = (
            models.CheckConstraint(
                condition=~Q(status="running") | Q(lease_until__isnull=False), name="running_run_has_lease"
            ),
            models.CheckConstraint(
                condition=~Q(status__in=("succeeded", "failed", "cancelled")) | Q(finished_at__isnull=False),
                name="terminal_run_has_finish_time",
            ),
        )

    def __str__(self) -> str:
        return self.title

    @property
    def progress(self) -> dict[str, Any]:
        """How far it is: `done` of `total` of `unit`."""
        return progress_of(self.cells_done, self.cells_total, self.steps_done, self.steps_total)

    @property
    def source(self) -> "Run":
        """The run whose log, tiles and artifacts show this run's results: itself, or the one it was answered from."""
        return self.reused_from or self

    @property
    def source_id(self) -> uuid.UUID:
        """`source.pk` without a query."""
        return self.reused_from_id or self.pk


def progress_of(cells_done: int, cells_total: int, steps_done: int, steps_total: int) -> dict[str, Any]:
    """Progress in the unit a run counts in: steps where its method tells them, else cells. A total of 0 is unknown."""
    if steps_total or not cells_total:
        return {"done": steps_done, "total": steps_total, "unit": "steps"}
    return {"done": cells_done, "total": cells_total, "unit": "cells"}


class RunEvent(models.Model):
    """One entry of a run's log. `kind`: status, panel, tile, progress, log, result."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveBigIntegerField()
    attempt = models.PositiveIntegerField()
    kind = models.CharField(max_length=10)
    payload = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("run", "seq")
        constraints = (models.UniqueConstraint(fields=("run", "seq"), name="one_event_per_seq"),)

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"


class Tile(models.Model):
    """A computed rectangle of a panel. `values` is little-endian float32 `[planes, nr, nc]`, NaN = not a value.

    `examples` is the raw metric per prompt pair `[pairs, nr, nc]` in `examples_dtype`; empty where a method has none.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="tiles")
    seq = models.PositiveBigIntegerField()
    """The seq of its `tile` event."""
    panel = models.PositiveSmallIntegerField()
    r0 = models.PositiveIntegerField()
    c0 = models.PositiveIntegerField()
    nr = models.PositiveIntegerField()
    nc = models.PositiveIntegerField()
    planes = models.PositiveSmallIntegerField()
    values = models.BinaryField()
    examples = models.BinaryField(default=bytes)
    examples_dtype = models.CharField(max_length=8, blank=True)

    class Meta:
        ordering = ("run", "seq")
        constraints = (models.UniqueConstraint(fields=("run", "panel", "r0", "c0"), name="one_tile_per_place"),)
        indexes = (models.Index(fields=("run", "seq"), name="tile_seq"),)

    def __str__(self) -> str:
        return f"panel {self.panel} at {self.r0},{self.c0}"


class Artifact(models.Model):
    """A file by content: stored once under its sha256, whoever made it."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size = models.PositiveBigIntegerField()
    media_type = models.CharField(max_length=80)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.sha256


class RunArtifact(models.Model):
    """An artifact under the name it has in a run, e.g. `resid_pre.safetensors`."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="artifacts")
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="uses")
    name = models.CharField(max_length=120)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("run", "name")
        constraints = (models.UniqueConstraint(fields=("run", "name"), name="one_artifact_per_name"),)

    def __str__(self) -> str:
        return self.name
