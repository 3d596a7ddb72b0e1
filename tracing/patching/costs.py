"""What the cells of a sweep cost in matmul FLOPs: as planned, one full forward each, and at least. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tracing.patching.cells import Slot, site_of
from tracing.patching.flops import BlockFlops
from tracing.patching.plan import Group, Lengths, Optimise, Plan


@dataclass(frozen=True, slots=True)
class Costs:
    """FLOPs of cells."""

    plan: Plan
    block: BlockFlops
    _found: dict[tuple[int, str, tuple[int, ...], int | None], float] = field(default_factory=dict)

    def cell(self, group: Group, site: str, layers: tuple[int, ...], place: int | None) -> float:
        """One cell for one pair; 0 where it does not exist or is known."""
        key = group.pairs[0], site, layers, place
        if key not in self._found:
            self._found[key] = self._cell(group, site, layers, place)
        return self._found[key]

    def _cell(self, group: Group, site: str, layers: tuple[int, ...], place: int | None) -> float:
        plan = self.plan
        if not self.runs(group, site, layers, place):
            return 0.0
        unembed = 0.0 if plan.targets_only and plan.optimise.columns else self.block.unembed
        if plan.walk == "hooks":
            return self.block.forward(plan.facts, group.length) - self.block.unembed + unembed
        start = plan.start(group, site, layers, place)
        return unembed + self._walk(group, site, layers[0], len(plan.patched(group, place)), start)

    def runs(self, group: Group, site: str, layers: tuple[int, ...], place: int | None) -> bool:
        """Whether a cell exists in a group and has to be computed."""
        return bool(self.plan.positions(group, place)) and not self.plan.is_known(group, site, layers, place)

    def layer(self, site: str, layers: tuple[int, ...], group: Group) -> float:
        """All cells of a layer, for every pair of a group."""
        places = counted(self.plan.slots[site])
        return len(group.pairs) * sum(n * self.cell(group, site, layers, place) for place, n in places.items())

    def naive(self, pairs: Sequence[Lengths]) -> float:
        """One full forward with the logits of every position a cell and pair, and the two runs themselves."""
        plan = self.plan
        forward = {
            length: self.block.forward(plan.facts, length) + (length - 1) * self.block.unembed
            for length in {pair.length for pair in pairs}
        }
        found = 2 * sum(forward[pair.length] for pair in pairs)
        for site in plan.sites:
            places = counted(plan.slots[site])
            cells = {
                group: sum(n for place, n in places.items() if plan.positions(group, place)) for group in plan.groups
            }
            found += len(plan.axes.steps()) * sum(
                number * len(group.pairs) * forward[group.length] for group, number in cells.items()
            )
        return found

    def floor(self) -> float:
        """What every cell needs at least: all short cuts, no full rows where causality allows less."""
        plan = self.plan
        walk = "packed" if plan.causal else "rows"
        best = Costs(replace(plan, optimise=Optimise(), walk=walk), self.block)
        runs = 2 * sum(len(group.pairs) * self.block.forward(plan.facts, group.length) for group in plan.groups)
        unique = {key_of(plan, site, layers): (site, layers) for site in plan.sites for layers in plan.axes.steps()}
        return runs + sum(best.layer(site, layers, group) for site, layers in unique.values() for group in plan.groups)

    def _walk(self, group: Group, site: str, layer: int, patched: int, start: int) -> float:
        """From the patched layer on: what is left of its own block at the patched positions, then whole blocks."""
        plan, block, facts = self.plan, self.block, site_of(site)
        left = plan.facts.n_layers - layer - (0 if facts.entrance else 1)
        whole = block.suffix(left, group.length, start, last_token=plan.optimise.last_token) if left > 0 else 0.0
        if facts.entrance:
            return whole
        tokens = patched if facts.local else group.length - start
        if left == 0 and plan.optimise.last_token:
            tokens = 1
        keys = (start + 1 + group.length) / 2
        inside = {
            "resid_post": 0.0,
            "mlp_out": 0.0,
            "mixer_out": 0.0,
            "neurons": block.mlp / 2,
            "resid_mid": block.mlp,
            "attn_out": block.mlp,
            "cross_out": block.mlp,
            "z": block.out + block.mlp,
            "head_out": block.mlp,
            "pattern": block.per_key * keys / 2 + block.out + block.mlp,
        }
        return whole + tokens * inside.get(site, block.per_key * keys + block.out + block.mlp)


def counted(slots: Sequence[Slot]) -> dict[int | None, int]:
    """How many cells of a layer lie at each place."""
    found: dict[int | None, int] = {}
    for slot in slots:
        found[slot.place] = found.get(slot.place, 0) + 1
    return found


def key_of(plan: Plan, site: str, layers: tuple[int, ...]) -> tuple[object, ...]:
    """Equal for sites and layers whose patches are one and the same, so that they run once.

    The residual behind a block is that before the next one; and the MLP works position by position, so where a block
    adds it last, its source's resid_mid gives its source's resid_post. Other sources than interchange draw or average
    for each site, so there only equal sites are equal.
    """
    if plan.source == "interchange" and len(layers) == 1:
        sequential = plan.adapter.residual == "sequential" and plan.walk != "hooks"
        if site == "resid_pre":
            return ("stream", layers[0])
        if site == "resid_post" or (site == "resid_mid" and sequential):
            return ("stream", layers[0] + 1)
    return (site, layers)
