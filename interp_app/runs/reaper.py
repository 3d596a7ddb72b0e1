"""Reaping from the web process: the last worker may be gone for good, and its run must not look alive for ever.

Workers reap too, so this finds something only where no worker is left. It reads one indexed row in each
`RUN_REAP_SECONDS`; a process that finds expired leases takes the reaper's lock, so any number of them may try.
"""

import threading

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from interp_app.runs import claims

log = structlog.get_logger(__name__)


class Reaper:
    """A thread of the web process that requeues runs whose worker is gone."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin; the first look is one period from now."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._ended.wait(settings.RUN_REAP_SECONDS):
            try:
                claims.reap()
            except (DatabaseError, InterfaceError) as error:
                log.warning("reaper_failed", error=type(error).__name__)
            except Exception:
                log.exception("reaper_failed")
            finally:
                connection.close()  # a connection is not worth keeping for one read now and then
