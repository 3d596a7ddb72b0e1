"""Methods, the queue and the workers."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.core.api import ApiView
from interp_app.core.authentication import LabMember, TokenScope
from interp_app.core.errors import not_found
from interp_app.core.pagination import WholeList
from interp_app.core.shapes import moment
from interp_app.runs import queue, selectors
from interp_app.runs.api import serializers as forms
from interp_app.runs.models import Run, Status
from interp_app.runs.shapes import for_slim, slim_run
from tracing import experiments
from tracing.experiments.registry import GROUPS, Method


def method(found: Method) -> dict[str, object]:
    """A method with the JSON Schema its form is made from."""
    return {
        "name": found.name,
        "title": found.title,
        "summary": found.summary,
        "help": found.help,
        "group": found.group,
        "group_title": GROUPS[found.group],
        "schema": found.spec.model_json_schema(),
    }


def whole(rows: list[dict[str, object]]) -> Response:
    """A short list in the envelope of the long ones."""
    return Response({"next": None, "previous": None, "results": rows})


class MethodList(ApiView):
    """The experiments one can run."""

    pagination_class = WholeList

    @extend_schema(operation_id="methods_list", summary="List methods", responses=forms.MethodSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Each with the JSON Schema of its parameters, by name."""
        return whole([method(one) for one in experiments.methods()])


class MethodOne(ApiView):
    """One method."""

    @extend_schema(operation_id="methods_get", summary="Read a method", responses=forms.MethodSerializer)
    def get(self, request: Request, name: str) -> Response:
        """Its texts and the JSON Schema of its parameters."""
        for one in experiments.methods():
            if one.name == name:
                return Response(method(one))
        raise not_found("method")


class Queue(ApiView):
    """What waits and what runs."""

    permission_classes = (TokenScope, LabMember)

    @extend_schema(operation_id="queue_get", summary="Read the queue", responses=forms.QueueSerializer)
    def get(self, request: Request) -> Response:
        """Queued runs in the order in which workers will claim them, with what each waits for. Positions count
        everybody's runs, shown or not. For accounts of the lab."""
        entries = queue.queue_view(request.user)
        running = for_slim(Run.objects.visible_to(request.user).filter(status=Status.RUNNING)).order_by("started_at")
        total = Run.objects.filter(status=Status.QUEUED).count()
        return Response(
            {
                "queued": [
                    {
                        "run": slim_run(entry.run, request.user),
                        "position": entry.position,
                        "reason": entry.reason,
                        "eta_seconds": entry.eta_seconds,
                    }
                    for entry in entries
                ],
                "running": [slim_run(run, request.user) for run in running],
                "hidden_queued": max(0, total - len(entries)),
                "workers_online": len(selectors.online_workers()),
            }
        )


class Workers(ApiView):
    """The workers."""

    permission_classes = (TokenScope, LabMember)
    pagination_class = WholeList

    @extend_schema(operation_id="workers_list", summary="List workers", responses=forms.WorkerSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Those heard from within the last day, online first. For accounts of the lab."""
        return whole(
            [
                {
                    "name": worker.name,
                    "device": worker.device,
                    "device_memory_bytes": worker.device_memory_bytes,
                    "online": online,
                    "models_available": worker.models_available,
                    "models_warm": worker.models_warm,
                    "flops_per_second": worker.flops_per_second,
                    "started_at": moment(worker.started_at),
                    "heartbeat_at": moment(worker.heartbeat_at),
                }
                for worker, online in selectors.workers()
            ]
        )
