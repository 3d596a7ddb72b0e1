"""Tensors without numbers: torch's `FakeTensorMode`, in this thread only, and a model that keeps none of them."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tracing.engines.rows import mapped

NO_NUMBERS: Final = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    GuardOnDataDependentSymNode,
)
"""What torch raises where a fake tensor would need numbers."""

_LOG: Final = logging.getLogger("torch._subclasses.fake_tensor")


def fake_mode() -> FakeTensorMode:
    """Tensors without numbers; weights and constants of the real world become such where an operation meets them."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def numberless(mode: FakeTensorMode) -> Iterator[None]:
    """Run what follows on fake tensors. What torch's shape functions refuse is raised, and not logged as well."""
    quiet = _NotOf(threading.get_ident())
    _LOG.addFilter(quiet)
    try:
        with mode:
            yield
    finally:
        _LOG.removeFilter(quiet)


class _NotOf(logging.Filter):
    """Drops the records of one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


def as_fake(mode: FakeTensorMode, value: Any, device: torch.device) -> Any:
    """A nest with fake tensors in place of its own; on the "meta" device if the model has no weights."""

    def convert(tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        return mode.from_tensor(tensor.to(device) if device.type == "meta" else tensor)

    return mapped(value, convert)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Afterwards no module holds a fake tensor: some keep values or tables of a forward (rotary, alibi)."""
    before = [(part, dict(part.__dict__), dict(part._buffers), _contents(part)) for part in module.modules()]
    try:
        yield
    finally:
        for part, attributes, buffers, contents in before:
            for kept, content in contents:
                if _is_fake(kept):
                    kept.clear()
                    kept.update(content) if isinstance(kept, dict) else kept.extend(content)
            if any(map(_is_fake, (*part._buffers.values(), *part.__dict__.values()))):
                # What goes with the table, such as the length it is for, goes back with it.
                part._buffers.clear()
                part._buffers.update(buffers)
                part.__dict__.update(attributes)
                for name in [name for name, value in part.__dict__.items() if _is_fake(value)]:
                    del part.__dict__[name]


@contextmanager
def counts_kept(module: nn.Module) -> Iterator[None]:
    """Buffers that a forward in training mode updates, such as running means, are afterwards as they were."""
    buffers = [buffer for buffer in module.buffers() if not buffer.is_meta] if module.training else []
    before = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


_OF_TORCH = frozenset(vars(nn.Module()))


def _contents(part: nn.Module) -> list[tuple[Any, Any]]:
    """Lists and dicts of a module's own, each with a copy."""
    own = [value for name, value in part.__dict__.items() if name not in _OF_TORCH]
    return [(value, value.copy()) for value in own if isinstance(value, (list, dict))]


def _is_fake(value: Any) -> bool:
    """Whether a value is a fake tensor, or a list or dict with one."""
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, FakeTensor) for item in value)
    if isinstance(value, dict):
        return any(isinstance(item, FakeTensor) for item in value.values())
    return isinstance(value, FakeTensor)
