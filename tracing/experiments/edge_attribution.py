"""Edge attribution as an experiment: EAP and its integrated kinds, node totals, and the certificate of the scores.

Sources: Syed et al. 2023 (arXiv 2310.10348); Hanna et al. 2024 (arXiv 2403.17806).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from pydantic import Field

from tracing.circuits.costs import batches, contraction_flops, exact_runs, graph_numbers, runs
from tracing.circuits.layout import Layout
from tracing.errors import PromptError, Stopped
from tracing.events import Axis, Event, Log, Panel, PanelOpened, Progress, Quantity, Tick, Tile
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import BACKWARD, DType, call_text, passes
from tracing.families import adapter_of
from tracing.patching.footprint import ITEM_BYTES
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel
    from tracing.results import EdgeScores

ADVANCED: Final[dict[str, Any]] = {"advanced": True}
PANEL_CELLS: Final = 2_000_000
"""A larger map of edges is not drawn while it runs; its scores are a result all the same."""

HELP = """\
An edge is the path from what one part writes (a head, an MLP, the token embedding) to what another one reads (a head's
query, key or value, an MLP, the logits) through the residual stream alone. Patching it exactly takes one forward an
edge, and a small model has thirty thousand. Edge attribution estimates all of them from one gradient: with u what the
source writes and r the reader's own copy of the residual stream,

score(u → r) = Σ over positions of (u_patched − u) · ∂metric/∂r ≈ metric(edge patched) − metric(unpatched)

Scores are in the metric's unit, means over the prompt pairs. With noising (corrupted into clean) an edge that the
answer needs is negative; with denoising it is positive. Methods differ in where the gradient is taken:

- EAP: in the unpatched run. Two forwards and one backward; the edges of a source sum to the source's attribution.
- EAP-IG over inputs: mean over steps from the corrupted to the clean token embedding. The usual choice.
- EAP-IG over activations: mean over steps of the edge's own source. Dearest: 2 × layers + 1 times as much.
- Edge masks: mean over steps in which every edge is patched in part. All scores sum to corrupted − clean.

When not to trust it:

- The certificate fails. It patches a sample of the edges exactly; where the correlation is low, rank edges by exact
  patching or integrate.
- A softmax or an activation function is saturated: the gradient is blind to what lies further away, and an edge with a
  strong effect can have a score of nothing. Integrating helps, not always.
- The gradient is zero where it is taken. A divergence from the clean run has none at the clean run: use the logit
  difference, or denoising.
- Edges are added up. Estimates add, effects of joint patches do not: check a circuit by running it.
- Norms behind attention (Gemma, OLMo 2): a head's write is taken to first order, through the norm of the whole layer.
- Signed scores of many pairs cancel. Absolute ones do not, but say nothing of direction.

Sources: Syed et al. 2023 (arXiv 2310.10348); Hanna et al. 2024 (arXiv 2403.17806); Marks et al. 2024
(arXiv 2403.19647); Miller et al. 2024 (arXiv 2407.08734).
"""


class EdgeAttributionSpec(MethodSpec):
    """Parameters of an edge attribution."""

    method: Literal["eap", "eap-ig-inputs", "eap-ig-activations", "ig-mask"] = Field(
        default="eap-ig-inputs",
        title="Method",
        description="Where gradients are taken; EAP takes one, the others steps.",
    )
    steps: int = Field(default=5, ge=1, le=200, title="Steps", description="Gradients that are averaged; not for EAP.")
    metric: Literal["logit_diff", "logit", "prob", "prob_diff", "log_prob", "kl_divergence"] = Field(
        default="logit_diff", title="Metric", description="Read at each prompt's answer; those with a gradient."
    )
    direction: Literal["noising", "denoising"] = Field(
        default="noising",
        title="Direction",
        description="Noising patches edges of the clean run, denoising of the corrupted one.",
    )
    source: Literal["interchange", "mean", "zero"] = Field(
        default="interchange",
        title="What is put in",
        description="The other prompt's value, its mean over the prompts at each position, or nothing.",
    )
    spans: Literal["none", "named", "position"] = Field(
        default="none", title="Split over", description="Also scores of each named span, or of each position."
    )
    check: int = Field(
        default=64,
        ge=0,
        le=10_000,
        title="Edges to check exactly",
        description="How many edges the certificate patches exactly; 0 or 1 makes no certificate.",
    )
    rule: Literal["left", "right", "midpoint"] = Field(
        default="left",
        title="Integration rule",
        description="Where steps lie, from the corrupted end. Left is EAP-IG's own; midpoint is the most exact.",
        json_schema_extra=ADVANCED,
    )
    aggregation: Literal["signed", "absolute"] = Field(
        default="signed",
        title="Mean over pairs",
        description="Of signed scores, or of each pair's absolute ones.",
        json_schema_extra=ADVANCED,
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra=ADVANCED)
    batch_pairs: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        title="Pairs a batch",
        description="Pairs that run together; empty keeps activations to about half a GiB.",
        json_schema_extra=ADVANCED,
    )

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` for a family without edges, saying why."""
        layout_of(facts)

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where a pair lacks the foil that the metric needs, or the spans of the first pair."""
        require_for_metric(pairs, self.metric)
        if self.spans != "named":
            return
        wanted = [name for name, _ in pairs[0].spans] if pairs else []
        for number, pair in enumerate(pairs, start=1):
            missing = [name for name in wanted if name not in dict(pair.spans)]
            if missing or not wanted:
                lacks = f"no span {missing[0]!r}, which pair 1 has" if missing else "no named spans"
                raise PromptError(
                    f"Pair {number} has {lacks}.",
                    remedy='Name them in each pair, as in "spans": {"subject": "Mary", "END": -1}.',
                    where={"pair": number, "field": "spans"},
                )


def layout_of(facts: ModelFacts) -> Layout:
    """The edges of a model of these sizes; families whose layout depends on the config count as their usual one."""
    return Layout.of(facts, adapter_of(facts.family))


def cost(spec: EdgeAttributionSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """The runs of every pair, the contraction, and the certificate's patches.

    `naive_flops` are one forward an edge: exact patching without a plan.
    """
    layout, lengths = layout_of(model), list(prompts.lengths)
    size, tokens = ITEM_BYTES[spec.dtype], sum(lengths)
    one = passes(model, lengths).flops
    ends = spec.rule != "midpoint" and spec.source == "interchange"
    forwards, backwards = runs(layout, spec.method, spec.steps, ends=ends)
    contractions = {"eap-ig-activations": 2 * model.n_layers + 1, "ig-mask": spec.steps}.get(spec.method, 1)
    checked, blocks = 0.0, 0
    if spec.check > 1:
        checked, blocks = exact_runs(model, lengths, spec.check)
        # Both runs again, and a forward with its backward for the certificate's sums.
        checked, blocks = checked + 3 + BACKWARD, blocks + 5 * model.n_layers * len(set(lengths))
    # In each layer, a backward meets the contraction of that layer's readers: as much overhead again.
    flops = one * (forwards + BACKWARD * backwards + checked) + contractions * contraction_flops(layout, model) * tokens
    count = batches(model, lengths, size, spec.batch_pairs)
    spans = {"none": 0, "named": 4, "position": prompts.max_length}[spec.spans]
    cells = len(layout.sources) * len(layout.readers)
    held = min(tokens, 2**29 // max(1, graph_numbers(model) * size) + prompts.max_length)
    return Cost(
        cells=cells if cells <= PANEL_CELLS else 0,
        flops=flops,
        naive_flops=max(flops, one * layout.n_edges),
        bytes=held * graph_numbers(model) * size + 8 * cells * (1 + spans),
        launches=model.n_layers * count * (forwards + 2 * backwards) + blocks,
    )


def options(spec: EdgeAttributionSpec) -> dict[str, Any]:
    """The keyword arguments of `edge_attribution` that a spec means, but for the spans."""
    names = ("method", "steps", "rule", "direction", "source", "aggregation")
    return {**{name: getattr(spec, name) for name in names}, "batch": spec.batch_pairs or "auto"}


def call(spec: EdgeAttributionSpec) -> str:
    """The same as Python lines that bind `results`: the scores, the node totals and the certificate."""
    spans = {"none": "None", "position": "'position'", "named": "[name for name, _ in pairs[0].spans]"}[spec.spans]
    given = [(name, repr(value)) for name, value in options(spec).items()]
    text = "from tracing.circuits.certificate import certify\n" if spec.check > 1 else ""
    text += call_text(
        "from tracing.circuits.attribution import edge_attribution\nfrom tracing.circuits.totals import node_totals",
        "edge_attribution",
        [("", "pairs"), ("", repr(spec.metric)), *given, ("spans", spans)],
        bind="edges",
    )
    text += 'results = {"edges": edges, "nodes": node_totals(edges)}\n'
    if spec.check < 2:
        return text
    return text + (
        'results["certificate"] = certify(\n'
        f"    model, pairs, {spec.metric!r}, edges, sample={spec.check}, seed={spec.seed},\n"
        f"    ablation={spec.source!r}, direction={spec.direction!r},\n)\n"
    )


def run(
    spec: EdgeAttributionSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """The map of all edges after every batch, then the results. No results once it should stop."""
    # Attribution loads torch; this module is imported by web processes, which must not.
    from tracing.circuits.attribution import attribution_steps

    spans = {"none": None, "position": "position", "named": [name for name, _ in pairs[0].spans]}[spec.spans]
    yield Progress(0, 0, "computing")
    found, panel = None, False
    try:
        for step in attribution_steps(
            model, list(pairs), spec.metric, **options(spec), spans=spans, should_stop=context.should_stop
        ):
            found = step.scores
            if found.scores.size <= PANEL_CELLS:
                if not panel:
                    yield PanelOpened(0, panel_of(found))
                panel = True
                yield Tile(0, 0, 0, np.where(found.real, found.scores, np.nan).astype(np.float32)[None])
            yield Progress(step.done, step.total, "computing")
        assert found is not None
        yield from _results(spec, model, pairs, context, found)
    except Stopped:
        return


def panel_of(found: "EdgeScores") -> Panel:
    """Sources × readers. The colours reach as far as the first batch's largest score."""
    reach = float(np.abs(found.scores[found.real]).max()) or 1.0
    unit = str(found.facts["unit"])
    shown = Quantity("score", "Score", unit, "diverging", (-reach, reach), {"0": "no effect"})
    rows = Axis("source", "Source", tuple(Tick(name) for name in found.sources))
    columns = Axis("reader", "Reader", tuple(Tick(name) for name in found.readers))
    facts = {key: found.facts[key] for key in ("method", "metric", "direction", "source", "clean", "corrupted")}
    return Panel("edges", found.title, rows, columns, (shown,), facts)


def _results(
    spec: EdgeAttributionSpec,
    model: "LanguageModel",
    pairs: Sequence[PromptPair],
    context: RunContext,
    found: "EdgeScores",
) -> Iterator[Event]:
    from tracing.circuits.certificate import certify
    from tracing.circuits.totals import node_totals

    certificate = None
    if spec.check > 1:
        yield Log("info", "Patching a sample of the edges exactly.")
        certificate = certify(
            model, list(pairs), spec.metric, found, sample=spec.check, seed=spec.seed, ablation=spec.source,
            direction=spec.direction, should_stop=context.should_stop,
        )  # fmt: skip
    source, reader, score = found.top(1)[0]
    yield found.result(
        {
            "clean": found.facts["clean"],
            "corrupted": found.facts["corrupted"],
            "edges": found.facts["edges"],
            "best": {"source": source, "reader": reader, "value": score},
        }
    )
    yield node_totals(found).result({})
    for text in found.facts["warnings"]:
        yield Log("warning", text)
    if certificate is not None:
        for text in certificate.warnings:
            yield Log("warning", text)
        yield certificate.result({"trusted": certificate.trusted})


register(
    Method(
        name="edge_attribution",
        title="Edge attribution",
        summary="The effect of patching every edge between heads and MLPs, estimated from gradients (EAP, EAP-IG).",
        help=HELP,
        group="edges",
        spec=EdgeAttributionSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
