"""The event log over HTTP: for scripts, for pages whose socket is blocked, and for catching up.

`wait` makes it a long poll. The view itself answers at once; `patiently` wraps it in a coroutine that, while there is
nothing new, asks for the run's state every quarter of a second and then lets the view answer again, with permissions
checked anew. All who wait share one thread and one database connection.
"""

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final
from uuid import UUID

import numpy as np
from asgiref.sync import sync_to_async
from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.core.api import ApiView, checked
from interp_app.core.metrics import WAITING_READERS
from interp_app.core.shapes import moment
from interp_app.core.throttling import EventsRate
from interp_app.runs import panels, selectors
from interp_app.runs.api import serializers as forms
from interp_app.runs.models import TERMINAL, Run, Tile
from interp_app.runs.shapes import slim_run

POLL_SECONDS: Final = 0.25
MAX_WAITING: Final = 200
"""Readers one process lets wait; the others are answered at once, which is right, only less thrifty."""
_DEFAULT_LIMIT: Final = 200
_poller: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events-poll")
_waiting = 0


@dataclass(frozen=True, slots=True)
class Patience:
    """What the view leaves on its request where it has nothing new to tell and was asked to wait."""

    run_id: UUID
    after: int
    seconds: float


class RunEvents(ApiView):
    """The log of a run."""

    throttle_classes = (EventsRate,)

    @extend_schema(
        operation_id="runs_events",
        summary="Read or follow a run's log",
        parameters=[forms.EventsQuerySerializer],
        responses=forms.EventsSerializer,
    )
    def get(self, request: Request, id: UUID) -> Response:  # noqa: A002 - the name in the address
        """Events after a number, oldest first. Ask again with `after` = `last_seq`; the run has been read to its end
        when it has ended and `last_seq` equals the run's. A reused run shows the log of the run it reuses."""
        query = checked(forms.EventsQuerySerializer, request.query_params.dict(), texts=True)
        run = selectors.run_detail(request.user, id)
        after = query.get("after", 0)
        rows = selectors.events_after(run.source_id, after, query.get("limit", _DEFAULT_LIMIT))
        events = [event(row) for row in rows]
        last = events[-1]["seq"] if events else min(after, run.source.last_seq)
        if not events and run.status not in TERMINAL and query.get("wait"):
            request._request.patience = Patience(run.pk, after, query["wait"])  # type: ignore[attr-defined]
        return Response({"run": slim_run(run, request.user), "events": events, "last_seq": last})

    def get_throttles(self) -> list[Any]:
        # The second answer to a request that waited is not a second request.
        return [] if getattr(self.request._request, "has_waited", False) else list(super().get_throttles())


def event(row: selectors.LoggedEvent) -> dict[str, Any]:
    """One entry of the log in JSON; a tile carries its values."""
    shown: dict[str, Any] = {"seq": row.seq, "kind": row.kind, "at": moment(row.at), "data": row.payload}
    if row.tile is not None:
        tile = row.tile
        shown["tile"] = {
            **{name: getattr(tile, name) for name in ("panel", "r0", "c0", "nr", "nc", "planes")},
            "values": base64.b64encode(_tile_bytes(tile)).decode(),
        }
    return shown


def _tile_bytes(tile: Tile) -> bytes:
    values = panels.tile_values(tile)
    words = np.where(np.isnan(values), panels.NOT_A_NUMBER, values.view(np.uint32))
    return words.astype("<u4", copy=False).tobytes()


def patiently(view: Any) -> Any:
    """The same view, waiting for news as long as the request asks. It keeps the attributes that DRF gave it."""

    @wraps(view)
    async def wait_for_news(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        answer = sync_to_async(view, thread_sensitive=True)
        response: HttpResponseBase = await answer(request, *args, **kwargs)
        patience: Patience | None = getattr(request, "patience", None)
        if patience is None or _waiting >= MAX_WAITING:
            return response
        await sync_to_async(_release_connection, thread_sensitive=True)()
        if not await _news(patience):
            return response
        request.has_waited = True  # type: ignore[attr-defined]
        again: HttpResponseBase = await answer(request, *args, **kwargs)
        return again

    return wait_for_news


async def _news(patience: Patience) -> bool:
    """True once the run has a newer event or has ended, False once the time is up."""
    global _waiting  # one event loop changes it, between awaits
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + patience.seconds
    _waiting += 1
    WAITING_READERS.inc()
    try:
        while (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(POLL_SECONDS, left))
            if await loop.run_in_executor(_poller, _has_news, patience.run_id, patience.after):
                return True
        return False
    finally:
        _waiting -= 1
        WAITING_READERS.dec()
        if not _waiting:
            _poller.submit(_close_connection)


def _has_news(run_id: UUID, after: int) -> bool:
    fields = ("last_seq", "status", "reused_from__last_seq")
    try:
        row = Run.objects.filter(pk=run_id).values_list(*fields).first()
    except (InterfaceError, OperationalError):
        connection.close()  # the next look opens a new one
        return False
    return row is None or (row[2] if row[2] is not None else row[0]) > after or row[1] in TERMINAL


def _close_connection() -> None:
    connection.close()  # looked up here: `connection` is another one in each thread


def _release_connection() -> None:
    """Who waits holds no connection; inside a transaction (a test's) it cannot be given back."""
    if not connection.in_atomic_block:
        connection.close()
