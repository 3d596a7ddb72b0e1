"""Steering as an experiment: a vector from the pairs, the texts it leads to, and the metric against its strength.

v = mean h(clean) − mean h(corrupted); h ← h + scale · v while the model writes. Sources: Turner et al. 2023 (arXiv
2308.10248), Rimsky et al. 2023 (arXiv 2312.06681).
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import Field, model_validator

from tracing.errors import PromptError, SpecError, Stopped
from tracing.events import Event, Progress
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import DType, MetricName, added, follow, passes, require_site, unembedding
from tracing.families import adapter_of
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel

WRITTEN: Final = 0.7
"""Of the new tokens a text may have, those it is expected to: between half and all of them, off by √2 either way."""

HELP = """\
The vector is what separates the clean prompts from the corrupted ones at one layer:

v = mean over pairs of h(clean) − mean over pairs of h(corrupted)

It is then added to the residual stream, times a scale, while the model reads and writes: h ← h + scale · v. The texts
show what that does, the curve how the metric follows the scale. Scale 0 is the unsteered model, exactly.

"Prompt" adds it at the prompt's tokens, "generated" at the last token of the prompt and every new one (where new tokens
are predicted from), "all" at both.

When not to trust it:

- The vector was made from the pairs it is judged on, unless half of them are held out. A good curve on its own pairs
  may only mean that it brings their own tokens along.
- What differs between the two sets is what it holds: also the topic, the length, the names, if they differ.
- A large scale breaks the model. Repetition and nonsense are not the behaviour; look at the texts, not at the metric
  alone.
- The mean of a set with two ways of answering lies between them, and may mean neither.
- The effect depends on the layer and on the length of the vector: compare layers with vectors of unit length.

Sources: Turner et al. 2023 (arXiv 2308.10248); Rimsky et al. 2023 (arXiv 2312.06681); Tan et al. 2024
(arXiv 2407.12404, on when it fails).
"""


class SteeringSpec(MethodSpec):
    """Parameters of steering."""

    layer: int | None = Field(default=None, ge=0, title="Layer", description="Where it acts; empty is the middle one.")
    site: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"] = Field(
        default="resid_pre", title="Site", description="What the vector is read from and added to."
    )
    position: Literal["last", "mean"] = Field(
        default="last", title="Read at", description="The last token of each prompt, or the mean of its tokens."
    )
    scale_from: float = Field(default=-1.0, ge=-1000, le=1000, title="Scale from")
    scale_to: float = Field(default=2.0, ge=-1000, le=1000, title="Scale to")
    scales: int = Field(default=4, ge=1, le=41, title="Scales", description="Evenly spaced; 0 is the unsteered model.")
    positions: Literal["all", "prompt", "generated"] = Field(
        default="all", title="Add at", description="All tokens, those of the prompt, or where new ones are predicted."
    )
    prompt: Literal["clean", "corrupted"] = Field(
        default="corrupted", title="Steer", description="Which prompts of the pairs the vector is added to."
    )
    metric: MetricName = Field(default="logit_diff", title="Metric", description="Of the curve.")
    texts: int = Field(default=3, ge=0, le=50, title="Texts", description="Pairs whose prompt is continued.")
    max_new_tokens: int = Field(default=20, ge=1, le=512, title="New tokens")
    hold_out: bool = Field(
        default=False, title="Hold out half", description="Make the vector of every other pair, judge it on the rest."
    )
    unit: bool = Field(default=False, title="Unit length", json_schema_extra={"advanced": True})
    sample: bool = Field(
        default=False, title="Sample", description="With the seed; otherwise the likeliest token.",
        json_schema_extra={"advanced": True},
    )  # fmt: skip
    temperature: float = Field(
        default=1.0, gt=0, le=10, title="Temperature",
        json_schema_extra={"advanced": True, "only_if": {"sample": [True]}},
    )  # fmt: skip
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra={"advanced": True})

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        if self.scales > 1 and not self.scale_from < self.scale_to:
            raise ValueError("`scale_from` must be below `scale_to`.")
        return self

    @property
    def strengths(self) -> tuple[float, ...]:
        """The scales."""
        step = (self.scale_to - self.scale_from) / max(1, self.scales - 1)
        return tuple(round(self.scale_from + n * step, 6) for n in range(self.scales))

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the family lacks the site or continues no prompts, `SpecError` for a wrong layer."""
        require_site(facts, self.site)
        adapter = adapter_of(facts.family)
        if self.layer is not None and self.layer >= facts.n_layers:
            raise SpecError(
                f"There is no layer {self.layer}: the model has {facts.n_layers}.",
                remedy=f"Layers are 0 to {facts.n_layers - 1}.",
                where={"parameter": "layer"},
            )
        if self.texts and (adapter.encoder is not None or adapter.residual == "post_norm"):
            raise SpecError(
                f"The family {facts.family} does not continue a prompt.",
                remedy="Ask for 0 texts.",
                where={"parameter": "texts"},
            )

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where the metric needs a foil and a pair has none, or there is nothing to hold out."""
        require_for_metric(pairs, self.metric)
        if self.hold_out and len(pairs) < 2:
            raise PromptError("One pair has no half to hold out.", remedy="Add pairs, or do not hold out.")


def cost(spec: SteeringSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """Forwards of both sets, one a scale of the judged prompts, and the generated tokens.

    Where a text ends is not known: it counts as `WRITTEN` of the tokens it may have.
    Raises `SpecError` where a text may become longer than what the model reads.
    """
    _require_room(spec, model, prompts)
    tokens = ceil(WRITTEN * spec.max_new_tokens)
    lengths, texts = list(prompts.lengths), list(prompts.lengths[: spec.texts])
    judged = passes(model, lengths * (spec.scales + 1), extra=unembedding(model, prompts.pairs * (spec.scales + 1)))
    found = added(passes(model, lengths * 2), judged)
    written = passes(model, [length + tokens for length in texts] * spec.scales)
    written = Cost(0, written.flops, written.naive_flops, 0, 0)
    launches = len(set(texts)) * spec.scales * tokens * model.n_layers
    found = added(found, written)
    return Cost(0, found.flops, found.naive_flops, found.bytes, found.launches + launches)


def _require_room(spec: SteeringSpec, model: ModelFacts, prompts: PromptFacts) -> None:
    continued = (prompts.lengths[1::2] if spec.hold_out else prompts.lengths)[: spec.texts]
    longest = max(continued, default=0)
    most = model.max_positions - longest + 1  # the last token is written, not read
    if continued and spec.max_new_tokens > most:
        raise SpecError(
            f"{spec.max_new_tokens} new tokens after a prompt of {longest} do not fit: the model reads at most "
            f"{model.max_positions}.",
            remedy=f"Ask for at most {max(most, 1)}.",
            where={"parameter": "max_new_tokens"},
        )


def _layer(spec: SteeringSpec) -> str:
    return "model.facts.n_layers // 2" if spec.layer is None else repr(spec.layer)


def call(spec: SteeringSpec) -> str:
    """The same as Python lines."""
    made, judged = ("pairs[::2]", "pairs[1::2]") if spec.hold_out else ("pairs", "pairs")
    options = (
        f"    positions={spec.positions!r},\n    run={spec.prompt!r},\n    sample={spec.sample!r},\n"
        f"    temperature={spec.temperature!r},\n    seed={spec.seed!r},\n"
    )
    return (
        "from tracing.lenses.steered import steer\n"
        "from tracing.lenses.steering import steering_vector\n\n"
        f"vector = steering_vector(\n    model,\n    {made},\n    layers={_layer(spec)},\n    site={spec.site!r},\n"
        f"    position={spec.position!r},\n    unit={spec.unit!r},\n)\n"
        f"judged = steer(\n    model,\n    {judged},\n    vector,\n    {spec.strengths!r},\n    {spec.metric!r},\n"
        f"    max_new_tokens=0,\n{options})\n"
        "results = {judged.curve.name: judged.curve}\n"
        + (
            f"written = steer(\n    model,\n    {judged}[:{spec.texts}],\n    vector,\n    {spec.strengths!r},\n"
            f"    max_new_tokens={spec.max_new_tokens},\n{options})\n"
            "results[written.text.name] = written.text\n"
            if spec.texts
            else ""
        )
    )


def run(
    spec: SteeringSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The curve, then the texts; the vector is kept as an array. Ends without results once `context.should_stop()`."""
    # The library loads torch; this module is imported by web processes, which must not.
    from tracing.lenses.steered import steer_steps
    from tracing.lenses.steering import steering_vector

    layer = model.facts.n_layers // 2 if spec.layer is None else spec.layer
    made, judged = (list(pairs[::2]), list(pairs[1::2])) if spec.hold_out else (list(pairs), list(pairs))
    yield Progress(0, 0, "baselines", "Making the vector")
    try:
        vector = steering_vector(
            model, made, layers=layer, site=spec.site, position=spec.position, unit=spec.unit,
            should_stop=context.should_stop,
        )  # fmt: skip
    except Stopped:
        return
    context.save_array(f"steering_vector_{spec.site}_{layer}", vector.vectors[layer].numpy())
    curve = yield from follow(
        steer_steps(
            model, judged, vector, spec.strengths, spec.metric, max_new_tokens=0, positions=spec.positions,
            run=spec.prompt, sample=spec.sample, temperature=spec.temperature, seed=spec.seed,
            should_stop=context.should_stop,
        )
    )  # fmt: skip
    if curve is None or curve.curve is None:
        return
    texts = None
    if spec.texts:
        texts = yield from follow(
            steer_steps(
                model, judged[: spec.texts], vector, spec.strengths, max_new_tokens=spec.max_new_tokens,
                positions=spec.positions, run=spec.prompt, sample=spec.sample, temperature=spec.temperature,
                seed=spec.seed, should_stop=context.should_stop,
            )
        )  # fmt: skip
        if texts is None:
            return
    line = curve.curve.series[0].y
    yield curve.curve.result(
        {"layer": layer, "norm": vector.norms[layer], "lowest": float(line.min()), "highest": float(line.max())}
    )
    if texts is not None:
        yield texts.text.result({"texts": len(texts.text.entries)})


register(
    Method(
        name="steering",
        title="Steering vectors",
        summary="A direction from the pairs, added while the model writes.",
        help=HELP,
        group="steering",
        spec=SteeringSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
