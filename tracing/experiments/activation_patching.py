"""Activation patching as an experiment: spec, cost and the run that yields the sweep's tiles.

One cell = one site patched alone. Denoising puts the clean activation into the corrupted run, noising the reverse.
Each cell reports the raw metric and its recovery (patched − corrupted) / (clean − corrupted), means over the pairs
taken before the ratio. Source: Zhang & Nanda 2023 (arXiv 2309.16042); Wang et al. 2022 (arXiv 2211.00593).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from tracing.errors import SiteError
from tracing.experiments.events import Event
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.prompts import PromptPair

if TYPE_CHECKING:
    from tracing.models import LanguageModel

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"]
Over = Literal["layer_position", "layer_head"]
Direction = Literal["denoising", "noising"]
MetricName = Literal[
    "logit_diff", "logit", "prob", "prob_diff", "log_prob", "rank", "kl_divergence", "accuracy"
]
DType = Literal["float32", "float64", "bfloat16"]


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
        """Raises `SiteError` where the model's blocks have no such site (resid_mid on parallel blocks)."""
        from tracing.families.facts import sites_of_family  # families is torch-free at this path

        known = sites_of_family(facts.family)
        for site in self.sites:
            if site not in known:
                raise SiteError(
                    f"The family {facts.family} has no site {site}.", remedy=f"Its sites: {', '.join(known)}."
                )


def cost(spec: ActivationPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """Cells, FLOPs of the planned sweep and of one full forward a cell (matmuls only, 2 FLOPs a multiply-add)."""
    raise NotImplementedError


def run(
    spec: ActivationPatchingSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """Open one panel a site, then yield tiles as the sweep computes them, then the `Grid` results."""
    raise NotImplementedError


register(
    Method(
        name="activation_patching",
        title="Activation patching",
        summary="Which layer, position or head carries the information that decides the answer.",
        help=__doc__ or "",
        spec=ActivationPatchingSpec,
        run=run,
        cost=cost,
    )
)
