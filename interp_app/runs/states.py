"""Which state of a run may follow which: the one table that services, claims and the executor ask."""

from typing import Final

from interp_app.core.errors import conflict
from interp_app.runs.models import Status

NEXT: Final[dict[str, frozenset[str]]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}


def may(now: str, then: str) -> bool:
    """Whether a run in state `now` may go to `then`."""
    return then in NEXT[now]


def require(now: str, then: str, *, action: str) -> None:
    """Raises `ServiceError` 409 where a run in state `now` may not go to `then`."""
    if not may(now, then):
        raise conflict("state_conflict", f"A run that is {now} cannot be {action}.")
