"""Attention patterns as an experiment: what every head looks at on the first pairs of a set.

value_weighted[q, k] = pattern[q, k] · ‖v_k W_O‖ / Σ_k. Source: Kobayashi et al. 2020 (arXiv 2004.10102).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tracing.events import Event
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import DType, call_text, follow, passes, require_site, starting
from tracing.prompts import PromptPair

if TYPE_CHECKING:
    from tracing.models import LanguageModel

HELP = """\
For each head and each token: how its attention is shared out over the tokens before it, read inside the attention that
the model runs anyway. Value-weighted attention also counts how much a token gives:

value_weighted[q, k] = pattern[q, k] · ‖v_k W_O‖ / Σ_k pattern[q, k] · ‖v_k W_O‖

so a token that is looked at and carries nothing (often the first one) fades.

When not to trust it:

- Attention is not explanation. A head may look at a token and write nothing that matters; patch it to know.
- Much attention to the first token, or to punctuation, usually means that the head has nothing to do.
- From the second layer on, a position holds more than its token: what was moved there by earlier heads.
- The norm of what is written says how much, not in which direction: two tokens may cancel.
- One prompt is an example. Use head detectors for what a head does in general.

Sources: Kobayashi et al. 2020 (arXiv 2004.10102); Jain & Wallace 2019 (arXiv 1902.10186).
"""


class AttentionPatternsSpec(MethodSpec):
    """Parameters of attention patterns."""

    prompts: int = Field(default=4, ge=1, le=64, title="Pairs shown", description="The first ones of the set.")
    prompt: Literal["clean", "corrupted"] = Field(default="clean", title="Prompts", description="Which run is read.")
    value_weighted: bool = Field(
        default=True, title="Value-weighted too", description="Weighted by how much each token gives."
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra={"advanced": True})

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the family has no attention pattern."""
        require_site(facts, "pattern")


def cost(spec: AttentionPatternsSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """One forward a pair that is shown."""
    lengths = list(prompts.lengths[: spec.prompts])
    numbers = sum(length**2 for length in lengths) * model.n_layers * model.n_heads
    return passes(model, lengths, size=4 * numbers * (1 + spec.value_weighted))


def call(spec: AttentionPatternsSpec) -> str:
    """The same as Python lines."""
    text = call_text(
        "from tracing.lenses.attention import attention_patterns",
        "attention_patterns",
        [
            ("", f"pairs[:{spec.prompts}]"),
            ("run", repr(spec.prompt)),
            ("value_weighted", repr(spec.value_weighted)),
        ],
    )
    return text + "results = {one.name: one for one in found}\n"


def run(
    spec: AttentionPatternsSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """One `Attention` a pair. Ends without results once `context.should_stop()`."""
    # The library loads torch; this module is imported by web processes, which must not.
    from tracing.lenses.attention import attention_steps

    chosen = list(pairs)[: spec.prompts]
    yield from starting(len(chosen))
    found = yield from follow(
        attention_steps(
            model, chosen, run=spec.prompt, value_weighted=spec.value_weighted, should_stop=context.should_stop
        )
    )
    for one in found or ():
        yield one.result({"tokens": len(one.tokens)})


register(
    Method(
        name="attention_patterns",
        title="Attention patterns",
        summary="What every head looks at, and how much it takes from there.",
        help=HELP,
        group="lenses",
        spec=AttentionPatternsSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
