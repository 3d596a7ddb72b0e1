"""The start page: one click to a first experiment, what is running, what the lab did."""

from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from interp_app.catalog import selectors as catalog
from interp_app.runs import selectors
from interp_app.web.http import page
from interp_app.web.method_help import grouped_methods
from interp_app.web.start_cards import start_cards

MINE_SHOWN: Final = 6
ACTIVITY_SHOWN: Final = 10
LIVE: Final = ("queued", "running")


@require_safe
@page
def start(request: HttpRequest) -> HttpResponse:
    """For the lab: cards, my running, activity, queue. For visitors: what this is, and what is public."""
    user: Any = request.user
    if not (user.is_authenticated and user.in_lab):
        public = selectors.visible_runs(user).filter(archived_at__isnull=True)[:ACTIVITY_SHOWN]
        return render(request, "web/start_visitor.html", {"runs": public})
    mine = selectors.visible_runs(user).filter(owner=user)
    context = {
        "cards": start_cards(user, list(catalog.allowed_models())) if user.can_run else [],
        "groups": grouped_methods(),
        "mine": mine.filter(status__in=LIVE)[:MINE_SHOWN],
        "activity": selectors.visible_runs(user).filter(archived_at__isnull=True)[:ACTIVITY_SHOWN],
        "workers": selectors.workers(),
        "queued": selectors.visible_runs(user).filter(status="queued").count(),
        "running": selectors.visible_runs(user).filter(status="running").count(),
    }
    return render(request, "web/start.html", context)
