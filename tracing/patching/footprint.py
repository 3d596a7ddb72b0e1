"""What of its unpatched runs a sweep keeps in memory until it ends, and how many bytes that is. Torch-free."""

from collections.abc import Collection, Set
from dataclasses import dataclass, replace
from typing import Final

from tracing.errors import SiteError
from tracing.families import ModelFacts
from tracing.families.adapter import Adapter
from tracing.patching.plan import Plan

ITEM_BYTES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number, by precision."""

RESIDUALS: Final = frozenset({"resid_pre", "resid_post"})
BEHIND_ATTENTION: Final = frozenset({"attn_out", "z", "pattern", "head_out"})
"""Sites whose patch becomes one of attention's output."""

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

    def numbers(self, facts: ModelFacts, tokens: int = 1) -> int:
        """How many numbers a token takes, of a prompt of `tokens` tokens (patterns have one for each of them)."""
        found = (facts.n_layers + 1) * facts.d_model if self.residuals else 0
        found += sum(facts.n_layers * _width(facts, site, tokens) for site in self.sites - RESIDUALS)
        if self.key_values:
            found += facts.n_layers * 2 * _cached_heads(facts) * facts.d_head
        return found


def _width(facts: ModelFacts, site: str, tokens: int) -> int:
    heads, key_values = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    widths = {
        "z": heads, "q": heads, "k": key_values, "v": key_values, "pattern": facts.n_heads * tokens,
        "head_out": facts.n_heads * facts.d_model, "neurons": facts.d_mlp,
    }  # fmt: skip
    return widths.get(site, facts.d_model)


def _cached_heads(facts: ModelFacts) -> int:
    # Falcon's grouped layout hands its cache the key-value heads repeated over their query heads.
    repeated = facts.family == "falcon" and facts.n_kv_heads > 1
    return facts.n_heads if repeated else facts.n_kv_heads


def kept_for(adapter: Adapter, sites: Collection[str]) -> tuple[Kept, Kept]:
    """What patches of these sites read of the source's and of the destination's run (`tracing.patching.rows`).

    Raises `SiteError` for a site that this family's blocks do not have, or that a sweep cannot patch.
    """
    for site in sites:
        require_patchable(adapter, site)
    source = {"resid_pre" if site == "resid_post" else site for site in sites}
    destination = {"resid_pre"}
    parallel, apart = adapter.residual == "parallel", "z" in adapter.sites
    if apart and source & BEHIND_ATTENTION:
        destination |= {"mlp_out"} if parallel else set()
        destination |= {"z"} if source & (BEHIND_ATTENTION - {"attn_out"}) else set()
        destination |= {"v"} if "pattern" in source else set()
    if apart and source & {"mlp_out", "neurons"}:
        destination.add("attn_out" if parallel else "resid_mid")
        destination |= {"neurons"} if "neurons" in source else set()
    return Kept(frozenset(source)), Kept(frozenset(destination), key_values=adapter.walk == "packed")


def require_patchable(adapter: Adapter, site: str) -> None:
    """Raises `SiteError` where a sweep cannot patch the site in blocks of this family."""
    if not adapter.walk:
        raise SiteError(
            f"Sweeps do not run on the family {adapter.family}: its adapter does not say how to walk its blocks.",
            remedy='Give the adapter walk="rows", or patch in a trace.',
            where={"family": adapter.family},
        )
    if site not in adapter.patchable:
        reason = "a mixture of experts has none" if site == "neurons" else "its blocks have no such place"
        raise SiteError(
            f"The site {site} cannot be patched in the family {adapter.family}: {reason}.",
            remedy=f"Sites: {', '.join(adapter.patchable)}.",
            where={"family": adapter.family, "site": site},
        )


def kept_runs(plan: Plan) -> tuple[Kept, Kept]:
    """What the plan's batches read of the source's and of the destination's run."""
    sites = frozenset("resid_pre" if site == "resid_post" else site for site in plan.sites)
    if plan.walk == "hooks":
        of_source, of_destination = Kept(frozenset(plan.sites)), Kept()
    else:
        of_source, of_destination = kept_for(plan.adapter, plan.sites)
    if (plan.axes.heads is not None and not plan.per_head) or plan.source == "noise":
        # What is put in is made of the destination's own activations.
        of_destination = replace(of_destination, sites=of_destination.sites | sites | frozenset(plan.sites))
    return of_source if plan.source in ("interchange", "resample") else Kept(), of_destination


def kept_bytes(plan: Plan, item_bytes: int) -> int:
    """Bytes that a sweep holds from its first cell to its last: kept activations, and each pair's metric of each cell.

    The model's weights, and what one batch needs while it runs, come on top.
    """
    of_source, of_destination = kept_runs(plan)
    put_in = of_source
    if plan.source == "noise":
        put_in = Kept(frozenset(plan.sites))
    numbers = sum(
        len(group.pairs) * group.length * kept.numbers(plan.facts, group.length)
        for group in plan.groups
        for kept in (put_in, of_destination)
    )
    finals = plan.pairs * plan.facts.d_model * item_bytes
    return numbers * item_bytes + finals + plan.pairs * plan.cells * max(4, item_bytes)


def too_large(size: int, limit: int, pairs: int, longest: int, place: str) -> str:
    """The sentence that refuses a sweep which would keep `size` bytes where `place` (“this server allows”) `limit`."""
    return (
        f"The sweep keeps about {size / 2**30:.2f} GiB of activations of {pairs} prompt pairs of up to {longest} "
        f"tokens until it ends; {place} {limit / 2**30:.2f} GiB."
    )
