"""The web process's end of the doorbell: one channel of the channel layer, in the group of each watched run.

Whatever happens to the layer's server, viewers only wait longer: every operation here is tried again in the background,
and after joining a group its run is read once, because bells before that were not heard.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from channels.layers import get_channel_layer

from interp_app.runs.doorbell import crosses_processes, group_name

logger = structlog.get_logger(__name__)

OPERATION_SECONDS: Final = 5.0
FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 15.0
LOOK_NOW: Final = 2**63

Heard = Callable[[uuid.UUID, int], None]


class BellListener:
    """Keeps the process in the groups it wants, and passes each bell on as `heard(run_id, seq)`.

    Tasks run only while some run is wanted, so a process nobody watches holds no subscription.
    """

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._wanted: set[uuid.UUID] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def join(self, run_id: uuid.UUID) -> None:
        self._wanted.add(run_id)
        self._changed.set()
        if self._task is None and crosses_processes():
            self._task = asyncio.create_task(self._listen(), name="bell listener")

    def leave(self, run_id: uuid.UUID) -> None:
        self._wanted.discard(run_id)
        self._changed.set()
        if not self._wanted and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _listen(self) -> None:
        layer = get_channel_layer()
        channel = await self._open(layer)
        receiver = asyncio.create_task(self._receive(layer, channel), name="bell receiver")
        joined: set[uuid.UUID] = set()
        try:
            await self._keep_groups(layer, channel, joined)
        finally:
            for run_id in joined:
                with contextlib.suppress(Exception):
                    await _bounded(layer.group_discard(group_name(run_id), channel))
            receiver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await receiver

    async def _open(self, layer: Any) -> str:
        retry = FIRST_RETRY_SECONDS
        while True:
            with contextlib.suppress(Exception):
                return str(await _bounded(layer.new_channel("feeds")))
            await asyncio.sleep(retry)
            retry = min(LAST_RETRY_SECONDS, 2 * retry)

    async def _keep_groups(self, layer: Any, channel: str, joined: set[uuid.UUID]) -> None:
        retry = FIRST_RETRY_SECONDS
        while True:
            self._changed.clear()
            try:
                for run_id in self._wanted - joined:
                    await _bounded(layer.group_add(group_name(run_id), channel))
                    joined.add(run_id)
                    self._heard(run_id, LOOK_NOW)
                for run_id in joined - self._wanted:
                    joined.discard(run_id)
                    await _bounded(layer.group_discard(group_name(run_id), channel))
            except Exception as error:  # noqa: BLE001 - any fault of the layer's transport: the feeds poll meanwhile
                logger.warning("bells_not_heard", error=str(error), retry_seconds=retry)
                await asyncio.sleep(retry)
                retry = min(LAST_RETRY_SECONDS, 2 * retry)
                continue
            retry = FIRST_RETRY_SECONDS
            await self._changed.wait()

    async def _receive(self, layer: Any, channel: str) -> None:
        while True:
            try:
                message = await layer.receive(channel)
                self._heard(uuid.UUID(message["run"]), int(message["seq"]))
            except (KeyError, TypeError, ValueError) as error:
                logger.warning("bell_not_understood", error=str(error))


async def _bounded(operation: Awaitable[Any]) -> Any:
    """A server that hangs counts as one that is away."""
    return await asyncio.wait_for(operation, OPERATION_SECONDS)
