"""How many pairs one batch of attribution patching has: as many as fit into a budget of bytes. Torch-free."""

from collections.abc import Collection, Sequence
from math import ceil
from typing import Final

from tracing.circuits.costs import CPU_BYTES, graph_numbers
from tracing.families import ModelFacts

PATTERNS: Final = frozenset({"scores", "pattern"})
"""Sites that let attention run its eager path, whose T² matrices stay for the backward."""


def pair_numbers(
    facts: ModelFacts,
    length: int,
    sites: Collection[str],
    *,
    neurons: bool = False,
    qk_fix: bool = False,
    eager: bool = False,
    read: int = 1,
) -> int:
    """About how many numbers a pair of `length` tokens takes at the most.

    What the backward needs of the activations, the difference of each site, queries, keys and values of the fix, and
    the logits of `read` positions. `neurons`: the map's axis, which with GradDrop keeps a score for each, and its sum.
    `eager`: attention keeps its scores and its pattern. What the fix holds of its own has its own bound (`qk_fix`).
    """
    stacks = 1 + facts.n_encoder_layers / max(1, facts.n_layers)
    token = graph_numbers(facts) * stacks + facts.n_layers * 8 * facts.d_mlp * (facts.n_active - 1)
    if eager or PATTERNS & set(sites):
        token += 4 * facts.n_layers * facts.n_heads * length
    token += sum(facts.n_layers * _width(facts, site, length) * (3 if neurons else 1) for site in sites)
    if qk_fix:
        token += 3 * facts.n_layers * facts.d_head * (facts.n_heads + facts.n_kv_heads)
    return ceil(token * length + 4 * facts.vocab_size * read)


def _width(facts: ModelFacts, site: str, length: int) -> int:
    heads, key_values = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    widths = {
        "z": heads, "head_out": heads, "q": heads, "q_rot": heads, "k": key_values, "k_rot": key_values,
        "v": key_values, "pattern": facts.n_heads * length, "scores": facts.n_heads * length, "neurons": facts.d_mlp,
    }  # fmt: skip
    return widths.get(site, facts.d_model)


def batches(
    facts: ModelFacts,
    lengths: Sequence[int],
    sites: Collection[str],
    item_bytes: int,
    batch: int | None = None,
    *,
    qk_fix: bool = False,
    neurons: bool = False,
) -> tuple[int, int]:
    """How many batches pairs of these lengths make on the CPU, and bytes of the largest; equal lengths run together."""
    found = largest = 0
    for length in set(lengths):
        one = pair_numbers(facts, length, sites, neurons=neurons, qk_fix=qk_fix) * item_bytes
        count = lengths.count(length)
        size = min(count, batch or max(1, CPU_BYTES // one))
        found, largest = found + ceil(count / size), max(largest, size * one)
    return found, largest
