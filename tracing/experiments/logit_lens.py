"""The logit lens as an experiment: top tokens of every layer, and the metric read through the lens.

lens(l, t) = unembed(norm_final(h_l[t])), with the model's own final norm, bias and softcap (nostalgebraist 2020).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from tracing.events import Event, Log
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import (
    DType,
    MetricName,
    call_text,
    follow,
    passes,
    require_site,
    starting,
    unembedding,
)
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel

LOOKS: Final = 100
"""What all looks at one logit take, in FLOPs of a matrix product: about two nanoseconds on one core."""
TOP: Final = 70
"""What finding the top tokens adds."""

HELP = """\
Every layer's hidden state is read as if it were the last: through the model's own final norm, unembedding and softcap.
The table shows the tokens it would say there, the map how far the answer has come.

lens(l, t) = unembed(norm_final(h_l[t]))

The rows are the residual stream entering each block; `out` is the model's own output. KL(final ‖ lens) is in nats, 0
where the lens says what the model says at that position. The metric compares with the pair's answer and foil at every
position; only the last column is where the model is asked.

When not to trust it:

- Early layers need not write in the basis of the unembedding. Nonsense there does not mean that nothing is known; some
  models (OPT, BLOOM, GPT-Neo) look empty until late. A tuned lens corrects part of that.
- The final norm rescales. A small change in a large residual stream, or the other way round, looks different from what
  it does to the logits.
- attn_out and mlp_out are read alone and normed by their own size, so they show a direction, not a share.
- What the lens shows is not what later layers use: it is a correlation until something is patched.
- The rank and the probability are of the best answer, and means over pairs hide pairs that disagree.

Sources: nostalgebraist 2020 ("interpreting GPT: the logit lens"); Belrose et al. 2023 (arXiv 2303.08112).
"""


class LogitLensSpec(MethodSpec):
    """Parameters of a logit lens."""

    site: Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"] = Field(
        default="resid_pre", title="Site", description="What is read at every layer."
    )
    metric: MetricName = Field(default="logit_diff", title="Metric", description="Read through the lens.")
    prompt: Literal["clean", "corrupted"] = Field(default="clean", title="Prompts", description="Which run is read.")
    top: int = Field(default=5, ge=1, le=50, title="Top tokens", description="Shown in each cell of the table.")
    tables: int = Field(default=3, ge=0, le=50, title="Tables", description="Pairs that get a table of tokens.")
    at: Literal["all", "answer"] = Field(
        default="all",
        title="Positions",
        description="Every position, or only where the model answers.",
        json_schema_extra={"advanced": True},
    )
    positions: Literal["start", "end"] = Field(
        default="end",
        title="Count positions from",
        description="How prompts of different lengths line up in one map.",
        json_schema_extra={"advanced": True},
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra={"advanced": True})

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the family has no such site."""
        require_site(facts, self.site)

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where the metric compares with a foil and a pair has none."""
        require_for_metric(pairs, self.metric)


def cost(spec: LogitLensSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """One forward a pair, one unembedding a layer and position, and the passes over their logits.

    The first prompt runs once more for the check of the readout.
    """
    rows = model.n_layers + (spec.site == "resid_pre")
    places = sum(prompts.lengths) if spec.at == "all" else prompts.pairs
    columns = prompts.max_length if spec.at == "all" else 1
    lengths = list(prompts.lengths)
    # What the model says itself is always read too, and of the first prompt twice.
    read = places * (model.n_layers + 1) + 2 * sum(lengths[:1])
    tabled = min(spec.tables, prompts.pairs) / max(1, prompts.pairs) * places * rows
    looks = model.vocab_size * (LOOKS * places * rows + TOP * tabled)
    return passes(
        model,
        [*lengths[:1], *lengths],
        cells=rows * columns,
        extra=unembedding(model, read) + looks,
        size=prompts.pairs * rows * columns * 5 * 8,
    )


def call(spec: LogitLensSpec) -> str:
    """The same as Python lines."""
    text = call_text(
        "from tracing.lenses.logit_lens import logit_lens",
        "logit_lens",
        [
            ("", "pairs"), ("", repr(spec.metric)), ("site", repr(spec.site)), ("run", repr(spec.prompt)),
            ("top", repr(spec.top if spec.tables else 0)), ("tables", f"range(min({spec.tables}, len(pairs)))"),
            ("at", repr(spec.at)), ("positions", repr(spec.positions)),
        ],
    )  # fmt: skip
    return text + "results = {one.name: one for one in (found.grid, *found.tables)}\n"


def run(
    spec: LogitLensSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The map after every batch, then the grid and the tables. Ends without results once `context.should_stop()`."""
    # The lens loads torch; this module is imported by web processes, which must not.
    from tracing.lenses.logit_lens import lens_steps

    yield from starting(len(pairs))
    found = yield from follow(
        lens_steps(
            model, list(pairs), spec.metric, site=spec.site, run=spec.prompt, top=spec.top if spec.tables else 0,
            tables=range(min(spec.tables, len(pairs))), at=spec.at, positions=spec.positions,
            should_stop=context.should_stop,
        )
    )  # fmt: skip
    if found is None:
        return
    yield Log("info", f"The readout gives the model's own logits (off by {found.error:.1e} of the largest).")
    yield found.grid.result({"metric": spec.metric, "final": found.grid.facts["final"], "best": found.grid.best("raw")})
    for table in found.tables:
        yield table.result({})


register(
    Method(
        name="logit_lens",
        title="Logit lens",
        summary="What the model would say if it stopped at a layer.",
        help=HELP,
        group="lenses",
        spec=LogitLensSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
