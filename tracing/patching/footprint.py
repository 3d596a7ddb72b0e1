"""What of its unpatched runs a sweep keeps in memory until it ends, and how many bytes that is. Torch-free."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from tracing.families import ModelFacts
from tracing.patching.plan import POSITION_SITES, Plan

ITEM_BYTES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number, by precision."""

REMEDY: Final = "Use fewer or shorter prompt pairs, fewer sites, or a smaller precision."


@dataclass(frozen=True, slots=True)
class Kept:
    """What of one unpatched run is kept: activations of `sites`, and every layer's keys and values."""

    sites: Set[str] = frozenset()
    key_values: bool = False

    @property
    def residuals(self) -> bool:
        """True where the residual streams between blocks are kept."""
        return bool({"resid_pre", "resid_post"} & self.sites)

    def numbers(self, facts: ModelFacts) -> int:
        """How many numbers a token takes."""
        found = (facts.n_layers + 1) * facts.d_model if self.residuals else 0
        for site in self.sites - {"resid_pre", "resid_post"}:
            found += facts.n_layers * (facts.n_heads * facts.d_head if site == "z" else facts.d_model)
        if self.key_values:
            found += facts.n_layers * 2 * facts.n_kv_heads * facts.d_head
        return found


def kept_runs(plan: Plan) -> tuple[Kept, Kept]:
    """What the plan's batches read of the source's and of the destination's run."""
    if not plan.optimise.suffix:
        return Kept(frozenset(plan.sites)), Kept()
    if plan.per_head:
        return Kept(frozenset({"z"})), Kept(frozenset({"z", "resid_pre"}), key_values=True)
    kinds = {POSITION_SITES[site][0] for site in plan.sites}
    read = (("resid", "resid_pre"), ("attn", "attn_out"), ("mlp", "mlp_out"))
    source = frozenset(site for kind, site in read if kind in kinds)
    middle = {"resid_mid"} if "mlp" in kinds else set()
    return Kept(source), Kept(frozenset({"resid_pre", *middle}), key_values=True)


def kept_bytes(plan: Plan, item_bytes: int) -> int:
    """Bytes that a sweep holds from its first cell to its last: kept activations, and each pair's metric of each cell.

    The model's weights, and what one batch needs while it runs, come on top.
    """
    tokens = sum(group.length * len(group.pairs) for group in plan.groups)
    activations = tokens * sum(kept.numbers(plan.facts) for kept in kept_runs(plan)) * item_bytes
    finals = plan.pairs * plan.facts.d_model * item_bytes
    return activations + finals + plan.pairs * plan.cells * max(4, item_bytes)


def too_large(size: int, limit: int, pairs: int, longest: int, place: str) -> str:
    """The sentence that refuses a sweep which would keep `size` bytes where `place` (“this server allows”) `limit`."""
    return (
        f"The sweep keeps about {size / 2**30:.2f} GiB of activations of {pairs} prompt pairs of up to {longest} "
        f"tokens until it ends; {place} {limit / 2**30:.2f} GiB."
    )
