"""AtP*'s query and key fix: attention's softmax is taken as it is, and only what follows it is linearised.

Kramár et al. 2024 (arXiv 2403.00745), section 3.1.1. With a = softmax(s) of the unpatched run and g = ∂metric/∂a:

    query t:  Î = Σ_k (a'_{tk} − a_{tk}) g_{tk},   a' = softmax of the scores with only query t replaced
    key t:    Î = Σ_q Σ_k (a'^{(t)}_{qk} − a_{qk}) g_{qk},   a'^{(t)} = softmax with only key t replaced

The key's formula as written takes T softmaxes over T² scores. Replacing one key changes one score of each row, so with
δ = s' − s, e = expm1(δ) and ḡ_q = Σ_k a_{qk} g_{qk} it is, in one pass over the T² scores,

    Î = Σ_q a_{qt} e_{qt} (g_{qt} − ḡ_q) / (1 + a_{qt} e_{qt})

g comes from the gradient at the heads' outputs, g_{qk} = ⟨∂metric/∂z_q, v_k⟩, so attention never has to run its eager
path. A key-value head is one key for all its query heads: its effect is the sum over them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tracing.engines.attention import Scorer

MOST = 80.0
"""Exponents are cut here: e⁸⁰ times the smallest attention is above 1 by far, and float32 holds it."""


@dataclass(slots=True)
class Heads:
    """What meets in one layer, `[batch, head, position, d_head]`; k and v have native heads."""

    query: Tensor
    key: Tensor
    value: Tensor
    other_query: Tensor
    """Of the run whose activations are patched in."""
    other_key: Tensor
    scorer: Scorer


@dataclass(slots=True)
class Changes:
    """What replacing one query or one key does to the pattern, all `[batch, head, query, key]`."""

    pattern: Tensor
    by_query: Tensor
    """a' − a, row by row."""
    by_key: Tensor
    """a e / (1 + a e): the share by which a column's own attention moves towards it."""


@torch.no_grad()
def changes(heads: Heads) -> Changes:
    """The changes of the pattern that each replaced query and each replaced key makes."""
    before = _wide(heads.scorer(heads.query, heads.key))
    total = before.logsumexp(-1, keepdim=True)
    pattern = (before - total).exp()
    by_query = _wide(heads.scorer(heads.other_query, heads.key)).softmax(-1) - pattern
    return Changes(pattern, by_query, key_shares(before, _wide(heads.scorer(heads.query, heads.other_key))))


def key_shares(before: Tensor, after: Tensor) -> Tensor:
    """a e / (1 + a e) from scores before and after each key was replaced alone; 0 where a key is masked."""
    total = before.logsumexp(-1, keepdim=True)
    pattern, step = (before - total).exp(), after - before
    # expm1 keeps the digits of small steps; of large ones the attention itself may have vanished, its score has not.
    moved = torch.where(step < 1, pattern * torch.expm1(step), (after - total).clamp(max=MOST).exp() - pattern)
    return moved / (1 + moved)


@torch.no_grad()
def effects(heads: Heads, found: Changes, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Estimated effects of each query `[batch, position, head]` and each key `[batch, position, kv_head]`.

    `gradient` is ∂metric/∂z, `[batch, position, head, d_head]`.
    """
    groups = gradient.shape[2] // heads.value.shape[1]
    kind = found.pattern.dtype
    values = heads.value.to(kind).repeat_interleave(groups, 1)
    through = torch.einsum("bqhd,bhkd->bhqk", gradient.to(kind), values)
    of_queries = (found.by_query * through).sum(-1)
    mean = (found.pattern * through).sum(-1, keepdim=True)
    of_keys = (found.by_key * (through - mean)).sum(-2)
    return of_queries.transpose(1, 2), of_keys.unflatten(1, (-1, groups)).sum(2).transpose(1, 2)


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
