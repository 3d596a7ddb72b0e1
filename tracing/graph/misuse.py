"""What is said where a value is used that is not there yet, or an operation is asked for that no graph holds."""

from tracing.errors import OperationError, RecordError
from tracing.graph import ops
from tracing.graph.lines import Line, user_line

_ALTERNATIVES = {
    "bool": "use `with tracer.cond(proxy):` or torch.where(proxy, a, b)",
    "int": "keep it as a proxy (it can be an index), or save it and use it after the trace",
    "float": "keep it as a proxy, or save it and use it after the trace",
    "len": "its length is proxy.shape[0], as a proxy; model.scan(...) knows shapes while recording",
    "iter": "index it (proxy[0], proxy[1]), or, for steps of a generation, `for step in tracer.iter[a:b]`",
    "index": "use it as an index of another proxy, or save it and use it after the trace",
    "array": "save it and use it after the trace, or tracer.apply(function, proxy)",
}


def misuse(use: str, line: Line) -> RecordError:
    """The error for using the value of `line` as Python does, with what to do instead."""
    what = {"array": "turned into an array", "iter": "iterated over"}.get(use, f"used with {use}()")
    return RecordError(
        f"The value of {line} is not known while the trace is recorded, so it cannot be {what} (at {user_line()}).",
        remedy=_ALTERNATIVES[use][0].upper() + _ALTERNATIVES[use][1:] + ".",
        where={"line": str(line)},
    )


def unknown(name: str) -> OperationError:
    """The error for an operation that is not in the table, with names near to it."""
    near, why = ops.suggestions(name), ops.refusal(name)
    return OperationError(
        f"{name!r} is not an operation that a trace can record (at {user_line()})" + (f": {why}." if why else "."),
        remedy=(f"Did you mean {', '.join(near)}? " if near else "")
        + "tracer.apply(function, value) runs any function on the value, on this machine only.",
        where={"operation": name},
    )
