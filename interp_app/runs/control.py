"""How the thread that computes is told to stop, and why. Shared with the heartbeat and the recorder."""

import enum
import threading
import time


class Stop(enum.IntEnum):
    """Why to stop; of two reasons the greater one counts."""

    SHUTDOWN = 1
    CANCEL = 2
    BROKEN = 3
    LOST = 4


class Control:
    """One run's stop switch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: Stop | None = None
        self._asked_at = 0.0

    @property
    def reason(self) -> Stop | None:
        return self._reason

    @property
    def stopping(self) -> bool:
        return self._reason is not None

    def stop(self, reason: Stop) -> None:
        """Ask for a stop; a lesser reason than the present one changes nothing."""
        with self._lock:
            if self._reason is None:
                self._asked_at = time.monotonic()
            self._reason = max(reason, self._reason or reason)

    def seconds_since_asked(self) -> float:
        """How long ago the first stop was asked for; 0 if none was."""
        return time.monotonic() - self._asked_at if self._reason is not None else 0.0
