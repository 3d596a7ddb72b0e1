"""The queue: who waits, why, for how long; and the workers."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from interp_app.runs import queue as queue_reads
from interp_app.runs import selectors
from interp_app.web.http import lab_page


@require_safe
@lab_page
def queue(request: HttpRequest) -> HttpResponse:
    """Queued and running runs the user may see, and every worker of the last day."""
    context = {
        "entries": queue_reads.queue_view(request.user),
        "running": selectors.visible_runs(request.user).filter(status="running").order_by("started_at")[:100],
        "workers": selectors.workers(),
        "start_command": queue_reads.start_command(),
        "queue_props": {"api": "/api/v1/", "socket": "/ws/"},
    }
    return render(request, "web/queue.html", context)
