"""The history of runs: every filter is in the address, pages are keyset pages."""

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from interp_app.catalog import selectors as catalog
from interp_app.runs import selectors
from interp_app.web.forms.history import HistoryForm
from interp_app.web.http import page
from interp_app.web.paging import read_sorted
from tracing import experiments

RUNS_A_PAGE: Final = 50
MORE: Final = ("method", "tag", "since", "until", "archived")
MAX_CHOICES: Final = 500


@require_safe
@page
def history(request: HttpRequest) -> HttpResponse:
    """The runs the visitor may see, filtered and sorted as the address says."""
    form = HistoryForm(
        request.GET,
        models=list(catalog.allowed_models()) if getattr(request.user, "in_lab", False) else [],
        methods=list(experiments.methods()),
        prompt_sets=list(catalog.visible_prompt_sets(request.user)[:MAX_CHOICES]),
    )
    filters = form.filters()
    found = read_sorted(
        selectors.history(request.user, filters),
        sort=filters.sort,
        cursor=request.GET.get("page", ""),
        size=RUNS_A_PAGE,
    )
    for run in found.rows:
        run.allowed = selectors.can(request.user, run)
    context = {
        "form": form,
        "page": found,
        "chips": form.chips(),
        "more_open": any(request.GET.get(name) for name in MORE),
    }
    return render(request, "web/runs.html", context)
