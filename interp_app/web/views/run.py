"""The run page, and what its buttons do without scripts."""

import json
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from interp_app.core.errors import ServiceError
from interp_app.core.shapes import person
from interp_app.core.visibility import Visibility
from interp_app.runs import details, results, selectors, services
from interp_app.runs.panels import all_values
from interp_app.web.figure_tables import figure_tables
from interp_app.web.http import page, redirect_back, tell
from interp_app.web.result_tables import result_tables
from tracing import experiments
from tracing.errors import SpecError

LOG_SHOWN: Final = 60


@require_safe
@ensure_csrf_cookie
@page
def run_page(request: HttpRequest, id_: Any) -> HttpResponse:
    """Header, the live figure (a table without scripts), configuration, log, files."""
    run = selectors.run_detail(request.user, id_)
    detail = details.run_detail(run, request.user)
    found = all_values(run.source_id)
    panels = {"seq": found[0].seq if found else detail["last_seq"], "panels": [one.panel for one in found]}
    run.allowed = detail["can"]  # type: ignore[attr-defined]
    told = results.results_of(run)
    stored = [results.shape(run, one) for one in told]
    context = {
        "run": run,
        "detail": detail,
        "method": _method_title(run.method),
        "tables": figure_tables(found),
        "results": stored,
        "result_tables": result_tables(run, told, {one.panel["name"] for one in found}),
        "logs": selectors.last_logs(run.source_id, LOG_SHOWN),
        "spec": _rows(run.spec),
        "provenance": _rows(detail["provenance"]),
        "visibilities": Visibility.choices,
        "props": {
            "run": detail,
            "panels": panels,
            "results": stored,
            "api": "/api/v1/",
            "socket": "/ws/",
            "user": person(request.user) if request.user.is_authenticated else None,
        },
    }
    return render(request, "web/run.html", context)


@require_POST
@page
def cancel(request: HttpRequest, id_: Any) -> HttpResponse:
    """Cancel, then back to where the button was."""
    run = selectors.run_detail(request.user, id_)
    try:
        run = services.cancel_run(run=run, actor=request.user)  # type: ignore[arg-type]
    except ServiceError as error:
        tell(request, error)
    else:
        stopping = run.status == "running"
        messages.info(request, "Cancelling: the current batch is finished first." if stopping else "Cancelled.")
    return redirect_back(request, "web:run", id_)


@require_POST
@page
def resume(request: HttpRequest, id_: Any) -> HttpResponse:
    """Queue a cancelled or failed run again."""
    run = selectors.run_detail(request.user, id_)
    try:
        services.resume_run(run=run, actor=request.user)  # type: ignore[arg-type]
    except ServiceError as error:
        tell(request, error)
    else:
        messages.success(request, "Queued again. Cells that are computed already are kept.")
    return redirect_back(request, "web:run", id_)


@require_POST
@page
def file_run(request: HttpRequest, id_: Any) -> HttpResponse:
    """Title, tags, visibility and archive of a run."""
    run = selectors.run_detail(request.user, id_)
    changes: dict[str, Any] = {}
    if "title" in request.POST:
        changes |= {"title": request.POST["title"], "visibility": request.POST.get("visibility", run.visibility)}
        changes["tags"] = request.POST.get("tags", "").split(",")
    if "archived" in request.POST:
        changes["archived"] = request.POST["archived"] == "1"
    try:
        services.update_run(run=run, actor=request.user, **changes)  # type: ignore[arg-type]
    except ServiceError as error:
        tell(request, error)
    else:
        messages.success(request, "Saved.")
    return redirect_back(request, "web:run", id_)


def _method_title(name: str) -> str:
    try:
        return experiments.get(name).title
    except SpecError:
        return name


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Keys and readable values, nested ones as JSON."""
    return [(name, _text(value)) for name, value in values.items() if value not in (None, "", [], {})]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value):
        return ", ".join(str(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
