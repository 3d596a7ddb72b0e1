"""Direct logit attribution as an experiment: what each component, head or neuron adds to the logit by itself.

Σ_w w · d + bias = logit difference, with d the unembedding direction behind the final norm, whose scale is frozen at
the run's own. Source: Elhage et al. 2021 ("A mathematical framework for transformer circuits").
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tracing.errors import SiteError
from tracing.events import Event, Log
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import DType, added, call_text, follow, passes, require_site, starting
from tracing.families import adapter_of
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel

HELP = """\
The residual stream at the end is the sum of what every component wrote. Behind the final norm, whose scale is held at
what it was in the run, the logit difference is a sum as well, and each component has its share of it:

logit(answer) − logit(foil) = Σ_w w · d + bias,  d = c(g ∘ (W_U[answer] − W_U[foil])) / σ

g is the norm's gain, c its centring (nothing for RMSNorm), σ its scale. Heads are z_h W_O[h] · d, neurons
act_n W_out[n] · d. Norms behind a sublayer have their scale frozen as well. The shares add up exactly, and the run says
by how much they miss. Where the model has a softcap, the sum is that of the logits before it.

When not to trust it:

- It is direct only. A head that moves information for later heads has no share here, and may matter most of all.
- A share is not an effect. Take the component away, and the norm's scale, and later components that read it, change:
  backup heads then take over. Patching measures effects.
- Shares can be large and cancel: two components that write v and −v look important together.
- The frozen scale belongs to this run. Clean minus corrupted compares two runs with different scales.
- The bias is what no component of this prompt decides; it can carry most of a frequent word's logit.

Sources: Elhage et al. 2021 (transformer-circuits.pub/2021/framework); Wang et al. 2022 (arXiv 2211.00593).
"""


class DirectLogitAttributionSpec(MethodSpec):
    """Parameters of a direct logit attribution."""

    metric: Literal["logit_diff", "logit"] = Field(
        default="logit_diff", title="Metric", description="Only these are sums of what components write."
    )
    by: Literal["component", "head", "neuron"] = Field(
        default="head", title="Split", description="Into sublayers, attention heads, or MLP neurons."
    )
    top: int = Field(
        default=20,
        ge=1,
        le=500,
        title="Neurons shown",
        description="The strongest; the others of a layer are added up.",
        json_schema_extra={"advanced": True},
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra={"advanced": True})

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the family's residual stream is no sum, or has no such parts."""
        adapter = adapter_of(facts.family)
        if adapter.residual == "post_norm":
            raise SiteError(
                f"The final hidden state of {facts.family} is no sum of what components write: its blocks norm sums.",
                remedy="Use activation patching.",
            )
        if self.by == "head":
            require_site(facts, "z")
        if self.by == "neuron" and not adapter.neurons:
            raise SiteError(
                f"The blocks of {facts.family} have no one down projection, so neurons cannot be told apart.",
                remedy="Split by component or head.",
            )

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where the metric compares with a foil and a pair has none."""
        require_for_metric(pairs, self.metric)


def cost(spec: DirectLogitAttributionSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """One forward a prompt of both runs; the shares of components and heads cost next to nothing.

    For those of neurons, each layer's down projection is read in float64: about two blocks' weights once more.
    """
    columns = {"head": model.n_heads, "component": len(_sublayers(model)), "neuron": 0}[spec.by]
    one = passes(model, list(prompts.lengths), cells=columns * model.n_layers)
    found = added(one, passes(model, list(prompts.lengths)))
    return replace(found, launches=3 * found.launches) if spec.by == "neuron" else found


def _sublayers(model: ModelFacts) -> list[str]:
    adapter = adapter_of(model.family)
    return [name for name in ("attn_out", *dict(adapter.others), "mlp_out") if name in adapter.sites]


def call(spec: DirectLogitAttributionSpec) -> str:
    """The same as Python lines."""
    text = call_text(
        "from tracing.lenses.direct import direct_logit_attribution",
        "direct_logit_attribution",
        [("", "pairs"), ("", repr(spec.metric)), ("by", repr(spec.by)), ("top", repr(spec.top))],
    )
    return text + "results = {one.name: one for one in (found.bars, found.grid) if one is not None}\n"


def run(
    spec: DirectLogitAttributionSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The map after every batch, then bars and map. Ends without results once `context.should_stop()`."""
    # The library loads torch; this module is imported by web processes, which must not.
    from tracing.lenses.direct import direct_steps

    yield from starting(len(pairs))
    found = yield from follow(
        direct_steps(model, list(pairs), spec.metric, by=spec.by, top=spec.top, should_stop=context.should_stop)
    )
    if found is None:
        return
    yield Log("info", f"The shares add up to the metric (off by {found.error:.1e} of their sizes).")
    if found.bars.facts["before_softcap"]:
        yield Log("info", "The model softcaps its logits; the shares are of the logits before that.")
    summary = {run: found.bars.facts[run] for run in ("clean", "corrupted")} | {"sum_error": found.error}
    yield found.bars.result(summary)
    if found.grid is not None:
        yield found.grid.result({**summary, "best": found.grid.best("difference")})


register(
    Method(
        name="direct_logit_attribution",
        title="Direct logit attribution",
        summary="Which components, heads or neurons write the answer themselves.",
        help=HELP,
        group="lenses",
        spec=DirectLogitAttributionSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
