"""What the addresses of runs take and give. Output is built by `shapes` and `details`; here it is described."""

import math
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from interp_app.catalog.api.serializers import PersonSerializer
from interp_app.core.api import StrictSerializer
from interp_app.core.pagination import PageQuerySerializer
from interp_app.core.visibility import Visibility
from interp_app.runs.models import Status
from tracing.experiments.registry import GROUPS

MAX_EVENTS = 500
MAX_WAIT_SECONDS = 25


class ModelRefSerializer(serializers.Serializer):
    """The model a run is on."""

    slug = serializers.SlugField()
    title = serializers.CharField()


class PromptsRefSerializer(serializers.Serializer):
    """The version of a prompt set a run is on. Who may see the run may not see the set: `id` is null then."""

    id = serializers.UUIDField(allow_null=True)
    title = serializers.CharField()
    version = serializers.IntegerField()
    pairs = serializers.IntegerField()


class FailureSerializer(serializers.Serializer):
    """Why a run failed."""

    code = serializers.CharField()
    text = serializers.CharField()
    detail = serializers.DictField(child=serializers.JSONField())


class ProgressSerializer(serializers.Serializer):
    """How far a run is."""

    done = serializers.IntegerField()
    total = serializers.IntegerField(help_text="0 where it is not known.")
    unit = serializers.ChoiceField(
        choices=["cells", "steps"], help_text="Steps of the present stage, where a method computes no map."
    )


class SlimRunSerializer(serializers.Serializer):
    """A run as lists, events and sockets show it."""

    id = serializers.UUIDField()
    title = serializers.CharField()
    method = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    stage = serializers.CharField(help_text="What a running run does: loading, baselines, computing, saving.")
    cancelling = serializers.BooleanField(help_text="Its worker was asked to stop and has not yet.")
    cells_done = serializers.IntegerField()
    cells_total = serializers.IntegerField(help_text="0 where the method computes no map.")
    progress = ProgressSerializer()
    attempt = serializers.IntegerField(help_text="How often a worker has claimed it.")
    owner = PersonSerializer()
    model = ModelRefSerializer()
    prompts = PromptsRefSerializer()
    visibility = serializers.ChoiceField(choices=Visibility.choices)
    archived = serializers.BooleanField()
    tags = serializers.ListField(child=serializers.CharField())
    summary = serializers.DictField(child=serializers.JSONField(), help_text="A few numbers of the result.")
    failure = FailureSerializer(allow_null=True)
    reused_from = serializers.UUIDField(
        allow_null=True, help_text="The identical run whose results it shows, if one may see it."
    )
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    last_seq = serializers.IntegerField(help_text="Number of the newest event.")
    url = serializers.CharField(help_text="Its page.")


class QueuePlaceSerializer(serializers.Serializer):
    """Where a queued run stands."""

    position = serializers.IntegerField()
    reason = serializers.CharField(help_text="What it waits for.")
    eta_seconds = serializers.FloatField(allow_null=True, help_text="Until it starts; null where unknown.")


class ArtifactSerializer(serializers.Serializer):
    """A file of a run."""

    name = serializers.CharField()
    sha256 = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    media_type = serializers.CharField()
    url = serializers.CharField()


class CanSerializer(serializers.Serializer):
    """What the one who asks may do."""

    edit = serializers.BooleanField()
    cancel = serializers.BooleanField()
    resume = serializers.BooleanField()


class RunDetailSerializer(SlimRunSerializer):
    """Everything about a run but its events and values."""

    spec = serializers.DictField(child=serializers.JSONField(), help_text="Normalised: defaults filled in.")
    spec_hash = serializers.CharField(help_text="Equal for runs that must give the same numbers.")
    provenance = serializers.DictField(
        child=serializers.JSONField(), help_text="What it ran on: versions, device, hashes, times."
    )
    cloned_from = serializers.UUIDField(allow_null=True)
    queue = QueuePlaceSerializer(allow_null=True)
    artifacts = ArtifactSerializer(many=True)
    can = CanSerializer()


class QueueEntrySerializer(QueuePlaceSerializer):
    """A queued run and where it stands."""

    run = SlimRunSerializer()


class QueueSerializer(serializers.Serializer):
    """The queue in the order in which workers will claim, and what runs now."""

    queued = QueueEntrySerializer(many=True)
    running = SlimRunSerializer(many=True)
    hidden_queued = serializers.IntegerField(help_text="Queued runs one may not see; positions count them.")
    workers_online = serializers.IntegerField()


class WorkerSerializer(serializers.Serializer):
    """A worker heard from within the last day."""

    name = serializers.CharField()
    device = serializers.CharField()
    device_memory_bytes = serializers.IntegerField()
    online = serializers.BooleanField()
    models_available = serializers.ListField(child=serializers.CharField())
    models_warm = serializers.ListField(child=serializers.CharField())
    flops_per_second = serializers.FloatField(allow_null=True, help_text="Measured over its last runs.")
    started_at = serializers.DateTimeField()
    heartbeat_at = serializers.DateTimeField()


class MethodSerializer(serializers.Serializer):
    """An experiment one can run."""

    name = serializers.CharField()
    title = serializers.CharField()
    summary = serializers.CharField()
    help = serializers.CharField()
    group = serializers.ChoiceField(choices=list(GROUPS))
    group_title = serializers.CharField()
    schema = serializers.DictField(child=serializers.JSONField(), help_text="JSON Schema of `params`.")


class EventTileSerializer(serializers.Serializer):
    """A computed rectangle with its values."""

    panel = serializers.IntegerField()
    r0 = serializers.IntegerField()
    c0 = serializers.IntegerField()
    nr = serializers.IntegerField()
    nc = serializers.IntegerField()
    planes = serializers.IntegerField()
    values = serializers.CharField(help_text="Base64 of little-endian float32 [planes, nr, nc]; NaN = no value.")


class EventSerializer(serializers.Serializer):
    """One entry of a run's log."""

    seq = serializers.IntegerField(help_text="1, 2, 3 … without gaps.")
    kind = serializers.ChoiceField(choices=["status", "panel", "tile", "progress", "log", "result"])
    at = serializers.DateTimeField()
    data = serializers.DictField(child=serializers.JSONField())  # type: ignore[assignment]
    tile = EventTileSerializer(
        required=False, help_text="With kind `tile`, unless a later event replaced the rectangle."
    )


class EventsSerializer(serializers.Serializer):
    """The run now, and the events after the number asked for."""

    run = SlimRunSerializer()
    events = EventSerializer(many=True)
    last_seq = serializers.IntegerField(help_text="Ask for events after this number next.")


class PanelsSerializer(serializers.Serializer):
    """The panels a run announced, by index."""

    seq = serializers.IntegerField(help_text="The event number up to which this holds.")
    panels = serializers.ListField(child=serializers.DictField(child=serializers.JSONField()))


class PanelValuesSerializer(serializers.Serializer):
    """A panel with its values, one table a quantity: rows of columns, null where there is no number."""

    seq = serializers.IntegerField()
    panel = serializers.DictField(child=serializers.JSONField())
    values = serializers.DictField(
        child=serializers.ListField(child=serializers.ListField(child=serializers.FloatField(allow_null=True)))
    )


class ResultFileSerializer(serializers.Serializer):
    """The file a result is in."""

    name = serializers.CharField()
    sha256 = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    url = serializers.CharField()


class ResultRowSerializer(serializers.Serializer):
    """A typed result and where to fetch it."""

    name = serializers.CharField()
    type = serializers.CharField(help_text="Format and its version, e.g. `bars/1`.")
    title = serializers.CharField()
    seq = serializers.IntegerField(help_text="Number of the event that told of it.")
    summary = serializers.DictField(child=serializers.JSONField())
    numbers = serializers.IntegerField(allow_null=True, help_text="In all arrays; null where it is not known.")
    url = serializers.CharField(help_text="As JSON.")
    csv = serializers.CharField(help_text="As CSV.")
    artifact = ResultFileSerializer()


class ResultSerializer(serializers.Serializer):
    """A typed result. `data` depends on the type; every type has format, name, title and facts in it."""

    name = serializers.CharField()
    type = serializers.CharField()
    title = serializers.CharField()
    sha256 = serializers.CharField()
    data = serializers.DictField(child=serializers.JSONField())  # type: ignore[assignment]
    arrays = serializers.DictField(
        child=serializers.JSONField(), help_text="Nested lists by array name, null where there is no number."
    )
    shapes = serializers.DictField(child=serializers.ListField(child=serializers.IntegerField()))
    left_out = serializers.ListField(
        child=serializers.CharField(), help_text="Arrays that are too large for JSON: read them from the file."
    )


class PreviewQueueSerializer(serializers.Serializer):
    """Where the run would stand."""

    position = serializers.IntegerField()
    reason = serializers.CharField()


class PreviewSerializer(serializers.Serializer):
    """What a run would take."""

    cells = serializers.IntegerField()
    flops = serializers.FloatField()
    naive_flops = serializers.FloatField(help_text="With one full forward pass a cell.")
    seconds = serializers.FloatField(allow_null=True, help_text="Computing time; null where no worker was measured.")
    seconds_basis = serializers.ChoiceField(
        choices=["run", "model", "rate"],
        allow_null=True,
        help_text="Where `seconds` comes from: an earlier run of this method on this model, the speed of the model "
        "alone, or the rate of workers over other runs.",
    )
    calibrated = serializers.BooleanField(help_text="`seconds` is known.")
    queue = PreviewQueueSerializer()
    reuse = serializers.UUIDField(allow_null=True, help_text="An identical run that has succeeded.")
    reuse_device = serializers.CharField(
        allow_null=True, help_text="The device that computed it: other kinds of device may differ in the last digits."
    )


# -- requests ---------------------------------------------------------------------------------------------------------


class PromptsInputSerializer(StrictSerializer):
    """A version of a prompt set."""

    id = serializers.UUIDField()
    version = serializers.IntegerField(min_value=1, required=False, help_text="The newest where it is left out.")


@extend_schema_field({"type": "object", "additionalProperties": True, "description": "See /methods/<name>/."})
class ParamsField(serializers.DictField):
    """Parameters of the method; judged by its spec."""

    child = serializers.JSONField(allow_null=True)


class PlanSerializer(StrictSerializer):
    """What to run on what."""

    method = serializers.CharField(max_length=40)
    params = ParamsField(required=False)
    model = serializers.SlugField(help_text="Slug of an allowed model.")
    prompts = PromptsInputSerializer()


class SubmissionSerializer(PlanSerializer):
    """A run to queue."""

    title = serializers.CharField(
        required=False, allow_blank=True, max_length=160, help_text="Made from method, prompts and model if empty."
    )
    visibility = serializers.ChoiceField(choices=Visibility.choices, required=False, help_text="Default lab.")
    tags = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=20)
    force = serializers.BooleanField(required=False, help_text="Compute even where an identical run has succeeded.")
    cloned_from = serializers.UUIDField(required=False, allow_null=True, help_text="The run it was cloned from.")


class RunChangeSerializer(StrictSerializer):
    """How a run is filed; what is left out stays."""

    title = serializers.CharField(required=False, max_length=160)
    visibility = serializers.ChoiceField(choices=Visibility.choices, required=False)
    tags = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=20)
    archived = serializers.BooleanField(required=False)


class HistoryQuerySerializer(PageQuerySerializer):
    """Filters of the history."""

    q = serializers.CharField(required=False, max_length=200, help_text="Part of the run's or prompt set's title.")
    status = serializers.ChoiceField(choices=Status.choices, required=False)
    model = serializers.SlugField(required=False, help_text="Slug.")
    prompts = serializers.CharField(
        required=False, max_length=64, help_text="Id of a prompt set, or a built-in's slug."
    )
    method = serializers.CharField(required=False, max_length=40, help_text="Name.")
    tag = serializers.CharField(required=False, max_length=40, help_text="Exactly this tag.")
    owner = serializers.CharField(required=False, max_length=150, help_text="Account name, account id, or `me`.")
    archived = serializers.BooleanField(required=False, help_text="The archived ones instead of the others.")
    since = serializers.DateTimeField(required=False, help_text="Created at or after.")
    until = serializers.DateTimeField(required=False, help_text="Created before.")
    ordering = serializers.ChoiceField(
        choices=["-created", "created"], required=False, help_text="Newest or oldest first; default newest."
    )


class FiniteField(serializers.FloatField):
    """A number that is one: no NaN, no infinity."""

    def to_internal_value(self, data: Any) -> float:
        value = super().to_internal_value(data)
        if not math.isfinite(value):
            self.fail("invalid")
        return value


class EventsQuerySerializer(StrictSerializer):
    """From where to read the log, and how long to wait for news."""

    after = serializers.IntegerField(
        required=False, min_value=0, max_value=2**53, help_text="Events with a higher number; default 0."
    )
    wait = FiniteField(
        required=False,
        min_value=0,
        max_value=MAX_WAIT_SECONDS,
        help_text="Seconds to wait while there is nothing new; returns at once where the run has ended.",
    )
    limit = serializers.IntegerField(required=False, min_value=1, max_value=MAX_EVENTS, help_text="Default 200.")
