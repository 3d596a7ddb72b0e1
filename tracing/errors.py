"""The errors a user of `tracing` sees: each says what was wrong with which input, and what to do about it.

`code` is stable and meant for programs (API problem types, a run's failure code); `str(error)` is meant for people.
"""

from collections.abc import Mapping
from typing import ClassVar


class TracingError(Exception):
    """Base of every error raised on purpose by this library."""

    code: ClassVar[str] = "tracing_error"

    def __init__(self, message: str, *, remedy: str = "", where: Mapping[str, object] | None = None) -> None:
        """`where` holds machine-readable facts about the faulty input (pair number, site, sizes)."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.where: dict[str, object] = dict(where or {})

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class PromptError(TracingError):
    """A prompt, or a pair of prompts, cannot be used: empty, too long, misaligned, unlike the others of its batch."""

    code = "prompt_invalid"


class SiteError(TracingError):
    """A site does not exist on this architecture, or lacks the axis asked for."""

    code = "site_unknown"


class PathError(SiteError, AttributeError):
    """A module path that does not exist. An AttributeError too, so that hasattr() works on the model's tree."""

    code = "path_unknown"


class NotCachedError(SiteError, KeyError, AttributeError):
    """A cache holds nothing of a path. A KeyError and an AttributeError too, as of any mapping and any object."""

    code = "not_cached"


class SiteNotReachedError(SiteError):
    """The forward never reached a site that a trace reads or writes."""

    code = "site_not_reached"


class StepNotReachedError(SiteNotReachedError):
    """A generation ended before the step whose value was asked for."""

    code = "step_not_reached"


class TraceError(TracingError):
    """Base of what goes wrong in recording or running a trace."""

    code = "trace_error"


class RecordError(TraceError, TypeError):
    """A proxy was used for what only a real value can do: `if proxy:`, `len(proxy)`, a site outside a trace."""

    code = "record_error"


class OperationError(TraceError, AttributeError):
    """An operation that is not in the op table, so a graph cannot hold it."""

    code = "operation_unknown"


class NotSavedError(TraceError, RuntimeError):
    """A value was read after its trace without having been saved."""

    code = "not_saved"


class CausalityError(TraceError):
    """A write would need a value that the forward computes only later."""

    code = "causality"


class GradientError(TraceError, RuntimeError):
    """A gradient that was asked for cannot be reached."""

    code = "gradient_unreachable"


class RemoteError(TraceError):
    """A trace cannot be run on the lab's server."""

    code = "remote_failed"


class GraphFormatError(TraceError, ValueError):
    """A stored graph is malformed, of another version, or holds what no graph may hold."""

    code = "graph_invalid"


class ExportError(TraceError):
    """A graph says something that a script of another library cannot."""

    code = "not_exportable"


class UnusedValueWarning(UserWarning):
    """A value was computed in a trace, yet neither saved nor used: usually a write that was meant for the model."""


class StepNotReachedWarning(UserWarning):
    """A generation ended before a step in which a write or a skip was to take place."""


class ModelError(TracingError):
    """A model folder is missing, has no safetensors weights, or belongs to no known family."""

    code = "model_unavailable"


class AdapterError(TracingError):
    """A family adapter does not describe the model it was given: its numerical check failed."""

    code = "adapter_check_failed"


class MetricError(TracingError):
    """A metric is unknown, or gave a value that is not a number."""

    code = "metric_invalid"


class SpecError(TracingError):
    """An experiment's specification contradicts itself or the model it is meant for."""

    code = "spec_invalid"


class OutOfMemoryError(TracingError):
    """The device's memory does not hold even the smallest batch."""

    code = "out_of_memory"


class Stopped(Exception):
    """`should_stop()` became true before there was anything to return. No `TracingError`: nothing went wrong."""
