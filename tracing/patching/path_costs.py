"""What path patching takes, from sizes alone. Torch-free."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from tracing.circuits.layout import Layout
from tracing.families.facts import ModelFacts
from tracing.patching.flops import BlockFlops

TOKENS: Final = 4096
"""Tokens of one batch on the CPU (`tracing.circuits.exact.TOKENS`)."""
KEPT_A_LAYER: Final = 4
"""Streams as wide as the model that a run keeps of each layer: its entrance, the MLP's, and what both wrote."""


@dataclass(frozen=True, slots=True)
class PathCost:
    """FLOPs, FLOPs of two whole forwards a cell, numbers kept in memory, and executions of a block."""

    flops: float
    naive_flops: float
    numbers: int
    launches: int


def path_cost(
    facts: ModelFacts,
    layout: Layout,
    senders: Sequence[int],
    receivers: Sequence[int],
    lengths: Sequence[int],
    *,
    live: bool,
    batch: int | None = None,
    targets_only: bool = False,
) -> PathCost:
    """The cost for pairs of these lengths: both baselines, then each sender's second and third pass.

    `targets_only`: the metric reads the answers' and foils' logits alone, so that those of a sender cost nothing.
    """
    block = BlockFlops.of(facts)
    unembed = 0.0 if targets_only else block.unembed
    layers = facts.n_layers
    targets = [layout.reader_places[reader].layer for reader in receivers]
    start, last = min(targets), min(max(targets), layers - 1)
    reaching = [s for s in senders if layout.real[s, list(receivers)].any()]
    by_layer = Counter(layout.source_places[sender].layer for sender in reaching)
    flops = naive = 0.0
    launches = 0
    for length, pairs in Counter(lengths).items():
        token = block.token((length + 1) / 2)
        flops += pairs * 2 * block.forward(facts, length)
        naive += pairs * (2 + 2 * len(senders)) * block.forward(facts, length)
        launches += 2 * layers
        for layer, count in by_layer.items():
            through = last - layer + 1 if live else 0
            flops += pairs * count * ((through + layers - start) * length * token + unembed)
            rows = batch or max(1, TOKENS // (length * pairs))
            launches += ceil(count / rows) * (through + layers - start)
    tokens = sum(lengths)
    width = KEPT_A_LAYER * facts.d_model + facts.n_heads * facts.d_head
    return PathCost(flops, naive, 2 * tokens * (layers + 1) * width, launches)
