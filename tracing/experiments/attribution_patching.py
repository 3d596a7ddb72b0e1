"""Attribution patching as an experiment: AtP and AtP* of any sites at once, and a sample of cells checked exactly.

Sources: Nanda 2023, "Attribution patching"; Kramár et al. 2024 (arXiv 2403.00745).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from tracing.errors import PromptError, SiteError, SpecError, Stopped
from tracing.events import Event, Log, PanelOpened, Progress
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import BACKWARD, DType, MetricName, call_text, guessed, passes, tile_of
from tracing.families.facts import sites_of_family
from tracing.metric_facts import metric_facts
from tracing.patching.attribution_memory import batches
from tracing.patching.cells import AXES, SITES, cells_of, count_units, require_sites
from tracing.patching.footprint import ITEM_BYTES
from tracing.patching.packing import make_plan
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel
    from tracing.results import Grid

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "head_out", "neurons",
    "mixer_out", "cross_out",
]  # fmt: skip
Over = Literal[
    "layer_position", "layer_head", "layer_head_position", "layer_span", "layer_head_span", "layer_neuron", "layer",
    "example_layer", "example_layer_position", "example_layer_head",
]  # fmt: skip
ADVANCED: Final[dict[str, Any]] = {"advanced": True}
FIXED: Final = ("q", "k")
CELL: Final = 1e6
"""What planning, known values and labels take of a cell and pair in the certificate's sweep, in FLOPs of a matrix
product: about 25 microseconds on one core."""

HELP = """\
How much would the metric change if one activation were put into the other run? Activation patching runs the model to
find out, once for each place. Attribution patching estimates it for all places at once, from one gradient: with n the
activation in the run that is patched, n' that of the other run,

score = (n' − n) · ∂metric/∂n ≈ metric(patched) − metric(unpatched)

The score is in the metric's unit: what patching this place is expected to add to it. Scores are sums over the features
(and over positions or heads that the map does not show), then means over the prompt pairs. The estimated recovery is
the same as activation patching's: (unpatched + score − corrupted) / (clean − corrupted).

AtP* mends two ways in which the gradient misleads:

- Query and key fix: a gradient through a softmax that attends to one token is almost zero, and the score with it. The
  fix takes the attention pattern after each replaced query or key exactly and is linear only behind it.
- GradDrop: a place's direct effect and its effect through later layers can cancel to zero. A backward for each layer,
  in which what this layer writes passes no gradient on, shows both: the score is 1/(L−1) times the sum of their sizes.
  It has no sign.

When not to trust it:

- It is a first-order estimate. Where a softmax, an activation function or a norm is far from linear between the two
  runs, it can be wrong in size and in sign. Large patches (the residual stream, MLP outputs of early layers) are worst.
- The gradient is zero, or nearly so. The KL divergence has no slope at the clean run; a probability near 0 or 1 has
  little. The logit difference keeps its slope.
- The certificate's agreement is low. It patches a sample of the cells exactly; if r is small there, it is elsewhere.
- A cell decides your conclusion. Check the few that matter with activation patching, which is exact.
- Scores of several places are added up. Estimates add, effects of joint patches do not.

Sources: Nanda 2023, "Attribution patching: activation patching at industrial scale"; Kramár et al. 2024
(arXiv 2403.00745); Syed et al. 2023 (arXiv 2310.10348).
"""


class AttributionPatchingSpec(MethodSpec):
    """Parameters of attribution patching."""

    sites: tuple[Site, ...] = Field(
        default=("resid_pre", "attn_out", "mlp_out"),
        min_length=1,
        title="Sites",
        description="Where to patch; one map a site. More sites cost next to nothing.",
    )
    over: Over = Field(
        default="layer_position",
        title="Map axes",
        description="What the cells of the map are; the last one is its columns. What is no axis is summed over.",
    )
    direction: Literal["denoising", "noising"] = Field(
        default="denoising",
        title="Direction",
        description="Denoising puts clean activations into the corrupted run; noising the reverse.",
    )
    source: Literal["interchange", "zero", "mean"] = Field(
        default="interchange",
        title="What is put in",
        description="The other run's activation, zeros, or a mean over the prompts at each position.",
    )
    metric: MetricName = Field(
        default="logit_diff", title="Metric", description="Read at the last position of each prompt; needs a gradient."
    )
    qk_fix: bool = Field(
        default=False,
        title="Query and key fix",
        description="AtP*: take the sites q and k through the softmax exactly.",
    )
    grad_drop: bool = Field(
        default=False,
        title="GradDrop",
        description="AtP*: a backward for each layer, so that paths that cancel show. Scores lose their sign.",
    )
    absolute: bool = Field(
        default=False,
        title="Absolute values",
        description="Take each pair's score without its sign before the mean.",
        json_schema_extra=ADVANCED,
    )
    check: int = Field(
        default=64,
        ge=0,
        le=100_000,
        title="Cells to check",
        description="About so many cells of each map are patched exactly, for the certificate; 0 checks none.",
    )
    check_pairs_at_most: int = Field(
        default=8,
        ge=1,
        le=1024,
        title="Pairs to check",
        description="Cells are checked on at most so many pairs.",
        json_schema_extra=ADVANCED,
    )
    layers: tuple[int, ...] = Field(
        default=(), title="Layers", description="Only these layers; empty means all.", json_schema_extra=ADVANCED
    )
    positions: Literal["start", "end"] = Field(
        default="end",
        title="Count positions from",
        description="How prompts of different lengths line up in one map.",
        json_schema_extra=ADVANCED,
    )
    batch_pairs: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        title="Pairs a batch",
        description="Pairs that run together; empty takes as many as fit.",
        json_schema_extra=ADVANCED,
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra=ADVANCED)

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        for name, values in (("sites", self.sites), ("layers", self.layers)):
            if len(set(values)) != len(values):
                raise ValueError(f"Something is named twice in `{name}`.")
        units = {site: SITES[site].unit for site in self.sites}
        headless = ", ".join(site for site, unit in units.items() if unit not in ("head", "kv_head"))
        if "head" in self.axes and headless:
            raise ValueError(f"A map with heads needs sites that have heads, such as z; {headless} has no head axis.")
        other = ", ".join(site for site, unit in units.items() if unit != "neuron")
        if "neuron" in self.axes and other:
            raise ValueError(f"A map of neurons needs the site neurons; {other} has no neuron axis.")
        if self.metric in ("rank", "accuracy"):
            raise ValueError(f"The metric {self.metric} has no gradient; take logit_diff or log_prob.")
        if self.qk_fix and (not set(FIXED) & set(self.sites) or self.source != "interchange"):
            raise ValueError("The query and key fix needs the site q or k, and an interchange as source.")
        return self

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the map, by the names that `attribution_patching` takes."""
        return tuple(axis for axis in AXES if axis in self.over.split("_"))

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` for a site, layer or head that is not there, `SpecError` for GradDrop of one layer."""
        known = sites_of_family(facts.family)
        for site in self.sites:
            if site not in known and site != "neurons":
                raise SiteError(
                    f"The family {facts.family} has no site {site}.", remedy=f"Its sites: {', '.join(known)}."
                )
        cells_of(facts, self.sites, self.axes, layers=self.layers or None)
        if self.grad_drop and (facts.n_layers < 2 or facts.n_encoder_layers):
            raise SpecError("GradDrop needs two layers of a model without encoder.", remedy="Leave it off.")

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where a pair lacks the foil that the metric needs, or the spans that the axes need."""
        require_for_metric(pairs, self.metric)
        for number, pair in enumerate(pairs, start=1):
            if "span" in self.axes and not pair.spans:
                raise PromptError(
                    f"Pair {number}: it has no named spans.",
                    remedy='Name them in each pair, as in "spans": {"subject": "Mary", "END": -1}.',
                    where={"pair": number, "field": "spans"},
                )


def cost(spec: AttributionPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """Two forwards and a backward (L backwards with GradDrop) of each pair, and the certificate's sweeps.

    `naive_flops` are one full forward a cell: what exact patching takes without a plan.
    """
    require_sites(model, [], _adapter(model))
    lengths = list(prompts.lengths)
    one = passes(model, lengths)
    backwards = model.n_layers if spec.grad_drop else 1
    cells = sum(_cells(spec, site, model, prompts) for site in spec.sites)
    count, largest = batches(
        model, lengths, spec.sites, ITEM_BYTES[spec.dtype], spec.batch_pairs, qk_fix=spec.qk_fix,
        neurons="neuron" in spec.axes,
    )  # fmt: skip
    checked, launches = _check(spec, model, prompts)
    flops = one.flops * (2 + BACKWARD * backwards) + checked
    launches += model.n_layers * count * (2 + backwards)
    scores = 8 * prompts.pairs * cells
    return Cost(cells=cells, flops=flops, naive_flops=max(flops, one.flops * (cells + 2)), bytes=scores + largest,
                launches=launches)  # fmt: skip


def _check(spec: AttributionPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> tuple[float, int]:
    """FLOPs and launches of the certificate: a sweep a site, its baselines whole and of its tiles a share."""
    if not spec.check or "example" in spec.axes or not prompts.pairs:
        return 0.0, 0
    flops, launches = 0.0, 0
    first = prompts.first_differences or (0,) * prompts.pairs
    sample = PromptFacts(prompts.lengths[: spec.check_pairs_at_most], first[: spec.check_pairs_at_most])
    for site in spec.sites:
        try:
            plan = make_plan(
                model, guessed(sample, spans="span" in spec.axes), sites=[site], over=spec.axes,
                layers=spec.layers or None, source=spec.source, from_end=spec.positions == "end",
                targets_only=metric_facts(spec.metric).targets_only,
            )  # fmt: skip
        except SiteError:  # a site that sweeps do not patch is not checked
            continue
        # Whole tiles are drawn until there are enough cells: about half a tile more than asked for.
        share = min(1.0, (spec.check + plan.cells / max(1, len(plan.tiles)) / 2) / max(1, plan.cells))
        flops += plan.baseline_flops + share * (plan.flops - plan.baseline_flops)
        flops += CELL * plan.cells * sample.pairs
        launches += plan.block_runs
    return flops, launches


def _cells(spec: AttributionPatchingSpec, site: str, model: ModelFacts, prompts: PromptFacts) -> int:
    """Cells of one map; named spans are taken for two, since they are not known before the prompts are tokenised."""
    units = count_units(site, model) if {"head", "neuron"} & set(spec.axes) else 1
    places = prompts.max_length if "position" in spec.axes else 2 if "span" in spec.axes else 1
    pairs = prompts.pairs if "example" in spec.axes else 1
    return (len(spec.layers) or model.n_layers) * units * places * pairs


def _adapter(model: ModelFacts) -> Any:
    from tracing.families.registry import adapter_of

    return adapter_of(model.family)


def options(spec: AttributionPatchingSpec) -> dict[str, Any]:
    """The keyword arguments of `attribution_patching` that a spec means, beside the sites and axes."""
    found: dict[str, Any] = {
        "direction": spec.direction,
        "source": spec.source,
        "absolute": spec.absolute,
        "qk_fix": spec.qk_fix,
        "grad_drop": spec.grad_drop,
        "positions": spec.positions,
        "layers": spec.layers or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def call(spec: AttributionPatchingSpec) -> str:
    """The same as Python lines that bind `results`: a grid a site, and the certificate."""
    given = {"sites": spec.sites, "over": spec.axes, **options(spec), "batch": spec.batch_pairs or "auto"}
    text = call_text(
        "from tracing.patching.attribution import attribution_patching"
        + ("\nfrom tracing.patching.attribution_check import check_attribution" if spec.check else ""),
        "attribution_patching",
        [("", "pairs"), ("", repr(spec.metric)), *((name, repr(value)) for name, value in given.items())],
        bind="grids",
    )
    text += "results = dict(grids)\n"
    if not spec.check:
        return text
    return text + (
        'results["certificate"] = check_attribution(\n'
        f"    model, pairs, grids, {spec.metric!r}, cells={spec.check}, at_most={spec.check_pairs_at_most}, "
        f"seed={spec.seed}\n)\n"
    )


def run(
    spec: AttributionPatchingSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The maps after every batch of pairs, then the grids and the certificate. No results once it should stop."""
    # Attribution loads torch; this module is imported by web processes, which must not.
    from tracing.patching.attribution import Options, attribution_steps

    yield Progress(0, len(pairs), "computing")
    grids: dict[str, Grid] = {}
    try:
        for step in attribution_steps(
            model, list(pairs), spec.metric, sites=spec.sites, over=spec.axes, options=Options(**options(spec)),
            batch=spec.batch_pairs or "auto", should_stop=context.should_stop,
        ):  # fmt: skip
            opened, grids = not grids, step.grids()
            if opened:
                yield from (PanelOpened(index, grid.panel) for index, grid in enumerate(grids.values()))
            yield from (tile_of(index, grid) for index, grid in enumerate(grids.values()))
            yield Progress(step.done, step.total, "computing")
        yield from _results(spec, model, pairs, context, grids)
    except Stopped:
        return


def _results(
    spec: AttributionPatchingSpec,
    model: "LanguageModel",
    pairs: Sequence[PromptPair],
    context: RunContext,
    grids: "dict[str, Grid]",
) -> Iterator[Event]:
    from tracing.patching.attribution_check import check_attribution

    certificate = None
    if spec.check:
        yield Log("info", "Patching a sample of the cells exactly.")
        certificate = check_attribution(
            model, list(pairs), grids, spec.metric, cells=spec.check, at_most=spec.check_pairs_at_most,
            seed=spec.seed, should_stop=context.should_stop,
        )  # fmt: skip
    for name, grid in grids.items():
        facts = grid.facts
        best = grid.best("score")
        yield grid.result(
            {
                "clean": facts["clean"],
                "corrupted": facts["corrupted"],
                "best": None if best is None else {"site": name, **best},
            }
        )
    for text in dict.fromkeys(text for grid in grids.values() for text in grid.facts["warnings"]):
        yield Log("warning", text)
    if certificate is not None:
        r = certificate.checks[0].value if certificate.checks else None
        yield certificate.result({"trusted": certificate.trusted, "agreement": r})


register(
    Method(
        name="attribution_patching",
        title="Attribution patching",
        summary="The effect of patching every place at once, estimated from one gradient (AtP, AtP*).",
        help=HELP,
        group="attribution",
        spec=AttributionPatchingSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
