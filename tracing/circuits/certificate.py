"""Whether edge scores can be trusted: four checks on the model, the prompts and the scores themselves.

1. Additivity: embedding + Σ writes = final residual, and Σ_h z_h·W_O + b_O = what attention adds. Edges divide up
   exactly that sum, so where it fails no edge score means anything.
2. Sum identity (scores of plain EAP): Σ_v S(u→v) = AtP(u) = Σ (u′ − u) · ∂metric/∂u for every source u.
3. Agreement: a sample of edges is patched exactly (`tracing.circuits.exact`); Pearson correlation with the scores, and
   how often the signs agree. The sample has the edges with the largest scores and, of each quarter of the others,
   random ones.
4. Gradient: pairs whose metric has no gradient (or one of rounding errors alone: all attributions together are next to
   nothing of what the other prompt changes), and sampled edges with a strong effect and a score of nothing
   (a saturated softmax or a dead ReLU hides what would happen further away).
Sources: Syed et al. 2023 (arXiv 2310.10348); Kramár et al. 2024 (arXiv 2403.00745), on cancellation and saturation.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.circuits.exact import Pairs, Task, base_metric, edge_metrics, other_metric, task
from tracing.circuits.gradients import BLIND, node_attribution
from tracing.circuits.readout import Answer
from tracing.circuits.runs import Ablation, Direction, Part
from tracing.errors import SpecError, Stopped
from tracing.models import LanguageModel
from tracing.results import Certificate, Check, EdgeScores

ADDITIVITY: Final = {torch.float64: 1e-10, torch.float32: 1e-4}
SUMS: Final = {torch.float64: 1e-4, torch.float32: 1e-3}
"""Looser than rounding: norms and rotary tables of many models compute in float32 whatever the weights are."""
HALF_PRECISION: Final = 2.5e-2
PEARSON: Final = 0.6
SIGNS: Final = 0.75
STRONG: Final = 0.1
"""An effect is strong from this share of the largest sampled one."""
NOTHING: Final = 1e-3
"""A score is nothing below this share of the largest."""
HIDDEN: Final = 0.1


def certify(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    scores: EdgeScores | None = None,
    *,
    sample: int = 64,
    seed: int = 0,
    ablation: Ablation = "interchange",
    direction: Direction = "noising",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Check edge scores made with the same pairs, metric, ablation and direction.

    `sample` edges are patched exactly, chosen by `seed`. The identity of sums is checked where `scores.facts["method"]`
    is "eap" and the scores are signed; absolute ones (`facts["aggregation"]`) meet means of absolute effects.
    `progress` counts the exactly patched edges × pairs.
    Raises `SpecError` where the scores are not of this model's edges, fewer than two are numbers, or their facts name
    another direction, source or metric than is checked with;
    otherwise as `edge_effects`.
    """
    made = task(
        model, pairs, metric, ablation=ablation, direction=direction, answer=answer, batch=batch, seed=seed,
        should_stop=should_stop,
    )  # fmt: skip
    scores = _checkable(made, scores)
    _require_same(made, scores)
    if sample < 2:
        raise SpecError(f"A sample of {sample} edges has no correlation.", remedy="Use 2 or more; 64 is usual.")
    error, nodes, flat = _identities(made)
    edges = sampled(scores, sample, seed)
    base, values = edge_metrics(made, edges, progress)
    absolute = scores.facts.get("aggregation") == "absolute"
    effects = values - base[:, None]
    exact = (np.abs(effects) if absolute else effects).mean(0)
    given = np.array([scores.scores[edge] for edge in edges], float)
    checks = [
        _additivity(made, error),
        _sums(made, scores, nodes),
        *_agreement(exact, given, signed=not absolute),
        _gradient(flat, len(made.pairs)),
        _hidden(exact, given, float(np.nanmax(np.abs(scores.scores[scores.real])))),
    ]
    return Certificate(
        name="certificate",
        title="Certificate of the edge scores",
        checks=tuple(checks),
        warnings=tuple(check.sentence for check in checks if check.passed is False),
        facts={
            **made.facts, "scores": scores.name, "method": scores.facts.get("method", ""), "sample": len(edges),
            "seed": seed,
            "sampled": [
                [made.layout.sources[s], made.layout.readers[r], float(given[n]), float(exact[n])]
                for n, (s, r) in enumerate(edges)
            ],
        },
    )  # fmt: skip


def _require_same(made: Task, scores: EdgeScores) -> None:
    """Raises `SpecError` where the scores say that they are of another direction, source or metric than the check."""
    facts = scores.facts
    for what, of_scores, of_check in (
        ("direction", facts.get("direction"), made.direction),
        ("ablation", facts.get("source", facts.get("ablation")), made.ablation),
        ("metric", facts.get("metric"), made.metric.facts.name),
    ):
        if of_scores is not None and of_scores != of_check:
            raise SpecError(
                f"The scores were made with {what}={of_scores!r}, and are to be checked with {what}={of_check!r}.",
                remedy="Check them with what they were made with.",
                where={"field": what, "scores": of_scores, "check": of_check},
            )


def _checkable(made: Task, scores: EdgeScores | None) -> EdgeScores:
    """The scores. Raises `SpecError` where they are of other edges, or hardly any is a number."""
    if scores is None or scores.readers != made.layout.readers or scores.sources != made.layout.sources:
        raise SpecError(
            "The scores are not of this model's edges.", remedy="Pass the result of edge_attribution on this model."
        )
    if not np.array_equal(scores.real, made.layout.real) or np.isfinite(scores.scores[scores.real]).sum() < 2:
        raise SpecError(
            "The scores leave nothing to check: they are of other edges than this model's, or hardly any is a number.",
            remedy="Pass the result of edge_attribution on this model.",
        )
    return scores


def sampled(scores: EdgeScores, count: int, seed: int) -> list[tuple[int, int]]:
    """Real edges with a score: the largest quarter of `count`, and random ones of each quarter of the others."""
    places = np.argwhere(scores.real & np.isfinite(scores.scores))
    size = np.abs(scores.scores[places[:, 0], places[:, 1]])
    order = places[np.argsort(-size, kind="stable")]
    largest = min(len(order), max(1, count // 4))
    chosen, rest = [order[:largest]], order[largest:]
    rng = np.random.default_rng(seed)
    left = min(count - largest, len(rest))
    for number, quarter in enumerate(np.array_split(rest, 4)):
        # What a short quarter cannot give, the next ones do.
        take = min(len(quarter), -(-left // (4 - number)))
        chosen.append(quarter[np.sort(rng.choice(len(quarter), take, replace=False))])
        left -= take
    return [(int(s), int(r)) for s, r in np.concatenate(chosen)]


def _identities(made: Task) -> tuple[float, NDArray[Any], int]:
    """The largest additivity error, node attribution `[source]`, and how many pairs have no gradient."""
    error, flat = 0.0, 0
    nodes = np.zeros((len(made.pairs), len(made.layout.sources)))
    for part in made.parts():
        if made.should_stop():
            raise Stopped
        error = max(error, *additivity(made, part))
        values, slopes = node_attribution(made, part)
        nodes[list(part.numbers)] = values
        whole, seen = np.abs(other_metric(made, part) - base_metric(made, part)), np.abs(values).sum(1)
        flat += int(((slopes == 0) | ((seen > 0) & (seen <= BLIND * whole))).sum())
    return error, nodes.mean(0), flat


@torch.inference_mode()
def additivity(made: Task, part: Part) -> Iterator[float]:
    """Errors of the residual sum and of each layer's sum over heads, relative to the largest value."""
    base = part.base
    total = base.residual[0]
    for layer, block in enumerate(made.blocks):
        heads = block.head_writes(base.writes.z[layer]).sum(-2)
        bias = getattr(block.out_proj, "bias", None)
        heads = heads if bias is None else heads + bias
        yield _relative(heads, base.attention[layer] if block.post_norm is None else base.before_norm[layer])
        total = total + base.attention[layer] + base.writes.mlp[layer]
    yield _relative(total, base.residual[-1])


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _additivity(made: Task, error: float) -> Check:
    limit = ADDITIVITY.get(made.model.dtype, HALF_PRECISION)
    passed = error <= limit
    return Check(
        "additivity", "Embedding and writes add up to the final residual", error, limit, passed,
        "The residual stream is the sum that edges divide up."
        if passed
        else "The writes do not add up to the residual stream: something between the blocks changes it, and no edge "
        "score describes that.",
    )  # fmt: skip


def _sums(made: Task, scores: EdgeScores, nodes: NDArray[Any]) -> Check:
    title = "Edges out of a source add up to its attribution"
    facts = scores.facts
    plain = facts.get("method") == "eap" and facts.get("aggregation", "signed") == "signed"
    if not plain or np.isnan(scores.scores[scores.real]).any():
        sentence = "Holds of plain signed EAP over all edges only; these scores are of another kind."
        return Check("sums", title, None, None, None, sentence)
    sums = np.where(scores.real, scores.scores, 0.0).astype(float).sum(1)
    error = float(np.abs(sums - nodes).max() / max(float(np.abs(nodes).max()), 1e-30))
    limit = SUMS.get(made.model.dtype, 4 * HALF_PRECISION)
    passed = error <= limit or float(np.abs(sums - nodes).max()) <= 1e-12
    return Check(
        "sums", title, error, limit, passed,
        "Every source's edges add up to what patching the source as a whole changes, to first order."
        if passed
        else "The edges out of a source do not add up to its attribution: the scores were made with other prompts or "
        "options, or an edge is missing.",
    )  # fmt: skip


def _agreement(exact: NDArray[Any], given: NDArray[Any], *, signed: bool) -> Iterator[Check]:
    """Pearson correlation and signs over the sample."""
    title = "Correlation with exact patching"
    spread = min(float(exact.std()), float(given.std()))
    if spread <= 1e-12 * max(1.0, float(np.abs(exact).max())):
        constant = "effects" if exact.std() <= given.std() else "scores"
        yield Check(
            "pearson", title, None, PEARSON, False,
            f"All sampled {constant} are equal, so there is nothing to correlate: the metric may not react at all.",
        )  # fmt: skip
    else:
        value = float(np.corrcoef(exact, given)[0, 1])
        passed = value >= PEARSON
        yield Check(
            "pearson", title, value, PEARSON, passed,
            f"Over {len(exact)} edges the scores follow the exact effects."
            if passed
            else f"Over {len(exact)} edges the scores follow the exact effects poorly ({value:.2f}): rank edges by "
            "exact patching, or by integrated gradients.",
        )  # fmt: skip
    strong = np.abs(exact) >= STRONG * max(float(np.abs(exact).max()), 1e-30)
    title = "Signs that agree, of edges with a strong effect"
    if not signed:
        yield Check("signs", title, None, None, None, "Absolute scores have no sign.")
        return
    value = float((np.sign(exact[strong]) == np.sign(given[strong])).mean()) if strong.any() else 0.0
    passed = value >= SIGNS
    yield Check(
        "signs", title, value, SIGNS, passed,
        f"Of {int(strong.sum())} strong edges {value:.0%} have the score's sign."
        if passed
        else f"Of {int(strong.sum())} strong edges only {value:.0%} have the score's sign: what the scores call "
        "helpful may be harmful.",
    )  # fmt: skip


def _gradient(flat: int, pairs: int) -> Check:
    share = flat / pairs
    return Check(
        "gradient", "Pairs whose metric has no gradient", share, 0.0, flat == 0,
        "Every pair's metric has a gradient."
        if not flat
        else f"The metric of {flat} of {pairs} pairs has no gradient where it was taken, so their scores are all "
        "zero: it is at a minimum (as a divergence from the run itself is) or constant. Use the logit difference.",
    )  # fmt: skip


def _hidden(exact: NDArray[Any], given: NDArray[Any], largest: float) -> Check:
    """Strong effects that the gradient does not see."""
    title = "Strong edges with a score of nothing"
    strong = np.abs(exact) >= STRONG * max(float(np.abs(exact).max()), 1e-30)
    missed = strong & (np.abs(given) <= NOTHING * largest)
    share = float(missed.sum() / max(1, strong.sum()))
    passed = share <= HIDDEN
    return Check(
        "saturation", title, share, HIDDEN, passed,
        "The gradient sees the edges that matter."
        if passed
        else f"{int(missed.sum())} of {int(strong.sum())} edges with a strong exact effect have a score of nothing: a "
        "softmax or a ReLU is saturated there, so the gradient is blind. Do not cut a circuit by these scores.",
    )  # fmt: skip
