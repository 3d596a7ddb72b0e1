"""What edge attribution costs, from sizes alone. Torch-free: cost previews read these."""

from collections.abc import Sequence
from math import ceil
from typing import Final

from tracing.circuits.layout import Layout
from tracing.families import ModelFacts

CPU_BYTES: Final = 2**29
"""About how much the activations of a batch may take on the CPU, where larger batches are no faster."""

EXACT_TOKENS: Final = 4096
"""Tokens of one batch of patched edges on the CPU (`tracing.circuits.exact.TOKENS`)."""


def graph_numbers(facts: ModelFacts) -> int:
    """About how many numbers a token's forward keeps for its backward: norms, projections, the MLP's hidden tensors."""
    return facts.n_layers * (16 * facts.d_model + 8 * facts.d_mlp + 6 * facts.n_heads * facts.d_head)


def batches(facts: ModelFacts, lengths: Sequence[int], item_bytes: int, batch: int | None) -> int:
    """How many batches pairs of these lengths make on the CPU; equal lengths run together."""
    found = 0
    for length in set(lengths):
        size = batch or max(1, CPU_BYTES // (graph_numbers(facts) * length * item_bytes))
        found += ceil(lengths.count(length) / size)
    return found


def runs(layout: Layout, method: str, steps: int, *, ends: bool) -> tuple[int, int]:
    """Forwards and backwards of one batch; `ends` where one of the steps is an unpatched run, which is run anyway."""
    if method == "eap":
        return 2, 1
    if method == "eap-ig-inputs":
        return 2 + steps - ends, steps
    groups = 2 * layout.n_layers + 1 if method == "eap-ig-activations" else 1
    return 2 + groups * steps, groups * steps


def exact_runs(facts: ModelFacts, lengths: Sequence[int], edges: int) -> tuple[float, int]:
    """Forwards of every pair and executions of a block that a sample of `edges` takes, patched one at a time.

    An edge runs from its reader's block on: half of them, on the whole. Edges with the same first block run together.
    """
    runs = 0
    for length in set(lengths):
        rows = max(1, EXACT_TOKENS // (length * lengths.count(length)))
        runs += max(min(edges, facts.n_layers), ceil(edges / rows))
    return edges / 2, ceil(runs * (facts.n_layers + 1) / 2)


def contraction_flops(layout: Layout, facts: ModelFacts) -> float:
    """One token's sources and readers written out and multiplied, each layer's readers with the sources before them."""
    products = float(layout.n_edges) * facts.d_model
    heads = facts.n_layers * (2 * facts.n_heads + 2 * facts.n_kv_heads) * facts.d_head * facts.d_model
    return 2.0 * (products + heads)
