"""The heads of a projection's output, in the layouts that models fuse them: `[..., width]` to `[..., head, d_head]`.

("heads", part, parts, d_head)                       [part 0 | part 1 | …], heads in order inside each
("heads_interleaved", part, parts, d_head)           per head [q | k | v] (GPT-NeoX, BLOOM)
("heads_grouped", part, n_heads, n_kv, d_head)       per key-value head [its query heads | k | v] (Falcon)
("heads_multi_query", part, n_heads, d_head)         [all query heads | k | v] with one k and v (GPT-BigCode)
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor


def _split(values: Tensor, parts: int, d_head: int) -> Tensor:
    width = values.shape[-1] // parts
    return torch.unflatten(values, -1, (parts, width // d_head, d_head))


def _plain(values: Tensor, part: int, parts: int, d_head: int) -> Tensor:
    return _split(values, parts, d_head).select(-3, part)


def _interleaved(values: Tensor, part: int, parts: int, d_head: int) -> Tensor:
    return torch.unflatten(values, -1, (-1, parts, d_head)).select(-2, part)


def _groups(values: Tensor, part: int, n_heads: int, n_kv: int, d_head: int) -> Tensor:
    """`[..., n_kv, heads of the group, d_head]`, a view."""
    group = n_heads // n_kv
    split = torch.unflatten(values, -1, (n_kv, group + 2, d_head))
    return split[..., :group, :] if part == 0 else split[..., group + part - 1 : group + part, :]


def _grouped(values: Tensor, part: int, n_heads: int, n_kv: int, d_head: int) -> Tensor:
    return _groups(values, part, n_heads, n_kv, d_head).flatten(-3, -2)


def _multi_query(values: Tensor, part: int, n_heads: int, d_head: int) -> Tensor:
    split = torch.unflatten(values, -1, (n_heads + 2, d_head))
    return split[..., :n_heads, :] if part == 0 else split[..., n_heads + part - 1 : n_heads + part, :]


HEADS: Final[dict[str, Callable[..., Tensor]]] = {
    "heads": _plain,
    "heads_interleaved": _interleaved,
    "heads_grouped": _grouped,
    "heads_multi_query": _multi_query,
}


def get_heads(values: Tensor, step: tuple[Any, ...]) -> Tensor:
    """The heads that a step names, `[..., head, d_head]`."""
    return HEADS[step[0]](values, *step[1:])


def put_heads(values: Tensor, step: tuple[Any, ...], new: Any) -> None:
    """Write heads into `values`, in place."""
    if step[0] == "heads_grouped":
        target = _groups(values, *step[1:])
        if isinstance(new, Tensor) and new.dim():
            flat = new.expand(*target.shape[:-3], -1, target.shape[-1])
            new = torch.unflatten(flat, -2, target.shape[-3:-1])
    else:
        target = HEADS[step[0]](values, *step[1:])
    if isinstance(new, Tensor):
        target.copy_(new)
    else:
        target.fill_(new)
