"""The numbers of the lab that Prometheus asks for: one small query each, at each scrape."""

from collections.abc import Iterator

from django.db.models import Count, Min
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily

from interp_app.runs import selectors
from interp_app.runs.models import Run, Status


def lab_gauges() -> Iterator[GaugeMetricFamily]:
    """Runs by status, the queue's length and oldest wait, workers online."""
    counts = dict(Run.objects.order_by().values_list("status").annotate(Count("pk")))
    runs = GaugeMetricFamily("patchbay_runs", "Runs by status.", labels=["status"])
    for status in Status.values:
        runs.add_metric([status], counts.get(status, 0))
    yield runs
    yield GaugeMetricFamily("patchbay_queue_length", "Queued runs.", value=counts.get(Status.QUEUED, 0))
    oldest = Run.objects.filter(status=Status.QUEUED).aggregate(at=Min("queued_at"))["at"]
    waited = (timezone.now() - oldest).total_seconds() if oldest else 0.0
    yield GaugeMetricFamily("patchbay_queue_oldest_wait_seconds", "How long the oldest queued run waits.", value=waited)
    online = len(selectors.online_workers())
    yield GaugeMetricFamily("patchbay_workers_online", "Workers heard from within the lease.", value=online)
