"""Which part of a batch belongs to one prompt: its rows, without the columns of padding on their left.

Dimension 0 is the batch where it has the batch's size. Position dimensions are those whose size is the padded length;
`Model.batch` pads to a length that no other dimension of the model has.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

_ROWS: Final = ("rows",)


class Scope(NamedTuple):
    """Rows `start:stop` of a batch of `total`, without the first `pad` of `length` positions."""

    start: int
    stop: int
    total: int
    pad: int
    length: int | None
    decoder: int | None = None
    """How many positions of an encoder-decoder's decoder are the prompt's; the rest is padding on the right."""
    decoder_length: int | None = None
    encoded: bool = False
    """Whether the positions are an encoder's: they are the same at each step, and what is generated has no padding."""

    @property
    def everything(self) -> bool:
        """Whether nothing is cut away."""
        return self.stop - self.start == self.total and not self.pad and self.decoder == self.decoder_length

    @property
    def divides(self) -> bool:
        """Whether there are rows of other prompts."""
        return self.stop - self.start != self.total

    def of(self, tensor: Tensor) -> Tensor:
        """A view of the prompt's part of one tensor; a tensor without a batch dimension is shared as it is."""
        if tensor.dim() == 0 or self.everything:
            return tensor
        if tensor.shape[0] != self.total:
            return self.spread(tensor).flatten(0, 1) if self.flattens(tensor) else tensor
        part = tensor[self.start : self.stop]
        if self.pad:
            assert self.length is not None
            for dim in self._position_dims(tensor):
                part = part.narrow(dim, self.pad, part.shape[dim] - self.pad)
        if self.decoder is not None and self.decoder != self.decoder_length:
            for dim in range(1, tensor.dim()):
                if tensor.shape[dim] == self.decoder_length:
                    part = part.narrow(dim, 0, self.decoder)
        return part

    def _position_dims(self, tensor: Tensor) -> list[int]:
        return [dim for dim in range(1, tensor.dim()) if tensor.shape[dim] == self.length]

    def flattens(self, tensor: Tensor) -> bool:
        """Whether a tensor has rows and positions as one dimension, `[row · position, …]`."""
        return tensor.dim() > 0 and self.length is not None and tensor.shape[0] == self.total * self.length

    def separates(self, tensor: Tensor) -> bool:
        """Whether this tensor has rows of its own for each prompt (or there is only one prompt)."""
        if self.stop - self.start == self.total:
            return True
        return tensor.dim() > 0 and (tensor.shape[0] == self.total or self.flattens(tensor))

    def spread(self, tensor: Tensor) -> Tensor:
        """The prompt's part of a flattened tensor, `[row, position, …]`, a view."""
        assert self.length is not None
        return self.of(torch.unflatten(tensor, 0, (self.total, self.length)))

    def filled(self, steps: tuple[Any, ...]) -> tuple[Any, ...]:
        """Steps with ("rows",), which parts rows from positions, replaced by the view that does so here."""
        if _ROWS not in steps:
            return steps
        rows = self.stop - self.start
        return tuple(("view", "unflatten", (0, (rows, -1)), {}) if step == _ROWS else step for step in steps)


Each = Callable[[Tensor], Tensor]
Other = Callable[[Any, Each], Any]


def mapped(value: Any, function: Each, other: Other | None = None) -> Any:
    """A nest of tuples, lists and mappings with every tensor replaced; objects stay themselves, or are `other`'s."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [mapped(item, function, other) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return tuple(items) if type(value) is tuple else type(value)(items)  # such as torch.return_types.topk
    if isinstance(value, list):
        return [mapped(item, function, other) for item in value]
    if isinstance(value, Mapping):
        changed = {key: mapped(item, function, other) for key, item in value.items()}
        return type(value)(**changed) if type(value) is not dict else changed
    return value if other is None else other(value, function)


def cache_copied(value: Any, function: Each) -> Any:
    """A copy of the keys and values that a model keeps from step to step, which it goes on filling.

    Every tensor is replaced. Any other object stays itself.
    """
    if not hasattr(type(value), "get_seq_length") and not type(value).__name__.endswith("Cache"):
        return value
    return copy.deepcopy(value, {id(tensor): function(tensor) for tensor in _tensors_in(value, set())})


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for item in (*inside, *getattr(value, "__dict__", {}).values()):
        yield from _tensors_in(item, seen)


def own(value: Any) -> Any:
    """The same nest with tensors in memory of their own, in the current grad mode."""
    return mapped(value, torch.clone, cache_copied)


def kept(value: Any, device: Any = None, dtype: torch.dtype | None = None) -> Any:
    """The nest as a user gets it: ordinary tensors with memory of their own, cut off from autograd."""
    with torch.inference_mode(False):  # what is made here is an ordinary tensor; detached, it needs no other mode
        if device is not None or dtype is not None:
            return mapped(value, lambda tensor: _moved(tensor, device, dtype), cache_copied)
        return value.detach().clone() if type(value) is Tensor else mapped(value, _copied, cache_copied)


def _moved(tensor: Tensor, device: Any, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to(device=device, dtype=dtype if tensor.is_floating_point() else None, copy=True)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
