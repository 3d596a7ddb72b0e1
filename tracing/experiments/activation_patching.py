"""Activation patching as an experiment: spec, cost and the run that yields the sweep's tiles.

One cell = one site patched alone. Denoising puts the clean activation into the corrupted run, noising the reverse.
Each cell reports the raw metric and its recovery (patched − corrupted) / (clean − corrupted), means over the pairs
taken before the ratio. Source: Zhang & Nanda 2023 (arXiv 2309.16042); Wang et al. 2022 (arXiv 2211.00593).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from tracing.errors import SiteError, Stopped
from tracing.experiments.events import Event, Log, PanelOpened, Progress, Tile
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.families.facts import require_sweepable, sites_of_family
from tracing.metric_facts import metric_facts
from tracing.patching.footprint import ITEM_BYTES, kept_bytes
from tracing.patching.plan import Lengths, Plan, make_plan
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel
    from tracing.patching.sweeps import Sweep

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"]
Over = Literal["layer_position", "layer_head"]
Direction = Literal["denoising", "noising"]
MetricName = Literal["logit_diff", "logit", "prob", "prob_diff", "log_prob", "rank", "kl_divergence", "accuracy"]
DType = Literal["float32", "float64", "bfloat16"]

HELP = """\
Two runs of the model: a clean prompt with the behaviour, a corrupted one without it. One activation of the one is put
into the other, alone, and the metric is read at the last position. One cell of the map is one such place.

recovery = (patched − corrupted) / (clean − corrupted)

Means over the prompt pairs are taken before the ratio. With denoising (clean into corrupted) 1 means that this place
alone brings the clean answer back, 0 that it changes nothing: it finds what is enough. With noising (corrupted into
clean) 0 means that the answer is lost: it finds what is needed.

When not to trust it:

- Clean and corrupted hardly differ in the metric. The ratio then divides by almost nothing: look at the baselines.
- Several places carry the same information. Noising one of them shows little, since the others stand in for it.
- Several places are needed together. Denoising one of them shows little; no cell shows a joint effect.
- The pairs are not parallel. A column is a position, so tokens that play different roles there are averaged.
- The corruption changes more than the question. The map then shows everything that differs, not only the answer.
- The metric saturates. Probabilities near 0 or 1 hide effects; the logit difference does not, but it cannot see what
  raises answer and foil alike.

Sources: Wang et al. 2022 (arXiv 2211.00593); Zhang & Nanda 2023 (arXiv 2309.16042); Heimersheim & Nanda 2024
(arXiv 2404.15255).
"""


class ActivationPatchingSpec(MethodSpec):
    """Parameters of an activation-patching sweep."""

    sites: tuple[Site, ...] = Field(
        default=("resid_pre",), min_length=1, title="Sites", description="Where to patch; one map a site."
    )
    over: Over = Field(
        default="layer_position",
        title="Map axes",
        description="Layer × position patches a site at one token; layer × head patches one head's z at every token.",
    )
    direction: Direction = Field(
        default="denoising",
        title="Direction",
        description="Denoising puts clean activations into the corrupted run; noising the reverse.",
    )
    metric: MetricName = Field(
        default="logit_diff", title="Metric", description="Read at the last position of each prompt."
    )
    positions: Literal["start", "end"] = Field(
        default="end",
        title="Count positions from",
        description="How prompts of different lengths line up in one map.",
        json_schema_extra={"advanced": True},
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra={"advanced": True})
    batch_rows: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        title="Rows a batch",
        description="Patched prompts that run together; empty lets the planner fill its memory budget.",
        json_schema_extra={"advanced": True},
    )

    @model_validator(mode="after")
    def _sites_have_the_axes(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("A site is named twice in `sites`.")
        if self.over == "layer_head" and self.sites != ("z",):
            headless = ", ".join(site for site in self.sites if site != "z")
            raise ValueError(f"A layer × head map needs the site z; {headless} has no head axis.")
        return self

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where sweeps do not run on the model's family, or its blocks have no such site."""
        require_sweepable(facts.family)
        known = sites_of_family(facts.family)
        for site in self.sites:
            if site not in known:
                raise SiteError(
                    f"The family {facts.family} has no site {site}.", remedy=f"Its sites: {', '.join(known)}."
                )

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where the metric compares with a foil and a pair has none."""
        require_for_metric(pairs, self.metric)


def plan_of(spec: ActivationPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> Plan:
    """The plan of a sweep from sizes alone, as the run will make it from the tokens."""
    firsts = prompts.first_differences or (0,) * prompts.pairs
    return make_plan(
        model,
        [
            Lengths(length, tuple(t >= first for t in range(length)))
            for length, first in zip(prompts.lengths, firsts, strict=True)
        ],
        sites=spec.sites,
        per_head=spec.over == "layer_head",
        from_end=spec.positions == "end",
        batch_rows=spec.batch_rows,
        targets_only=metric_facts(spec.metric).targets_only,
    )


def cost(spec: ActivationPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """Cells, FLOPs of the planned sweep and of one full forward a cell (matmuls only, 2 FLOPs a multiply-add), bytes.

    Raises `SpecError` where there are no prompts, `SiteError` where the sites lack the axes.
    """
    plan = plan_of(spec, model, prompts)
    size = kept_bytes(plan, ITEM_BYTES[spec.dtype])
    return Cost(cells=plan.cells, flops=plan.flops, naive_flops=plan.naive_flops, bytes=size, launches=_launches(plan))


def _launches(plan: Plan) -> int:
    """Blocks executed: both baselines of each group, and each bundle's batches from its first boundary on."""
    layers = plan.facts.n_layers
    walks = sum((layers - bundle[0].boundary) * len(bundle[0].chunks) for bundle in plan.bundles)
    return 2 * layers * len(plan.groups) + walks


def call(spec: ActivationPatchingSpec) -> str:
    """The sweep as Python lines that bind `results`, a grid a site."""
    over = ("layer", "head") if spec.over == "layer_head" else ("layer", "position")
    return (
        "from tracing.patching import sweep\n\n"
        "results = sweep(\n"
        "    model,\n"
        "    pairs,\n"
        f"    {spec.metric!r},\n"
        f"    {spec.sites!r},\n"
        f"    {over!r},\n"
        f"    {spec.direction!r},\n"
        f"    positions={spec.positions!r},\n"
        f"    batch={spec.batch_rows or 'auto'!r},\n"
        ")\n"
    )


def run(
    spec: ActivationPatchingSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """Open one panel a site, then yield tiles as the sweep computes them, then the `Grid` results.

    Tiles that an earlier attempt stored are not computed again. Ends without results once `context.should_stop()`.
    """
    # Sweeps load torch; this module is imported by web processes, which must not.
    from tracing.patching.sweeps import prepare

    yield Progress(0, 0, "baselines", "Running clean and corrupted prompts")
    try:
        sweep = prepare(
            model,
            pairs,
            spec.metric,
            spec.sites,
            ("layer", "head") if spec.over == "layer_head" else ("layer", "position"),
            spec.direction,
            positions=spec.positions,
            batch=spec.batch_rows or "auto",
            should_stop=context.should_stop,
        )
    except Stopped:
        return
    yield Log("info", sweep.plan.explain())
    for warning in sweep.warnings:
        yield Log("warning", warning)
    for index, panel in enumerate(sweep.panels):
        yield PanelOpened(index, panel)
    yield from _compute(sweep, context)


def _compute(sweep: "Sweep", context: RunContext) -> Iterator[Event]:
    """The tiles that are missing, then the results."""
    from tracing.patching.sweeps import place, tiles

    planned = {place(tile) for tile in sweep.plan.tiles}
    stored = [tile for index in range(len(sweep.panels)) for tile in context.stored_tiles(index)]
    # Tiles of another cut (an older version's) are left out: their cells are computed again with the planned ones.
    computed = [tile for tile in stored if place(tile) in planned]
    done = sum(tile.values[0].size for tile in computed)
    if stored:
        yield Log("info", f"Resumed: {done} of {sweep.plan.cells} cells were computed before.")
    yield Progress(done, sweep.plan.cells, "computing")
    for tile in tiles(sweep, done={place(tile) for tile in computed}, should_stop=context.should_stop):
        computed.append(tile)
        done += tile.values[0].size
        yield tile
        yield Progress(done, sweep.plan.cells, "computing")
    if done == sweep.plan.cells:
        yield Progress(done, sweep.plan.cells, "saving")
        yield from _results(sweep, computed)


def _results(sweep: "Sweep", computed: list[Tile]) -> Iterator[Event]:
    """A grid a site, with its baselines and its strongest cell for the history table."""
    from tracing.patching.sweeps import grids

    for grid in grids(sweep, computed):
        facts = grid.facts
        best = grid.best()
        yield grid.result(
            {
                "clean": facts["clean"],
                "corrupted": facts["corrupted"],
                "best": None if best is None else {"site": grid.name, **best},
            }
        )


register(
    Method(
        name="activation_patching",
        title="Activation patching",
        summary="Which layer, position or head carries the information that decides the answer.",
        help=HELP,
        group="patching",
        spec=ActivationPatchingSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
