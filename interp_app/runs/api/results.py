"""What a run has computed: panels merged from its tiles, in three forms, and its files.

A reused run shows its source's.

The entity tag of a panel names the newest tile in it, so an unchanged panel costs one small query.
"""

import csv
import io
import math
from typing import Any
from uuid import UUID

from django.db.models import Max
from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.core import downloads
from interp_app.core.api import ApiView
from interp_app.core.errors import ServiceError, not_found
from interp_app.core.pagination import WholeList
from interp_app.runs import artifacts, panels, selectors
from interp_app.runs.api import serializers as forms
from interp_app.runs.details import artifact, run_panels
from interp_app.runs.models import Run, Tile

IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="ETag of what one has: 304 if it holds.",
)
UNCHANGED = OpenApiResponse(description="Unchanged since that ETag.")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class RunPanels(ApiView):
    """The panels of a run, without values."""

    @extend_schema(operation_id="runs_panels", summary="List a run's panels", responses=forms.PanelsSerializer)
    def get(self, request: Request, id: UUID) -> Response:  # noqa: A002 - the name in the address
        """Axes with their labels, quantities with their units and domains, and facts such as the baselines."""
        return Response(run_panels(selectors.run_detail(request.user, id)))


class _PanelFile(ApiView):
    """What the three forms share."""

    def find(self, request: Request, id: UUID, index: int) -> tuple[Run, str]:  # noqa: A002
        """The run and the panel's entity tag. Raises `ServiceError` 404."""
        run = selectors.run_detail(request.user, id)
        tiles = Tile.objects.filter(run_id=run.source_id, panel=index)
        newest = tiles.aggregate(newest=Max("seq"))["newest"] or 0
        return run, f'"{run.source_id}-{index}-{newest}"'

    def values(self, run: Run, index: int) -> panels.PanelValues:
        """The merged panel. Raises `ServiceError` 404."""
        found = panels.panel_values(run.source_id, index)
        if found is None:
            raise not_found("panel")
        return found


class PanelBinary(_PanelFile):
    """A panel as bytes."""

    @extend_schema(
        operation_id="runs_panel_bin",
        summary="A panel's values as float32",
        parameters=[IF_NONE_MATCH],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, 304: UNCHANGED},
    )
    def get(self, request: Request, id: UUID, index: int) -> HttpResponseBase:  # noqa: A002
        """Little-endian float32 `[planes, rows, columns]`, row-major. Cells not computed yet are the NaN 0x7FC00000,
        computed values that are no number 0x7FC00001. The header X-Patchbay-Seq tells the event number it holds for."""
        run, etag = self.find(request, id, index)
        known = downloads.not_modified(request._request, etag)
        if known is not None:
            return known
        found = self.values(run, index)
        response = downloads.send_bytes(
            request._request, found.to_bytes(), etag=etag, media_type="application/octet-stream"
        )
        response.headers["X-Patchbay-Seq"] = str(found.seq)
        return response


class PanelTable(_PanelFile):
    """A panel as CSV."""

    @extend_schema(
        operation_id="runs_panel_csv",
        summary="A panel's values as CSV",
        parameters=[IF_NONE_MATCH],
        responses={(200, "text/csv"): OpenApiTypes.STR, 304: UNCHANGED},
    )
    def get(self, request: Request, id: UUID, index: int) -> HttpResponseBase:  # noqa: A002
        """One line a cell: row and column with their labels, then one column a quantity, empty where there is no
        number. Texts that a spreadsheet would take for a formula begin with an apostrophe."""
        run, etag = self.find(request, id, index)
        known = downloads.not_modified(request._request, etag)
        if known is not None:
            return known
        found = self.values(run, index)
        return downloads.send_bytes(
            request._request,
            table(found).encode(),
            etag=etag,
            media_type="text/csv; charset=utf-8",
            name=f"{run.pk}-{found.panel['name']}.csv",
        )


class PanelJson(_PanelFile):
    """A panel as JSON."""

    @extend_schema(
        operation_id="runs_panel_json", summary="A panel with its values", responses=forms.PanelValuesSerializer
    )
    def get(self, request: Request, id: UUID, index: int) -> Response:  # noqa: A002
        """The panel and one table of numbers a quantity, null where there is none."""
        run, _ = self.find(request, id, index)
        found = self.values(run, index)
        tables = {
            quantity["key"]: [[_number(value) for value in row] for row in plane.tolist()]
            for quantity, plane in zip(found.panel["quantities"], found.values, strict=True)
        }
        return Response({"seq": found.seq, "panel": found.panel, "values": tables})


class RunArtifacts(ApiView):
    """The files of a run."""

    pagination_class = WholeList

    @extend_schema(
        operation_id="runs_artifacts", summary="List a run's files", responses=forms.ArtifactSerializer(many=True)
    )
    def get(self, request: Request, id: UUID) -> Response:  # noqa: A002
        """Name, hash, size and address of each file, by name."""
        run = selectors.run_detail(request.user, id)
        found = [artifact(run, one) for one in selectors.artifacts_of(run)]
        return Response({"next": None, "previous": None, "results": found})


class RunArtifactFile(ApiView):
    """One file of a run."""

    @extend_schema(
        operation_id="runs_artifact",
        summary="Fetch a file",
        parameters=[
            IF_NONE_MATCH,
            OpenApiParameter("Range", OpenApiTypes.STR, OpenApiParameter.HEADER, description="One range of bytes."),
        ],
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
            304: UNCHANGED,
            416: OpenApiResponse(description="Nothing of the file lies in that range."),
        },
    )
    def get(self, request: Request, id: UUID, name: str) -> HttpResponseBase:  # noqa: A002
        """The bytes, always as a download. The ETag is the file's SHA-256."""
        run = selectors.run_detail(request.user, id)
        one = next((one for one in selectors.artifacts_of(run) if one.name == name), None)
        if one is None:
            raise not_found("file")
        try:
            return downloads.send_file(
                request._request,
                artifacts.path_of(one.artifact_id),
                etag=f'"{one.artifact_id}"',
                media_type="application/octet-stream",
                name=one.name,
            )
        except OSError:
            message = f"The file {name!r} is missing from the lab's storage."
            raise ServiceError("artifact_missing", message, "Run the experiment again.", status=410) from None


def table(found: panels.PanelValues) -> str:
    """The CSV of a panel."""
    rows, columns = found.panel["rows"], found.panel["columns"]
    quantities = found.panel["quantities"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    header = [rows["name"], f"{rows['name']}_label", columns["name"], f"{columns['name']}_label"]
    writer.writerow([plain(text) for text in (*header, *(quantity["key"] for quantity in quantities))])
    values = found.values
    for r, row in enumerate(rows["ticks"]):
        for c, column in enumerate(columns["ticks"]):
            cells = [_number(float(values[plane, r, c])) for plane in range(len(quantities))]
            shown = ["" if cell is None else repr(cell) for cell in cells]
            writer.writerow([r, plain(row["label"]), c, plain(column["label"]), *shown])
    return out.getvalue()


def plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) or text.startswith(_FORMULA) else text


def _number(value: Any) -> float | None:
    return value if math.isfinite(value) else None
