"""A forward from one block on, in which readers get copies of the residual stream of their own.

1. Every block runs as the model runs it, on a batch of rows, called with what the model calls it with.
2. An `Edit` says which readers of which rows get which copy. A head's q, k or v of those rows is projected again from
   the norm of its copy; an MLP's norm (or the MLP) is called with it; so is the final norm.
3. An edit that needs the writes of this very pass is told them as they happen.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tracing.circuits.layout import LETTERS, Layout
from tracing.circuits.parts import Block
from tracing.circuits.runs import Call
from tracing.engines.hooks import (
    Hooks,
    first_argument,
    hooks,
    main_output,
    with_first_argument,
    with_main_output,
)

Copy = tuple[int, Tensor, Tensor]
"""A reader, the rows of the batch that get a copy, and the copy `[row, position, d_model]`."""


class Edit(Protocol):
    """What a batch does to its readers' copies of the residual stream."""

    listens: bool
    """Whether it needs the writes of this pass."""

    def touches(self, readers: Sequence[int]) -> bool:
        """Whether any row gives any of these readers a copy of its own."""
        ...

    def copies(self, readers: Sequence[int], live: Tensor) -> Iterable[Copy]:
        """The copies of these readers; `live` is the residual stream there in this pass, `[row, T, d_model]`."""
        ...

    def wrote(self, layer: int, kind: str, value: Tensor) -> None:
        """A write of this pass: "z" `[row, T, head · d_head]`, "sum" (what a post norm gets), "mlp"."""
        ...


def walk(
    layout: Layout, blocks: Sequence[Block], calls: Sequence[Call], start: int, hidden: Tensor, edit: Edit
) -> Tensor:
    """The residual stream that the unembedding's norm reads, `[row, T, d_model]`, from that at block `start`."""
    rows = len(hidden)
    for layer in range(start, len(blocks)):
        call = calls[layer].rows(rows)
        with hooks() as registered:
            _attend(registered, layout, blocks[layer], layer, hidden, edit)
            _feed(registered, layout, blocks[layer], layer, hidden, edit)
            if edit.listens:
                _listen(registered, blocks[layer], layer, rows, edit)
            hidden = main_output(blocks[layer].module(hidden, *call.args, **call.kwargs))
    logits = len(layout.readers) - 1
    return _with_copies(hidden, edit, [logits])


def _with_copies(live: Tensor, edit: Edit, readers: Sequence[int]) -> Tensor:
    if not edit.touches(readers):
        return live
    found = live.clone()
    for _, rows, copy in edit.copies(readers, live):
        found[rows] = copy
    return found


def _attend(registered: Hooks, layout: Layout, block: Block, layer: int, hidden: Tensor, edit: Edit) -> None:
    """Queries, keys and values of heads that have a copy of their own."""
    columns = layout.reads(layer, "qkv")
    readers = range(columns.start, columns.stop)
    if not edit.touches(readers):
        return
    changed: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for reader, rows, copy in edit.copies(readers, hidden):
        place = layout.reader_places[reader]
        projection = block.projections[place.kind]
        # The norm's own forward: its hooks belong to the live stream.
        normed = copy if block.norm_attn is None else block.norm_attn.forward(copy)
        path = block.adapter_path(place.kind)
        new = projection.of_head(normed, place.head)
        changed.setdefault(path, []).append((rows, projection.columns[place.head], new))
    modules: dict[str, nn.Module] = {block.adapter_path(letter): block.projections[letter].module for letter in LETTERS}
    for path, replacements in changed.items():
        registered.after(modules[path], _Replace(replacements))


class _Replace:
    """A forward hook that writes some rows' columns of a projection's output."""

    def __init__(self, replacements: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.replacements = replacements

    def __call__(self, output: Any) -> Any:
        value = main_output(output).clone()
        for rows, columns, new in self.replacements:
            value[rows[:, None], :, columns[None, :]] = new.transpose(1, 2)
        return with_main_output(output, value)


def _feed(registered: Hooks, layout: Layout, block: Block, layer: int, hidden: Tensor, edit: Edit) -> None:
    """The MLP of rows that have a copy of their own."""
    reader = layout.mlp_reads(layer)
    if not edit.touches([reader]):
        return

    def enter(args: Any, kwargs: Any) -> Any:
        given = first_argument(args, kwargs)
        live = given.reshape(hidden.shape)
        if block.shared_norm is None:
            return with_first_argument(args, kwargs, _with_copies(live, edit, [reader]).reshape(given.shape))
        # The MLP is called with the normed stream, which attention shares: only the MLP's is to change.
        found = live.clone()
        for _, rows, copy in edit.copies([reader], hidden):
            found[rows] = block.shared_norm.forward(copy)
        return with_first_argument(args, kwargs, found.reshape(given.shape))

    registered.before(block.mlp_entrance, enter)


def _listen(registered: Hooks, block: Block, layer: int, rows: int, edit: Edit) -> None:
    def before(kind: str) -> Any:
        return lambda args, kwargs: edit.wrote(layer, kind, first_argument(args, kwargs))

    registered.before(block.out_proj, before("z"))
    if block.post_norm is not None:
        registered.before(block.post_norm, before("sum"))

    def mlp(output: Any) -> None:
        # Some blocks add to this very tensor afterwards, so it is copied.
        value = main_output(output)
        edit.wrote(layer, "mlp", value.reshape(rows, -1, value.shape[-1]).clone())

    registered.after(block.mlp_exit, mlp)


def indices(values: Sequence[int], device: torch.device) -> Tensor:
    """A long tensor."""
    return torch.tensor(list(values), dtype=torch.long, device=device)
