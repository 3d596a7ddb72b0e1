"""AtP*'s query and key fix: attention's softmax is taken as it is, and only what follows it is linearised.

Kramár et al. 2024 (arXiv 2403.00745), section 3.1.1. With a = softmax(s) of the unpatched run and g = ∂metric/∂a:

    query t:  Î = Σ_k (a'_{tk} − a_{tk}) g_{tk},   a' = softmax of the scores with only query t replaced
    key t:    Î = Σ_q Σ_k (a'^{(t)}_{qk} − a_{qk}) g_{qk},   a'^{(t)} = softmax with only key t replaced

The key's formula as written takes T softmaxes over T² scores. Replacing one key changes one score of each row, from
s_{qt} to s'_{qt}, so the row's new attention to t is a logistic function of it, and the others keep their proportions:

    Î = Σ_q (p_{qt} − a_{qt}) (g_{qt} − ĝ_{qt}),   p_{qt} = σ(s'_{qt} − log Σ_{k≠t} exp s_{qk})

where ĝ_{qt} is the mean of g over the other keys, by their attention. That is one pass over the T² scores. It equals
Σ_q a e (g − ḡ) / (1 + a e) with e = exp(s' − s) − 1 and ḡ the mean over all keys, and keeps its digits where that
divides by nothing: where a key that had all attention loses it.

g comes from the gradient at the heads' outputs, g_{qk} = ⟨∂metric/∂z_q, v_k⟩, so attention never has to run its eager
path. A key-value head is one key for all its query heads: its effect is the sum over them.

Queries are taken some at a time, so that the T² matrices of a layer never stand in memory whole where prompts are long.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tracing.engines.attention import Scorer

AT_ONCE: Final = 2**21
"""Scores of the queries taken at once, `[batch, head, query, key]`, are about so many numbers at most."""
KEPT_NUMBERS: Final = 2**25
"""Changes of all layers are kept for the next backward where they are not more numbers than this."""


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

    @property
    def scores(self) -> int:
        """How many scores the layer has: batch × heads × queries × keys."""
        return self.query.shape[0] * self.query.shape[1] * self.query.shape[2] * self.key.shape[2]

    def rows(self) -> list[slice]:
        """The queries, in parts that are taken at once."""
        queries = self.query.shape[2]
        size = max(1, AT_ONCE * queries // max(1, self.scores))
        return [slice(lo, min(lo + size, queries)) for lo in range(0, queries, size)]


@dataclass(slots=True)
class Changes:
    """What replacing one query or one key does to the pattern, all `[batch, head, query, key]`."""

    pattern: Tensor
    by_query: Tensor
    """a' − a, row by row."""
    by_key: Tensor
    """p − a: what each key's own attention gains where it is replaced alone."""
    first: Tensor
    """The key with the most attention of each query, `[batch, head, query, 1]`."""
    without_first: Tensor
    """The pattern of the other keys alone."""


@torch.no_grad()
def estimates(heads: Heads, gradient: Tensor, kept: dict[int, Changes] | None = None) -> tuple[Tensor, Tensor]:
    """`effects` of all queries and keys, some queries at a time.

    `kept` are the changes of earlier backwards by their first query; what is missing is put there.
    """
    of_queries, of_keys = [], []
    for rows in heads.rows():
        found = kept.get(rows.start) if kept is not None else None
        found = changes(heads, rows) if found is None else found
        if kept is not None:
            kept[rows.start] = found
        queries, keys = effects(heads, found, gradient[:, rows])
        of_queries.append(queries)
        of_keys.append(keys)
    return torch.cat(of_queries, 1), torch.stack(of_keys).sum(0)


@torch.no_grad()
def changes(heads: Heads, rows: slice = slice(None)) -> Changes:
    """The changes of the pattern that each replaced query and each replaced key makes, at the queries `rows`."""

    def scores(query: Tensor, key: Tensor) -> Tensor:
        whole = rows.stop is None or rows.stop - (rows.start or 0) == query.shape[2]
        return _wide(heads.scorer(query, key) if whole else heads.scorer(query[:, :, rows], key, rows))

    before = scores(heads.query, heads.key)
    pattern, first, without_first, by_key = key_changes(before, scores(heads.query, heads.other_key))
    by_query = scores(heads.other_query, heads.key).softmax(-1) - pattern
    return Changes(pattern, by_query, by_key, first, without_first)


def key_changes(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pattern, its first key, the pattern without that, and p − a, from scores before and after."""
    total = before.logsumexp(-1, keepdim=True)
    pattern = (before - total).exp()
    first = before.argmax(-1, keepdim=True)
    others = before.scatter(-1, first, -torch.inf)
    # Of all keys but the first, 1 − a is at least a half. Of the first it may be next to nothing: it is summed anew.
    rest = (total + torch.log1p(-pattern.scatter(-1, first, 0.0))).scatter(
        -1, first, others.logsumexp(-1, keepdim=True)
    )
    step, ratio = after - before, (rest - before).sigmoid()
    small = torch.expm1(step)
    # expm1 keeps the digits of small steps.
    moved = torch.where(
        step.abs() < 1, pattern * ratio * small / (1 + pattern * small), (after - rest).sigmoid() - pattern
    )
    return pattern, first, others.softmax(-1).nan_to_num(), moved.nan_to_num()


@torch.no_grad()
def effects(heads: Heads, found: Changes, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Estimated effects of each query `[batch, position, head]` and each key `[batch, position, kv_head]`.

    `gradient` is ∂metric/∂z, `[batch, position, head, d_head]`, at the queries of `found`.
    """
    groups = gradient.shape[2] // heads.value.shape[1]
    kind = found.pattern.dtype
    values = heads.value.to(kind).repeat_interleave(groups, 1)
    through = torch.einsum("bqhd,bhkd->bhqk", gradient.to(kind), values)
    of_queries = (found.by_query * through).sum(-1)
    weighted = found.pattern * through
    others = (weighted.sum(-1, keepdim=True) - weighted) / (1 - found.pattern.scatter(-1, found.first, 0.0))
    others = others.scatter(-1, found.first, (found.without_first * through).sum(-1, keepdim=True))
    of_keys = (found.by_key * (through - others)).sum(-2)
    return of_queries.transpose(1, 2), torch.unflatten(of_keys, 1, (-1, groups)).sum(2).transpose(1, 2)


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
