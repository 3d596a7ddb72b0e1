"""How long a method will take: seconds = FLOPs / rate + launches × overhead, measured on the model itself.

1. Time a short forward (2 tokens) and a long one (hundreds of tokens), the fastest of a few each.
2. Two equations, two unknowns: the rate is what the longer one's additional FLOPs took, the overhead what is left of
   the short one a block: launching kernels, and reading the weights once.
A finished run then tells by which factor its method is slower than plain forwards (hooks, indexing, storing); the next
estimate of that method is multiplied by it. Importing this module does not load torch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tracing.experiments.registry import Cost

if TYPE_CHECKING:
    from tracing.models import LanguageModel

SHORT_TOKENS: Final = 2
LONG_ROWS: Final = 8
LONG_TOKENS: Final = 64
REPEATS: Final = 3
BUDGET_SECONDS: Final = 0.8
"""What the measuring may take; a model whose short forward is slow gets a shorter long one."""
FACTOR_BOUNDS: Final = (0.05, 50.0)
"""A run that was disturbed teaches no more than this."""


@dataclass(frozen=True, slots=True)
class Rates:
    """`flops_per_second` of matrix products, `seconds_per_launch` of one block beside them."""

    flops_per_second: float
    seconds_per_launch: float

    def seconds(self, flops: float, launches: int) -> float:
        """What plain forwards of that size would take."""
        return flops / self.flops_per_second + launches * self.seconds_per_launch

    def of(self, cost: Cost) -> float:
        """What a run of that cost would take at the speed of plain forwards."""
        return self.seconds(cost.flops, cost.launches)


def learned(factor: float | None, expected: float, real: float) -> float:
    """The new factor of a method after a run that took `real` seconds where plain forwards would have `expected`.

    The first run's is taken as it is; later ones go in half and half.
    """
    low, high = FACTOR_BOUNDS
    found = min(max(real / max(expected, 1e-9), low), high)
    return found if factor is None else (factor + found) / 2


def measure(model: "LanguageModel", *, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Time the model's forward. Raises `ModelError` where its sizes are not known (no adapter)."""
    import torch

    from tracing.patching.flops import BlockFlops

    facts = model.facts
    cost = BlockFlops.of(facts)
    decodes = bool(getattr(model.module.config, "is_encoder_decoder", False))
    inputs = ("input_ids", "decoder_input_ids") if decodes else ("input_ids",)
    limit = max(SHORT_TOKENS + 1, min(LONG_TOKENS, facts.max_positions))

    def flops(rows: int, tokens: int) -> float:
        # A plain forward computes the logits of every position.
        return rows * (cost.forward(facts, tokens) + (tokens - 1) * cost.unembed)

    def seconds(rows: int, tokens: int) -> float:
        ids = torch.zeros((rows, tokens), dtype=torch.long, device=model.device)
        _wait(model)
        started = clock()
        with torch.inference_mode():
            model.module(**dict.fromkeys(inputs, ids))
        _wait(model)
        return clock() - started

    begun = clock()
    seconds(1, SHORT_TOKENS)  # the first forward allocates and compiles
    short = min(seconds(1, SHORT_TOKENS) for _ in range(REPEATS))
    rows = LONG_ROWS
    long = seconds(rows, limit)
    while long > BUDGET_SECONDS / 4 and rows > 1:
        rows = max(1, rows // 4)
        long = seconds(rows, limit)
    for _ in range(REPEATS - 1):
        if clock() - begun + long < BUDGET_SECONDS:
            long = min(long, seconds(rows, limit))
    return solve(flops(1, SHORT_TOKENS), short, flops(rows, limit), long, facts.n_layers)


def solve(short_flops: float, short_seconds: float, long_flops: float, long_seconds: float, blocks: int) -> Rates:
    """Rate and overhead from two timings. A long forward that was not the slower one makes all of it overhead-free."""
    more = long_seconds - short_seconds
    rate = (long_flops - short_flops) / more if more > 0 else long_flops / max(long_seconds, 1e-9)
    left = max(0.0, short_seconds - short_flops / rate)
    return Rates(rate, left / blocks)


def _wait(model: "LanguageModel") -> None:
    """Timings end when the device has computed."""
    import torch

    if str(model.device).startswith("cuda"):
        torch.cuda.synchronize()
