"""The Prometheus page: numbers of this process, and gauges that apps read from the database when they are asked.

Other modules import the instruments below and count on them; an app adds database gauges with `add_gauges`. The page
tells how busy the lab is, so it answers only direct connections from `settings.METRICS_ALLOWED` (loopback by default)
and administrators.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

SOCKETS: Final = Gauge("patchbay_sockets", "Open sockets of this web process.")
WAITING_READERS: Final = Gauge("patchbay_waiting_readers", "Requests of this web process that wait for events.")
EVENT_APPEND_SECONDS: Final = Histogram(
    "patchbay_event_append_seconds",
    "Time to write a batch of events, measured in the process that writes it.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
RUNS_SUBMITTED: Final = Counter("patchbay_runs_submitted", "Runs submitted through this web process.", ["reused"])

Gauges = Callable[[], Iterable[GaugeMetricFamily]]


class _DatabaseGauges(Collector):
    def __init__(self) -> None:
        self.readers: list[Gauges] = []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for reader in self.readers:
            yield from reader()


_DATABASE: Final = _DatabaseGauges()
REGISTRY.register(_DATABASE)


def add_gauges(reader: Gauges) -> None:
    """Have `reader` called at each scrape; it returns gauge families. Adding it twice is once."""
    if reader not in _DATABASE.readers:
        _DATABASE.readers.append(reader)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The page; for everybody else it does not exist."""
    if not may_read(request):
        raise Http404
    return HttpResponse(
        generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"}
    )


def may_read(request: HttpRequest) -> bool:
    """A direct connection from an allowed network, or an administrator. A forwarded request shows its proxy's address,
    so it counts as coming from anywhere."""
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated and (user.is_staff or user.is_lab_admin):
        return True
    if any(header in request.headers for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP")):
        return False
    try:
        address = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network) for network in settings.METRICS_ALLOWED)
