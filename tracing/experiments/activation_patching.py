"""Activation patching as an experiment: spec, cost and the run that yields the sweep's tiles.

One cell = one site patched alone. Denoising puts the clean activation into the corrupted run, noising the reverse.
Each cell reports the raw metric and its recovery (patched − corrupted) / (clean − corrupted), means over the pairs
taken before the ratio. Source: Zhang & Nanda 2023 (arXiv 2309.16042); Wang et al. 2022 (arXiv 2211.00593).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from tracing.errors import PromptError, SiteError, Stopped
from tracing.events import Event, Log, PanelOpened, Progress, Tile
from tracing.experiments.activation_patching_help import HELP
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import guessed
from tracing.families.facts import sites_of_family
from tracing.metric_facts import metric_facts
from tracing.patching.cells import AXES, SITES, cells_of
from tracing.patching.footprint import ITEM_BYTES, kept_bytes
from tracing.patching.packing import Region, make_plan
from tracing.patching.plan import Plan
from tracing.patching.sources import Interchange, Mean, Noise, Resample, Source, Zero
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel
    from tracing.patching.sweeps import Sweep

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "head_out", "neurons",
    "mixer_out", "cross_out",
]  # fmt: skip
Over = Literal[
    "layer_position", "layer_head", "layer_head_position", "layer_span", "layer_head_span", "layer_neuron", "layer",
    "head_position", "example_layer", "example_layer_position", "example_layer_head",
]  # fmt: skip
Direction = Literal["denoising", "noising"]
MetricName = Literal["logit_diff", "logit", "prob", "prob_diff", "log_prob", "rank", "kl_divergence", "accuracy"]
DType = Literal["float32", "float64", "bfloat16"]
SourceName = Literal["interchange", "zero", "mean", "resample", "noise"]

ADVANCED: Final[dict[str, Any]] = {"advanced": True}


class ActivationPatchingSpec(MethodSpec):
    """Parameters of an activation-patching sweep."""

    sites: tuple[Site, ...] = Field(
        default=("resid_pre",), min_length=1, title="Sites", description="Where to patch; one map a site."
    )
    over: Over = Field(
        default="layer_position",
        title="Map axes",
        description="What the cells of the map are; the last one is its columns. What is no axis is patched together: "
        "layer × head patches one head at every token, layer × position all heads at one token.",
    )
    direction: Direction = Field(
        default="denoising",
        title="Direction",
        description="Denoising puts clean activations into the corrupted run; noising the reverse.",
    )
    source: SourceName = Field(
        default="interchange",
        title="What is put in",
        description="The other run's activation; or, in its place, zeros, a mean over the prompts, another prompt's "
        "activation drawn at random, or the run's own activation with noise.",
    )
    metric: MetricName = Field(
        default="logit_diff", title="Metric", description="Read at the last position of each prompt."
    )
    layers: tuple[int, ...] = Field(
        default=(),
        title="Layers",
        description="Only these layers; empty means all. Where the map has no layer axis, they are patched at once.",
        json_schema_extra=ADVANCED,
    )
    heads: tuple[int, ...] = Field(
        default=(),
        title="Heads",
        description="Only these heads; where the map has no head axis, they are patched together. Empty means all.",
        json_schema_extra=ADVANCED,
    )
    region: tuple[int, int, int, int] | None = Field(
        default=None,
        title="First",
        description="First and last layer, first and last column of the part of the map that is computed first.",
        json_schema_extra=ADVANCED,
    )
    mean_over: Literal["position", "span", "all"] = Field(
        default="position",
        title="Mean over",
        description="Of a mean: each position alone, each named span, or all tokens.",
        json_schema_extra={**ADVANCED, "only_if": {"source": ["mean"]}},
    )
    noise_scale: float = Field(
        default=3.0,
        gt=0,
        le=100,
        title="Noise scale",
        description="Of noise: its width in standard deviations of the site's activations in that layer.",
        json_schema_extra={**ADVANCED, "only_if": {"source": ["noise"]}},
    )
    positions: Literal["start", "end"] = Field(
        default="end",
        title="Count positions from",
        description="How prompts of different lengths line up in one map.",
        json_schema_extra=ADVANCED,
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra=ADVANCED)
    batch_rows: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        title="Rows a batch",
        description="Patched prompts that run together; empty lets the planner fill its memory budget.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _sites_have_the_axes(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("A site is named twice in `sites`.")
        units = {site: SITES[site].unit for site in self.sites}
        headless = ", ".join(site for site, unit in units.items() if unit not in ("head", "kv_head"))
        if ("head" in self.axes or self.heads) and headless:
            raise ValueError(f"A map with heads needs sites that have heads, such as z; {headless} has no head axis.")
        other = ", ".join(site for site, unit in units.items() if unit != "neuron")
        if "neuron" in self.axes and other:
            raise ValueError(f"A map of neurons needs the site neurons; {other} has no neuron axis.")
        if "layer" not in self.axes and not self.layers:
            raise ValueError("A map without a layer axis needs `layers`: those that are patched at once.")
        if "pattern" in self.sites and (
            self.source == "noise" or (self.source == "mean" and self.mean_over != "position")
        ):
            raise ValueError("A pattern can be replaced by an interchange, zeros, a mean over positions or a resample.")
        for name, numbers in (("layers", self.layers), ("heads", self.heads)):
            if len(set(numbers)) != len(numbers):
                raise ValueError(f"A number is named twice in `{name}`.")
        return self

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the map, by the names that `sweep` takes."""
        return tuple(axis for axis in AXES if axis in self.over.split("_"))

    @property
    def first(self) -> Region | None:
        """The region as layers × columns."""
        if self.region is None:
            return None
        top, bottom, left, right = self.region
        return range(top, bottom + 1), range(left, right + 1)

    @property
    def put_in(self) -> Source:
        """The source, as `sweep` takes it."""
        made: dict[str, Source] = {
            "interchange": Interchange(),
            "zero": Zero(),
            "mean": Mean(self.mean_over),
            "resample": Resample(self.seed),
            "noise": Noise(self.noise_scale, self.seed),
        }
        return made[self.source]

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the model's family cannot be swept, or has no such site, layer or head."""
        known = sites_of_family(facts.family)
        for site in self.sites:
            if site not in known and site != "neurons":
                raise SiteError(
                    f"The family {facts.family} has no site {site}.", remedy=f"Its sites: {', '.join(known)}."
                )
        cells_of(facts, self.sites, self.axes, layers=self.layers or None, heads=self.heads or None)

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where a pair lacks the foil that the metric needs, or the spans that the axes need."""
        require_for_metric(pairs, self.metric)
        wanted = "span" in self.axes or (self.source == "mean" and self.mean_over == "span")
        for number, pair in enumerate(pairs, start=1):
            if wanted and not pair.spans:
                raise PromptError(
                    f"Pair {number}: it has no named spans.",
                    remedy='Name them in each pair, as in "spans": {"subject": "Mary", "END": -1}.',
                    where={"pair": number, "field": "spans"},
                )


def plan_of(spec: ActivationPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> Plan:
    """The plan of a sweep from sizes alone, as the run will make it from the tokens."""
    return make_plan(
        model,
        guessed(prompts, spans="span" in spec.axes),
        sites=spec.sites,
        over=spec.axes,
        layers=spec.layers or None,
        heads=spec.heads or None,
        source=spec.source,
        first=spec.first,
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
    return Cost(cells=plan.cells, flops=plan.flops, naive_flops=plan.naive_flops, bytes=size, launches=plan.block_runs)


def options(spec: ActivationPatchingSpec) -> dict[str, Any]:
    """The keyword arguments of `sweep` that a spec means, in order."""
    found: dict[str, Any] = {
        "metric": spec.metric,
        "sites": spec.sites,
        "over": spec.axes,
        "direction": spec.direction,
        "source": spec.put_in,
        "positions": spec.positions,
        "layers": spec.layers or None,
        "heads": spec.heads or None,
        "batch": spec.batch_rows or "auto",
    }
    return {name: value for name, value in found.items() if value is not None}


def call(spec: ActivationPatchingSpec) -> str:
    """The sweep as Python lines that bind `results`, a grid a site."""
    given = {**options(spec), "source": _source_text(spec.put_in)}
    lines = [f"    {name}={value if name == 'source' else repr(value)}," for name, value in given.items()]
    name = type(spec.put_in).__name__
    return (
        "\n".join(
            [
                f"from tracing.patching import {name}, sweep",
                "",
                "results = sweep(",
                "    model,",
                "    pairs,",
                *lines,
                ")",
            ]
        )
        + "\n"
    )


def _source_text(source: Source) -> str:
    if isinstance(source, Mean):
        return f"Mean({source.over!r})"
    if isinstance(source, Resample):
        return f"Resample({source.seed})"
    if isinstance(source, Noise):
        return f"Noise({source.scale!r}, {source.seed})"
    return f"{type(source).__name__}()"


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
        sweep = prepare(model, pairs, **options(spec), first=spec.first, should_stop=context.should_stop)
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
        summary="Which layer, position, head or neuron carries the information that decides the answer.",
        help=HELP,
        group="patching",
        spec=ActivationPatchingSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
