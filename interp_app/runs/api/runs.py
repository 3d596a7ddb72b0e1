"""The history, one run, and what one can do with it. Shapes in, services and selectors, shapes out."""

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.catalog import selectors as catalog
from interp_app.catalog.api.views import model_named
from interp_app.core.api import ApiView, account, checked
from interp_app.core.authentication import LabMember, TokenScope
from interp_app.core.errors import ServiceError
from interp_app.core.idempotency import HEADER, once
from interp_app.core.metrics import RUNS_SUBMITTED
from interp_app.core.models import User
from interp_app.core.pagination import KeysetPagination
from interp_app.runs import estimates, planning, provenance, queue, selectors, services
from interp_app.runs.api import serializers as forms
from interp_app.runs.details import run_detail
from interp_app.runs.models import Run
from interp_app.runs.shapes import slim_columns, slim_rows

_EXAMPLE = OpenApiExample(
    "A sweep over layers and positions",
    {
        "method": "activation_patching",
        "params": {"sites": ["resid_pre"], "over": "layer_position", "direction": "denoising", "metric": "logit_diff"},
        "model": "demo",
        "prompts": {"id": "01890a5d-ac96-774b-bcce-b302099a8057", "version": 1},
        "tags": ["first-look"],
    },
    request_only=True,
)


class RunList(ApiView):
    """The history of runs; POST queues a new one."""

    pagination_class = KeysetPagination

    @extend_schema(
        operation_id="runs_list",
        summary="List runs",
        parameters=[forms.HistoryQuerySerializer],
        responses=forms.SlimRunSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        """The runs one may see, newest first. All filters given must match."""
        query = checked(forms.HistoryQuerySerializer, request.query_params.dict(), texts=True)
        filters = selectors.HistoryFilters(
            owner=_username(query.pop("owner", ""), request.user),
            sort="created_at" if query.pop("ordering", "") == "created" else "-created_at",
            **{name: value for name, value in query.items() if name not in ("cursor", "limit")},
        )
        pages = self.pagination_class()
        pages.newest_first = filters.sort == "-created_at"
        rows = pages.paginate_queryset(slim_columns(selectors.history(request.user, filters)), request, self)
        return pages.get_paginated_response(slim_rows(rows, request.user))

    @extend_schema(
        operation_id="runs_create",
        summary="Queue a run",
        request=forms.SubmissionSerializer,
        responses={201: forms.RunDetailSerializer},
        parameters=[
            OpenApiParameter(
                HEADER,
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="Any text of one's own, at most 128 characters: the same key within 24 hours gives the "
                "same answer instead of a second run.",
            )
        ],
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> Response:
        """Checks everything first: a run that is queued can be computed. An identical run that has succeeded answers
        at once (`reused_from`) unless `force` is set. Over the quota: 429."""
        user = account(request)
        body = checked(forms.SubmissionSerializer, request.data)

        def work() -> tuple[int, Any]:
            run = submit(user, body)
            return 201, run_detail(selectors.run_detail(user, run.pk), user)

        key = request.headers.get(HEADER)
        asked = {"address": "runs", "body": request.data}
        (status, answer), replayed = once(user=user, key=key, request=asked, work=work)
        if not replayed:
            RUNS_SUBMITTED.labels("yes" if answer["reused_from"] else "no").inc()
        headers = {"Location": f"/api/v1/runs/{answer['id']}/"}
        if replayed:
            headers["Idempotency-Replayed"] = "true"
        return Response(answer, status=status, headers=headers)


def submit(user: User, body: dict[str, Any]) -> Run:
    """Queue the run that a checked body describes. Raises `ServiceError`."""
    source = body.get("cloned_from")
    filing = {name: body[name] for name in ("title", "visibility", "tags", "force") if name in body}
    return services.submit_run(
        owner=user,
        model=model_named(body["model"]),
        prompts=version_named(user, body["prompts"]),
        method=body["method"],
        params=body.get("params", {}),
        cloned_from=selectors.run_detail(user, source) if source else None,
        **filing,
    )


def version_named(user: Any, prompts: dict[str, Any]) -> Any:
    """The version of a prompt set, named as an input of a request. Raises `ServiceError` 400."""
    try:
        return catalog.version_for(user, prompts["id"], prompts.get("version"))
    except ServiceError:
        number = prompts.get("version")
        message = f"There is no prompt set {prompts['id']}" + (f" with a version {number}." if number else ".")
        raise ServiceError(
            "prompts_unknown", message, "GET /api/v1/prompt-sets/ lists them.", fields={"prompts": [message]}
        ) from None


class RunPreview(ApiView):
    """What a run would take, without queueing it."""

    permission_classes = (TokenScope, LabMember)
    post_only_reads = True

    @extend_schema(
        operation_id="runs_preview",
        summary="Preview a run",
        request=forms.SubmissionSerializer,
        responses=forms.PreviewSerializer,
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> Response:
        """Cells, FLOPs, time and place in the queue, or the problem a submission would meet. For accounts of the lab;
        a read token will do."""
        user = account(request)
        body = checked(forms.SubmissionSerializer, request.data)
        model = model_named(body["model"])
        plan = planning.plan(
            model=model,
            prompts=version_named(user, body["prompts"]),
            method=body["method"],
            params=body.get("params", {}),
        )
        estimate = estimates.of_plan(plan.method.name, model, plan.normalised, plan.cost)
        position, reason = queue.would_queue(model, user)
        same = services.identical_run(user, plan.spec_hash)
        return Response(
            {
                "cells": plan.cost.cells,
                "flops": plan.cost.flops,
                "naive_flops": plan.cost.naive_flops,
                "seconds": estimate.seconds if estimate else None,
                "seconds_basis": estimate.basis if estimate else None,
                "calibrated": estimate is not None,
                "queue": {"position": position, "reason": reason},
                "reuse": str(same.pk) if same else None,
                "reuse_device": provenance.device_of(same) if same else None,
            }
        )


class RunOne(ApiView):
    """One run; PATCH changes how it is filed."""

    @extend_schema(operation_id="runs_get", summary="Read a run", responses=forms.RunDetailSerializer)
    def get(self, request: Request, id: UUID) -> Response:  # noqa: A002 - the name in the address
        """Configuration, state, provenance, files, and what one may do with it."""
        return Response(run_detail(selectors.run_detail(request.user, id), request.user))

    @extend_schema(
        operation_id="runs_change",
        summary="Change a run",
        request=forms.RunChangeSerializer,
        responses=forms.RunDetailSerializer,
    )
    def patch(self, request: Request, id: UUID) -> Response:  # noqa: A002
        """Title, tags, visibility, archived. What it computes never changes. For its owner."""
        run = selectors.run_detail(request.user, id)
        changes = checked(forms.RunChangeSerializer, request.data)
        services.update_run(run=run, actor=account(request), **changes)
        return Response(run_detail(selectors.run_detail(request.user, id), request.user))


class RunCancel(ApiView):
    """Where a run is cancelled."""

    @extend_schema(
        operation_id="runs_cancel", summary="Cancel a run", request=None, responses=forms.RunDetailSerializer
    )
    def post(self, request: Request, id: UUID) -> Response:  # noqa: A002
        """At once where it is queued; a running one stops after the batch it computes. What is computed is kept. 409
        where it has ended. For its owner."""
        run = selectors.run_detail(request.user, id)
        services.cancel_run(run=run, actor=account(request))
        return Response(run_detail(selectors.run_detail(request.user, id), request.user))


class RunResume(ApiView):
    """Where a cancelled or failed run is queued again."""

    @extend_schema(
        operation_id="runs_resume", summary="Resume a run", request=None, responses=forms.RunDetailSerializer
    )
    def post(self, request: Request, id: UUID) -> Response:  # noqa: A002
        """What is computed is not computed again. 409 unless it was cancelled or has failed. For its owner."""
        run = selectors.run_detail(request.user, id)
        services.resume_run(run=run, actor=account(request))
        return Response(run_detail(selectors.run_detail(request.user, id), request.user))


def _username(owner: str, viewer: Any) -> str:
    """The account name that `owner` (a name, an id or `me`) means."""
    if owner == "me":
        return viewer.get_username() or "\x1f"  # a visitor has no runs: a name nobody can have
    try:
        return User.objects.values_list("username", flat=True).get(public_id=UUID(owner))
    except (ValueError, User.DoesNotExist):
        return owner
