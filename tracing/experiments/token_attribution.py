"""Token attribution as an experiment: which tokens of each prompt the answer depends on, and how complete that is.

Sources: Simonyan et al. 2013 (arXiv 1312.6034); Sundararajan et al. 2017 (arXiv 1703.01365).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import Field, model_validator

from tracing.errors import Stopped
from tracing.events import Event, Log, Progress
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import BACKWARD, DType, MetricName, call_text, passes
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel

ADVANCED: Final[dict[str, Any]] = {"advanced": True}
CURVE: Final = (1, 2, 4, 8, 16, 32)
"""Numbers of steps of the completeness curve, up to the spec's own."""

HELP = """\
Which tokens of the clean prompt does the answer depend on? With x the prompt's token embeddings, b those of a baseline
and F the metric, the score of a token is a sum over features of

- integrated gradients: (x − b) · mean of ∂F/∂x over points b + α (x − b) on the straight path between the two
- input × gradient: (x − b) · ∂F/∂x at x
- gradient norm: the length of ∂F/∂x at x, which has no sign and no baseline

Integrated gradients of all tokens add up to F(x) − F(b) as the number of steps grows (completeness). The curve shows
the sum against the number of steps; each row of the table says how far its sum is off. A positive score means that the
token raises the metric against the baseline.

The baseline is part of the question. "Corrupted" asks which tokens make the difference between the two prompts, and
gives tokens that both share a score of exactly 0. "Zero", "mean embedding" and "padding" compare with no prompt at all.

When not to trust it:

- The sum is far from the difference. Take more steps or the rule gauss_legendre; with one step, it is a gradient.
- The points between prompt and baseline are no texts. What the model does there need not be what it does with words.
- The gradient is nearly zero at x (a probability near 1). Input × gradient and the norm then say "nothing matters".
- A score is about the embedding of a token, not about what its position or its absence would do.
- Large scores of opposite signs. They cancel in the sum, and depend most on the baseline.
- A saliency map that looks right is no evidence. Compare it with patching, and with that of another baseline.

Sources: Simonyan et al. 2013 (arXiv 1312.6034); Sundararajan et al. 2017 (arXiv 1703.01365); Adebayo et al. 2018
(arXiv 1810.03292).
"""


class TokenAttributionSpec(MethodSpec):
    """Parameters of token attribution."""

    method: Literal["integrated_gradients", "input_x_gradient", "gradient_norm"] = Field(
        default="integrated_gradients", title="Method", description="How a token's score is made of gradients."
    )
    baseline: Literal["corrupted", "zero", "mean_embedding", "pad"] = Field(
        default="corrupted", title="Baseline", description="What the clean prompt is compared with."
    )
    metric: MetricName = Field(
        default="logit_diff", title="Metric", description="Read where the model answers; needs a gradient."
    )
    steps: int = Field(
        default=32, ge=1, le=4096, title="Steps", description="Points of the integral; others than it need one."
    )
    rule: Literal["midpoint", "left", "right", "trapezoid", "gauss_legendre"] = Field(
        default="midpoint",
        title="Rule",
        description="Where the points of the integral lie.",
        json_schema_extra=ADVANCED,
    )
    curve: bool = Field(
        default=True,
        title="Completeness curve",
        description="Also the sum of the scores against the number of steps, for about twice the cost.",
    )
    batch_rows: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        title="Rows a batch",
        description="Interpolated prompts that run together; empty takes as many as fit.",
        json_schema_extra=ADVANCED,
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra=ADVANCED)

    @model_validator(mode="after")
    def _metric_has_a_gradient(self) -> Self:
        if self.metric in ("rank", "accuracy"):
            raise ValueError(f"The metric {self.metric} has no gradient; take logit_diff or log_prob.")
        return self

    @property
    def points(self) -> tuple[int, ...]:
        """Numbers of steps that the curve shows; none where there is no curve."""
        if not self.curve or self.method != "integrated_gradients":
            return ()
        return (*(steps for steps in CURVE if steps < self.steps), self.steps)

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where the metric compares with a foil and a pair has none."""
        require_for_metric(pairs, self.metric)


def cost(spec: TokenAttributionSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """A forward and a backward of each prompt for each point, and two forwards for the ends."""
    points = spec.steps if spec.method == "integrated_gradients" else 1
    gradients, ends = points + sum(spec.points), 2 * (1 + len(spec.points))
    one, many = passes(model, prompts.lengths), passes(model, [*prompts.lengths] * gradients)
    flops = many.flops * (1 + BACKWARD) + one.flops * ends
    return Cost(cells=0, flops=flops, naive_flops=flops, launches=2 * many.launches + ends * one.launches)


def options(spec: TokenAttributionSpec) -> dict[str, Any]:
    """The keyword arguments that table and curve share."""
    return {"baseline": spec.baseline, "rule": spec.rule, "batch": spec.batch_rows or "auto"}


def call(spec: TokenAttributionSpec) -> str:
    """The same as Python lines that bind `results`: the table, and the curve."""
    shared = [("", "pairs"), ("", repr(spec.metric)), *((name, repr(value)) for name, value in options(spec).items())]
    text = call_text(
        "from tracing.lenses.saliency import completeness, token_attribution"
        if spec.points
        else "from tracing.lenses.saliency import token_attribution",
        "token_attribution",
        [*shared, ("method", repr(spec.method)), ("steps", repr(spec.steps))],
        bind="table",
    )
    if not spec.points:
        return text + "results = {table.name: table}\n"
    text += call_text("", "completeness", [*shared, ("steps", repr(spec.points))], bind="curve").lstrip("\n")
    return text + "results = {table.name: table, curve.name: curve}\n"


def run(
    spec: TokenAttributionSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The table, then the curve. No results once it should stop."""
    # Gradients load torch; this module is imported by web processes, which must not.
    from tracing.lenses.saliency import completeness, token_attribution

    total = 1 + len(spec.points)
    yield Progress(0, total, "computing", "Gradients at the prompts")
    try:
        table = token_attribution(
            model, list(pairs), spec.metric, method=spec.method, steps=spec.steps, should_stop=context.should_stop,
            **options(spec),
        )  # fmt: skip
        yield Progress(1, total, "computing", "Completeness" if spec.points else "")
        curve = None
        if spec.points:
            curve = completeness(
                model, list(pairs), spec.metric, steps=spec.points, should_stop=context.should_stop, **options(spec)
            )
    except Stopped:
        return
    yield Progress(total, total, "computing")
    for warning in table.facts["warnings"]:
        yield Log("warning", warning)
    errors = [abs(error) for error in table.facts.get("errors", [])]
    yield table.result({"metric": spec.metric, "largest_error": max(errors) if errors else None})
    if curve is not None:
        yield curve.result({})


register(
    Method(
        name="token_attribution",
        title="Token attribution",
        summary="Which tokens of the prompt the answer depends on (integrated gradients, input × gradient).",
        help=HELP,
        group="attribution",
        spec=TokenAttributionSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
