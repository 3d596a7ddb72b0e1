"""Patches inside a block that runs: q, k and v, and sublayer outputs of blocks that cannot be taken apart.

A hook at the site's module replaces the patched places of one entry's sequences; the sequences of other entries, which
are in the same batch, pass as they are.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tracing.engines.hooks import Hooks, first_argument, main_output, with_first_argument, with_main_output
from tracing.families.sites import Step
from tracing.graph.heads import get_heads, put_heads
from tracing.models import LanguageModel


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """What an entry replaces in its block."""

    site: str
    places: Tensor
    """The patched places of a pair's bins, `[n]`."""
    values: Tensor
    """What stands there: `[pair, n, …]`, of all heads, or of one head (neuron) a place where `units` says which."""
    units: Tensor | None
    """`[n]`"""


def override(registered: Hooks, model: LanguageModel, layer: int, inside: Inside, mine: slice) -> None:
    """Register the hook; `mine` are the entry's sequences of the batch, pairs outside bins."""
    steps: tuple[Step, ...] = ()
    if inside.site == "neurons":
        module, kind = model.block_modules[layer].get_submodule(model.adapter.neurons), "inputs"
    else:
        path = model.adapter.site(inside.site, layer, model.facts)
        module, kind = model.module.get_submodule(path.path), path.kind
        steps = tuple(step for step in path.steps if step[0] not in ("first", "main", "rows"))

    def patched(live: Tensor) -> Tensor:
        changed = live.clone()
        part = changed[mine]
        for step in steps[:-1]:
            part = part[step[1]]
        _put(part, steps[-1] if steps else None, inside)
        return changed

    def at_input(args: Any, kwargs: Any) -> Any:
        return with_first_argument(args, kwargs, patched(first_argument(args, kwargs)))

    def at_output(output: Any) -> Any:
        return with_main_output(output, patched(main_output(output)))

    if kind == "inputs":
        registered.before(module, at_input)
    else:
        registered.after(module, at_output)


def _put(part: Tensor, step: Step | None, inside: Inside) -> None:
    """Write into `[pair · B, C, width]`, a view of the live tensor."""
    heads = part if step is None else get_heads(part, step)
    pairs = len(inside.values)
    new = heads.reshape(pairs, -1, *heads.shape[2:]).clone()
    index = inside.places if inside.units is None else (inside.places, inside.units)
    new[(slice(None), index) if isinstance(index, Tensor) else (slice(None), *index)] = inside.values.to(new.dtype)
    new = new.reshape(heads.shape)
    if step is None:
        part.copy_(new)
    else:
        put_heads(part, step, new)
