"""Head detectors as an experiment: previous-token, duplicate-token, induction and copying heads.

Source: Olsson et al. 2022 (arXiv 2209.11895).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from tracing.errors import SpecError
from tracing.events import Event
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import DType, call_text, follow, passes, require_site, starting
from tracing.prompts import PromptPair

if TYPE_CHECKING:
    from tracing.models import LanguageModel

Kind = Literal["previous_token", "duplicate_token", "induction", "copying"]

HELP = """\
Which heads attend to the token before, to an earlier copy of the current token, or to the token behind an earlier copy
(induction)? The model reads a segment of random tokens several times in a row: nothing but position and repetition can
guide a head there. With A[t, s] a head's attention from token t to token s, x the tokens, and means over rows:

- previous token: mean over t of A[t, t − 1]
- duplicate token: mean over t that have a copy of Σ A[t, s], x[s] = x[t], s < t
- induction: mean over t that have a copy of Σ A[t, s], x[s − 1] = x[t]

Copying needs no tokens: it is Σ λ / Σ |λ| over the eigenvalues of the head's W_E W_V W_O W_U, 1 where attending to a
token raises that token, −1 where it lowers it. An induction head attends behind a copy and copies.

The measure "mul" divides by all attention instead, positions without a target included, as TransformerLens does. The
tokens are drawn with the seed from the model's vocabulary without its special tokens; on the prompts of the set the
scores say what the heads do there.

When not to trust it:

- A score is about attention, not about what the head writes. A head that looks at the right place may copy nothing.
- Heads are not one thing. A high score on random tokens does not mean that the head does only that on text.
- Random tokens are far from what the model has read; small models may fail to induce on them and do it on text.
- Sliding windows that are shorter than a segment make induction impossible in those layers.
- Copying is the direct path from the embedding, without earlier layers, norms' scales and biases.
- Scores of evenly spread attention are not 0: about 1 over the number of tokens before.

Sources: Olsson et al. 2022 (arXiv 2209.11895); Elhage et al. 2021 (transformer-circuits.pub/2021/framework).
"""


class HeadDetectorsSpec(MethodSpec):
    """Parameters of head detectors."""

    kinds: tuple[Kind, ...] = Field(
        default=("previous_token", "duplicate_token", "induction"),
        min_length=1,
        title="Kinds",
        description="One map a kind.",
    )
    tokens: Literal["random", "prompts"] = Field(
        default="random", title="Tokens", description="Repeated random tokens, or the clean prompts of the set."
    )
    length: int = Field(
        default=25, ge=2, le=4096, title="Segment", description="Random tokens that are repeated.",
        json_schema_extra={"only_if": {"tokens": ["random"]}},
    )  # fmt: skip
    repeats: int = Field(
        default=2, ge=2, le=16, title="Times", description="How often the segment comes.",
        json_schema_extra={"only_if": {"tokens": ["random"]}},
    )  # fmt: skip
    count: int = Field(
        default=32, ge=1, le=4096, title="Rows", description="Random segments.",
        json_schema_extra={"only_if": {"tokens": ["random"]}},
    )  # fmt: skip
    measure: Literal["mean", "mul"] = Field(
        default="mean",
        title="Score",
        description="Mean over tokens that have a target, or the share of all attention (as TransformerLens).",
        json_schema_extra={"advanced": True},
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra={"advanced": True})

    @field_validator("kinds")
    @classmethod
    def _once(cls, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if len(set(value)) != len(value):
            raise ValueError("A kind is named twice.")
        return value

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the family has no attention pattern, `SpecError` where rows are too long."""
        require_site(facts, "pattern")
        if self.tokens == "random" and self.length * self.repeats > facts.max_positions:
            raise SpecError(
                f"{self.repeats} times {self.length} tokens are more than the {facts.max_positions} the model reads.",
                remedy="Shorten the segment.",
            )


def cost(spec: HeadDetectorsSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """One forward a row."""
    lengths = [spec.length * spec.repeats] * spec.count if spec.tokens == "random" else list(prompts.lengths)
    return passes(model, lengths, cells=len(spec.kinds) * model.n_layers * model.n_heads)


def call(spec: HeadDetectorsSpec) -> str:
    """The same as Python lines."""
    text = call_text(
        "from tracing.lenses.detectors import detect_heads",
        "detect_heads",
        [
            ("", "None" if spec.tokens == "random" else "pairs"), ("kinds", repr(spec.kinds)),
            ("measure", repr(spec.measure)), ("length", repr(spec.length)), ("repeats", repr(spec.repeats)),
            ("count", repr(spec.count)), ("seed", repr(spec.seed)),
        ],
    )  # fmt: skip
    return text + "results = found.grids\n"


def run(
    spec: HeadDetectorsSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The maps after every batch, then the grids. Ends without results once `context.should_stop()`."""
    # The library loads torch; this module is imported by web processes, which must not.
    from tracing.lenses.detectors import detect_steps

    yield from starting(spec.count if spec.tokens == "random" else len(pairs))
    found = yield from follow(
        detect_steps(
            model, None if spec.tokens == "random" else list(pairs), kinds=spec.kinds, measure=spec.measure,
            length=spec.length, repeats=spec.repeats, count=spec.count, seed=spec.seed,
            should_stop=context.should_stop,
        )
    )  # fmt: skip
    for grid in found.grids.values() if found else ():
        yield grid.result({"best": grid.best("score")})


register(
    Method(
        name="head_detectors",
        title="Head detectors",
        summary="Which heads look at the previous token, at a copy, or behind a copy.",
        help=HELP,
        group="lenses",
        spec=HeadDetectorsSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
