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

RESUMABLE: Final = frozenset({Status.FAILED, Status.CANCELLED})
"""What people may queue again; that a worker may give a running run back is not theirs to ask for."""


def may(now: str, then: str) -> bool:
    """Whether a run in state `now` may go to `then`."""
    return then in NEXT[now]


def require(now: str, then: str, *, action: str) -> None:
    """Raises `ServiceError` 409 where a run in state `now` may not go to `then`."""
    if not may(now, then):
        raise conflict("state_conflict", f"A run that is {now} cannot be {action}.")


def require_resumable(now: str) -> None:
    """Raises `ServiceError` 409 where a person may not queue a run in state `now` again."""
    if now not in RESUMABLE:
        raise conflict("state_conflict", f"A run that is {now} cannot be resumed.")
