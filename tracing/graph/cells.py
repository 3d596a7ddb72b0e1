"""`Cell`: where a saved value arrives when its program has run, or why it did not."""

from typing import Any

import torch

from tracing.errors import NotSavedError
from tracing.graph.lines import Line
from tracing.graph.saved import Saved, publish

_UNSET: Any = object()


class Cell:
    """Where a saved value arrives when the graph has run."""

    __slots__ = ("device", "dtype", "error", "faces", "line", "next", "value")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.device: Any = None
        self.dtype: torch.dtype | None = None
        self.value: Any = _UNSET
        self.error: Exception | None = None
        self.faces: list[Saved] = []
        """What `.save()` returned for it."""
        self.next: Cell | None = None
        """Where the same value was saved once more: each has a copy of its own."""

    def publish(self) -> None:
        """The run has ended: let the saved objects have their value's memory."""
        cell: Cell | None = self
        while cell is not None:
            if cell.value is not _UNSET:
                for saved in cell.faces:
                    publish(saved, cell.value)
            cell = cell.next

    def close(self) -> None:
        """Nothing is recorded any more: what the user keeps of a value no longer leads to its program."""
        cell: Cell | None = self
        while cell is not None:
            for saved in cell.faces:
                saved._proxy._close()
            cell.faces = []
            cell = cell.next

    @property
    def filled(self) -> bool:
        return self.value is not _UNSET

    def absence(self) -> str:
        """Why there is no value, in a few words."""
        if self.error is None:
            return "saved, but its trace ended with an error before it was computed"
        return f"saved, but absent: {getattr(self.error, 'message', self.error)}"

    def read(self) -> Any:
        """The value. Raises why there is none."""
        if self.value is not _UNSET:
            return self.value
        if self.error is not None:
            raise self.error
        raise NotSavedError(
            f"The value saved at {self.line} was never computed, because its trace did not run to its end.",
            remedy="See the error that ended the trace.",
        )
