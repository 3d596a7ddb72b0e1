"""From an exception to what the run's page says: a stable code, a sentence, and what to do about it.

Only errors raised on purpose are quoted. Anything else becomes `internal_error` with a number to look up in the log:
a traceback may hold prompts, paths and secrets, so it stays there.
"""

import secrets
from typing import Any, TypedDict

import structlog

from interp_app.core.canonical import json_safe
from interp_app.core.errors import ServiceError
from interp_app.runs.artifacts import StorageFull
from tracing.errors import TracingError

log = structlog.get_logger(__name__)


class Failure(TypedDict):
    """The columns failure_code, failure_text and failure_detail."""

    code: str
    text: str
    detail: dict[str, Any]


def failure_of(error: BaseException, *, device: str) -> Failure:
    """What to tell about `error`; logs the traceback of one nobody foresaw."""
    if isinstance(error, TracingError):
        return _failure(error.code, str(error), remedy=error.remedy, where=json_safe(error.where))
    if isinstance(error, ServiceError):
        return _failure(error.code, str(error), remedy=error.remedy)
    if isinstance(error, StorageFull):
        remedy = "Free some space under the artifacts' folder, then resume the run: what was computed is kept."
        return _failure("storage_full", f"The result could not be stored: {error}. {remedy}", remedy=remedy)
    if is_out_of_memory(error):
        remedy = "Use a smaller model or precision, or fewer rows a batch."
        return _failure("out_of_memory", f"The memory of {device} does not hold this run. {remedy}", remedy=remedy)
    number = secrets.token_hex(4)
    log.error("run_failed_unexpectedly", error_id=number, exc_info=error)
    remedy = f"Tell an administrator the number {number}: the log has the details."
    text = f"The worker ran into an error nobody foresaw ({type(error).__name__}). {remedy}"
    return _failure("internal_error", text, remedy=remedy, error_id=number)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) says that memory ran out. By name, so that nothing here loads torch."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def is_device_fault(error: BaseException) -> bool:
    """Whether the CUDA context is broken, so that this process can compute nothing more."""
    if is_out_of_memory(error):
        return False
    if type(error).__name__ == "AcceleratorError":
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _failure(code: str, text: str, **detail: Any) -> Failure:
    return Failure(code=code, text=text, detail={name: value for name, value in detail.items() if value})
