"""Typed results over HTTP: the list, each as JSON and as CSV, and the notebook that computes them again.

Whoever may see the run may read them; a reused run shows its source's. Entity tags are those of the stored file.
"""

import csv
import io
import json
from typing import Any
from uuid import UUID

from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.core import downloads
from interp_app.core.api import ApiView
from interp_app.core.pagination import WholeList
from interp_app.runs import notebooks, results, selectors
from interp_app.runs.api import serializers as forms
from interp_app.runs.api.results import IF_NONE_MATCH, UNCHANGED, plain
from interp_app.runs.models import Run


class RunResults(ApiView):
    """The results of a run."""

    pagination_class = WholeList

    @extend_schema(
        operation_id="runs_results", summary="List a run's results", responses=forms.ResultRowSerializer(many=True)
    )
    def get(self, request: Request, id: UUID) -> Response:  # noqa: A002 - the name in the address
        """Name, type, title and addresses of each, in the order in which the run told them. A run has results once it
        has succeeded."""
        run = selectors.run_detail(request.user, id)
        rows = [results.shape(run, found) for found in results.results_of(run)]
        return Response({"next": None, "previous": None, "results": rows})


class _ResultFile(ApiView):
    """What the two forms share."""

    def find(self, request: Request, id: UUID, name: str, form: str) -> tuple[Run, results.StoredResult, str]:  # noqa: A002
        """The run, the result and the entity tag of this form of it. Raises `ServiceError` 404."""
        run = selectors.run_detail(request.user, id)
        found = results.result_named(run, name)
        return run, found, f'"{found.sha256}-{form}"'


class ResultJson(_ResultFile):
    """A result as JSON."""

    @extend_schema(
        operation_id="runs_result",
        summary="Read a result",
        parameters=[IF_NONE_MATCH],
        responses={200: forms.ResultSerializer, 304: UNCHANGED},
    )
    def get(self, request: Request, id: UUID, name: str) -> HttpResponseBase:  # noqa: A002
        """Its JSON part (`data`) and its arrays as nested lists, null where there is no number. Arrays of more than
        200 000 numbers, or beyond 500 000 together, are named in `left_out` and are in its file alone."""
        _, found, etag = self.find(request, id, name, "json")
        known = downloads.not_modified(request._request, etag)
        if known is not None:
            return known
        body = json.dumps(results.as_json(found), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return downloads.send_bytes(
            request._request, body.encode(), etag=etag, media_type="application/json; charset=utf-8"
        )


class ResultTable(_ResultFile):
    """A result as CSV."""

    @extend_schema(
        operation_id="runs_result_csv",
        summary="A result as CSV",
        parameters=[IF_NONE_MATCH],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            304: UNCHANGED,
            413: OpenApiResponse(description="More than 2 000 000 numbers: fetch the file."),
        },
    )
    def get(self, request: Request, id: UUID, name: str) -> HttpResponseBase:  # noqa: A002
        """One line a number (or a bar, an edge, a text, a check), with a header. Texts that a spreadsheet would take
        for a formula begin with an apostrophe."""
        run, found, etag = self.find(request, id, name, "csv")
        known = downloads.not_modified(request._request, etag)
        if known is not None:
            return known
        return downloads.send_bytes(
            request._request,
            without_formulas(results.typed(found).to_csv()).encode(),
            etag=etag,
            media_type="text/csv; charset=utf-8",
            name=f"{run.pk}-{found.name}.csv",
        )


class RunNotebook(ApiView):
    """A run as a notebook."""

    @extend_schema(
        operation_id="runs_notebook",
        summary="Fetch a run as a notebook",
        responses={
            (200, "application/x-ipynb+json"): OpenApiTypes.OBJECT,
            409: OpenApiResponse(description="The run has not succeeded."),
        },
    )
    def get(self, request: Request, id: UUID) -> HttpResponseBase:  # noqa: A002
        """A notebook that holds the prompt pairs and the call, loads the model, computes the results again and compares
        them with the stored ones. For those who may see the prompts."""
        run = selectors.run_detail(request.user, id)
        text = notebooks.text(run, request.user)
        return downloads.send_bytes(
            request._request,
            text.encode(),
            etag=f'"{run.source_id}-{run.last_seq}-notebook"',
            media_type="application/x-ipynb+json",
            name=f"{run.pk}.ipynb",
        )


def without_formulas(table: str) -> str:
    """The table with no text that a spreadsheet takes for a formula; numbers stay numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([_cell(text) for text in row] for row in csv.reader(io.StringIO(table)))
    return out.getvalue()


def _cell(text: str) -> str:
    return text if _is_number(text) else plain(text)


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
