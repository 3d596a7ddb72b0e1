"""How long a method will take: seconds = fixed + FLOPs / rate + launches × overhead, measured on the model itself.

1. Time a short forward (2 tokens) and a long one (hundreds of tokens), the fastest of a few each.
2. Two equations, two unknowns: the rate is what the longer one's additional FLOPs took, the overhead what is left of
   the short one a block: launching kernels, and reading the weights once.
3. What is fixed is the same for every model: tokenising, planning, labels and results.
A finished run then teaches how its method differs: seconds = fixed + factor × plain. A long run teaches the factor
(hooks, indexing); a short one scales both, but by no more than `SHORT_FACTOR`, and what it took beyond that is fixed,
so that a small first run does not promise hours for a large one. Importing this module does not load torch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Final

from tracing.experiments.registry import Cost

if TYPE_CHECKING:
    from tracing.models import LanguageModel

SHORT_TOKENS: Final = 2
LONG_ROWS: Final = 8
LONG_TOKENS: Final = 64
REPEATS: Final = 3
SHORT_REPEATS: Final = 10
SHORT_BUDGET: Final = 0.2
"""Seconds that short forwards may take together: they are cheap, and the overhead is what others disturb most."""
ENGINES: Final = (
    "tracing.circuits.attribution", "tracing.circuits.certificate", "tracing.circuits.totals",
    "tracing.lenses.attention", "tracing.lenses.detectors", "tracing.lenses.direct", "tracing.lenses.logit_lens",
    "tracing.lenses.saliency", "tracing.lenses.steered", "tracing.lenses.steering", "tracing.patching.attribution",
    "tracing.patching.attribution_check", "tracing.patching.paths", "tracing.patching.sweeps",
)  # fmt: skip
"""What methods import when they first run."""
BUDGET_SECONDS: Final = 0.8
"""What the measuring may take; a model whose short forward is slow gets a shorter long one."""
FACTOR_BOUNDS: Final = (0.05, 50.0)
"""A run that was disturbed teaches no more than this."""
FIXED_SECONDS: Final = 0.012
"""What a run takes beside its forwards, until one has told: measured on the demo model, 8 to 16 ms for all methods."""
SHORT_SECONDS: Final = 0.25
"""Runs whose forwards take less than this mostly tell what is fixed, longer ones the factor."""
SHORT_FACTOR: Final = 1.5
"""A short run that was slower than told teaches no larger factor than this."""


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


@dataclass(frozen=True, slots=True)
class Habit:
    """How the runs of one method differ from plain forwards of the same size."""

    fixed: float = FIXED_SECONDS
    factor: float = 1.0
    short_runs: int = 0
    long_runs: int = 0

    def seconds(self, plain: float) -> float:
        """What a run takes where plain forwards would take `plain`."""
        return self.fixed + self.factor * plain

    def after(self, plain: float, real: float) -> "Habit":
        """The habit once a run took `real` seconds: the first of its kind counts whole, later ones half and half."""
        low, high = FACTOR_BOUNDS
        if plain >= SHORT_SECONDS:
            found = min(max((real - self.fixed) / plain, low), high)
            factor = found if not self.long_runs else (self.factor + found) / 2
            return replace(self, factor=factor, long_runs=self.long_runs + 1)
        expected = self.seconds(plain)
        # Off by little, both parts were told wrong; what is far beyond is fixed, since a short run tells no hours.
        share = min(SHORT_FACTOR, max(real / expected, low)) if expected > 0 else 1.0
        told = replace(self, fixed=self.fixed * share, factor=self.factor * share)
        told = replace(told, fixed=max(told.fixed, real - told.factor * plain))
        if self.short_runs:
            told = replace(told, fixed=(self.fixed + told.fixed) / 2, factor=(self.factor + told.factor) / 2)
        return replace(told, short_runs=self.short_runs + 1)

    @property
    def runs(self) -> int:
        """How many runs it was learned from."""
        return self.short_runs + self.long_runs


def preload() -> None:
    """Import what methods compute with, so that no first run pays for it. Loads torch."""
    for name in ENGINES:
        import_module(name)


def measure(model: "LanguageModel", *, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Time the model's forward. Raises `ModelError` where its sizes are not known (no adapter)."""
    import torch

    from tracing.patching.flops import BlockFlops

    preload()
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
    short, spent = seconds(1, SHORT_TOKENS), clock()
    for _ in range(SHORT_REPEATS - 1):
        if clock() - spent < SHORT_BUDGET:
            short = min(short, seconds(1, SHORT_TOKENS))
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
