"""What the looks of `tracing.lenses` share as experiments: steps as events, and costs from sizes alone. Torch-free."""

from collections.abc import Generator, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tracing.errors import SiteError, Stopped
from tracing.events import Event, PanelOpened, Progress, Tile
from tracing.experiments.registry import Cost, ModelFacts, PromptFacts
from tracing.families.facts import sites_of_family
from tracing.patching.plan import Lengths

if TYPE_CHECKING:
    from tracing.lenses.steps import Steps
    from tracing.results import Grid

DType = Literal["float32", "float64", "bfloat16"]
MetricName = Literal["logit_diff", "logit", "prob", "prob_diff", "log_prob", "rank", "kl_divergence", "accuracy"]
TOKENS_A_BATCH: Final = 8192
BACKWARD: Final = 1
"""FLOPs of a backward in forwards: weights are frozen, so only the gradients of activations are products."""


def follow(steps: "Steps[Any]") -> Generator[Event, None, Any]:
    """The steps of a look as events: its maps as panels, refreshed after every batch. Returns the result, or None.

    None is where the run was stopped.
    """
    opened = False
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        except Stopped:
            return None
        grids = step.grids()
        if not opened:
            yield from (PanelOpened(index, grid.panel) for index, grid in enumerate(grids))
            opened = True
        yield from (tile_of(index, grid) for index, grid in enumerate(grids))
        yield Progress(step.done, step.total, "computing")


def tile_of(index: int, grid: "Grid") -> Tile:
    """A whole map as one tile."""
    planes = [grid.planes[quantity.key] for quantity in grid.quantities]
    return Tile(index, 0, 0, np.stack(planes).astype(np.float32))


def passes(model: ModelFacts, lengths: Sequence[int], *, cells: int = 0, extra: float = 0.0, size: int = 0) -> Cost:
    """The cost of one forward a prompt of these lengths, with `extra` FLOPs on top; nothing is repeated a cell."""
    tokens = sum(lengths)
    weights = max(0, model.n_params - model.vocab_size * model.d_model)
    attention = sum(2.0 * length * (length + 1) * model.n_heads * model.d_head for length in lengths) * model.n_layers
    flops = 2.0 * weights * tokens + attention + extra
    groups = {length: lengths.count(length) for length in set(lengths)}
    batches = sum(ceil(count * length / TOKENS_A_BATCH) for length, count in groups.items())
    return Cost(cells=cells, flops=flops, naive_flops=flops, bytes=size, launches=batches * model.n_layers)


def guessed(prompts: PromptFacts, *, spans: bool) -> list[Lengths]:
    """Pairs as the planner takes them, from sizes alone.

    Where spans lie is not known before the prompts are tokenised: two of them, at both ends, stand for all.
    """
    firsts = prompts.first_differences or (0,) * prompts.pairs
    return [
        Lengths(
            length,
            tuple(t >= first for t in range(length)),
            spans=(("a", 0, 1), ("b", length - 1, length)) if spans else (),
        )
        for length, first in zip(prompts.lengths, firsts, strict=True)
    ]


def added(one: Cost, other: Cost) -> Cost:
    """Two costs after one another."""
    return Cost(
        cells=one.cells + other.cells,
        flops=one.flops + other.flops,
        naive_flops=one.naive_flops + other.naive_flops,
        bytes=max(one.bytes, other.bytes),
        launches=one.launches + other.launches,
    )


def unembedding(model: ModelFacts, rows: float) -> float:
    """FLOPs of reading `rows` hidden states as logits."""
    return 2.0 * model.d_model * model.vocab_size * rows


def require_site(facts: ModelFacts, site: str) -> None:
    """Raises `SiteError` where the family has no such site."""
    known = sites_of_family(facts.family)
    if site not in known:
        raise SiteError(f"The family {facts.family} has no site {site}.", remedy=f"Its sites: {', '.join(known)}.")


def starting(prompts: int) -> Iterator[Event]:
    """The first event of a run."""
    yield Progress(0, prompts, "computing")


def lengths_of(prompts: PromptFacts) -> list[int]:
    """Lengths as a list."""
    return list(prompts.lengths)


def call_text(imports: str, function: str, options: Sequence[tuple[str, str]], *, bind: str = "found") -> str:
    """Python lines: an import, a call with one option a line, bound to a name."""
    lines = "".join(f"    {name}={text},\n" if name else f"    {text},\n" for name, text in options)
    return f"{imports}\n\n{bind} = {function}(\n    model,\n{lines})\n"
