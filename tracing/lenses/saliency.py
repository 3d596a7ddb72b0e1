"""Which tokens of a prompt the answer depends on: gradients at the token embeddings.

With x the prompt's token embeddings, b a baseline's and F the metric, a token's score is a sum over features of

    input_x_gradient       (x − b) · ∂F/∂x at x
    integrated_gradients   (x − b) · mean of ∂F/∂x over points b + α (x − b) of the straight path
    gradient_norm          ‖∂F/∂x‖ at x, which has no direction and no baseline

Integrated gradients of all tokens add up to F(x) − F(b) as the number of points grows (completeness); how far they are
from it is the error of the integral, and is in every result. A positive score means that the token raises the metric
against the baseline. Positions are not interpolated: what a model adds for them stays as it is.
Sources: Simonyan et al. 2013 (arXiv 1312.6034); Sundararajan et al. 2017 (arXiv 1703.01365).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.errors import SpecError, Stopped
from tracing.events import Axis, Quantity, Tick
from tracing.lenses.integral import RULES, Rule, points
from tracing.lenses.prompts import are_pairs, pairs_of
from tracing.lenses.saliency_inputs import BASELINES, Baseline, as_read, baseline_of, embed, embedding, pairs_of_texts
from tracing.metrics import Metric, Targets, get, require_numbers
from tracing.models import LanguageModel
from tracing.patching.attribution_runs import answer_logits, inputs_of, require_gradient
from tracing.prompts import TokenizedPair, require_usable
from tracing.results import Curve, Series, TokenTable

Method = Literal["input_x_gradient", "integrated_gradients", "gradient_norm"]
METHODS: Final = ("input_x_gradient", "integrated_gradients", "gradient_norm")
TOKENS_A_BATCH: Final = 4096
"""Interpolated prompts that run together have at most this many tokens."""
TITLES: Final = {
    "input_x_gradient": "Input × gradient",
    "integrated_gradients": "Integrated gradients",
    "gradient_norm": "Gradient norm",
}
FAR: Final = 0.05
"""A completeness error above this share of the metric's difference is worth a warning."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Every prompt's scores `[prompt, position]` (NaN behind its end), and the metric of it and of its baseline."""

    pairs: tuple[TokenizedPair, ...]
    values: NDArray[np.float64]
    metric: NDArray[np.float64]
    baseline: NDArray[np.float64]

    @property
    def sums(self) -> NDArray[np.float64]:
        """Over each prompt's tokens."""
        found: NDArray[np.float64] = np.nansum(self.values, 1)
        return found

    @property
    def differences(self) -> NDArray[np.float64]:
        """What complete scores sum to: metric(prompt) − metric(baseline)."""
        return self.metric - self.baseline


def token_attribution(
    model: LanguageModel,
    prompts: Any,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    method: Method = "integrated_gradients",
    baseline: Baseline = "corrupted",
    steps: int = 32,
    rule: Rule = "midpoint",
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenTable:
    """A score for every token of every prompt: a `TokenTable` with a row a prompt, in the metric's unit.

    `prompts` are prompt pairs, whose clean prompt is explained; or texts (or rows of ids), whose answer is then the
    token that the model predicts, so that the metric can be any that needs no foil.
    `baseline`: "corrupted" (the pair's other prompt), "zero" (embeddings of zero), "mean_embedding" (the mean over the
    vocabulary) or "pad" (the padding token at every position). `gradient_norm` has none.
    `steps` are the points of integrated gradients; `rule` says where they lie: "midpoint", "left" (the baseline's end),
    "right", "trapezoid" or "gauss_legendre". `batch` is how many interpolated prompts run together.
    `facts["sums"]`, `["differences"]` and `["errors"]` hold the completeness of each prompt.

    Raises `SpecError` for options that do not go together, `PromptError` for prompts that cannot be used, `MetricError`
    for a metric without gradient, `Stopped` once `should_stop()`.
    """
    measure = get(metric)
    pairs = _pairs(model, prompts, measure, method, baseline, steps, rule, batch)
    found = attribute(
        model, pairs, measure, method=method, baseline=baseline, steps=steps, rule=rule, batch=batch,
        should_stop=should_stop, progress=progress,
    )  # fmt: skip
    return table(found, measure, method=method, baseline=baseline, steps=steps, rule=rule)


def completeness(
    model: LanguageModel,
    prompts: Any,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    baseline: Baseline = "corrupted",
    rule: Rule = "midpoint",
    steps: Sequence[int] = (1, 2, 4, 8, 16, 32),
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """The sum of integrated gradients against the number of steps, beside the difference that it tends to.

    Both are means over the prompts, in the metric's unit. Arguments and errors as of `token_attribution`;
    `progress(done, total)` counts numbers of steps.
    """
    measure = get(metric)
    if not steps:
        raise SpecError("There are no numbers of steps.", remedy="Give at least one, such as (1, 2, 4, 8).")
    pairs = _pairs(model, prompts, measure, "integrated_gradients", baseline, min(steps), rule, batch)
    sums, difference = [], float("nan")
    for number, count in enumerate(sorted(set(steps)), start=1):
        found = attribute(
            model, pairs, measure, method="integrated_gradients", baseline=baseline, steps=count, rule=rule,
            batch=batch, should_stop=should_stop,
        )  # fmt: skip
        sums.append(float(found.sums.mean()))
        difference = float(found.differences.mean())
        if progress is not None:
            progress(number, len(set(steps)))
    return Curve(
        name="completeness",
        title="Sum of the scores against the number of steps",
        x_title="Steps of the integral",
        x_unit="points",
        x=np.array(sorted(set(steps)), np.float64),
        quantity=Quantity("sum", "Sum over tokens", measure.facts.unit, "diverging", _domain([*sums, difference])),
        series=(
            Series("sum", "Integrated gradients", np.array(sums)),
            Series("difference", "Metric of the prompt minus that of the baseline", np.full(len(sums), difference)),
        ),
        log_x=True,
        facts={"metric": measure.facts.name, "baseline": baseline, "rule": rule, "pairs": len(pairs)},
    )


def attribute(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    metric: Metric,
    *,
    method: Method,
    baseline: Baseline,
    steps: int,
    rule: Rule,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """The scores of prompts that `token_attribution` has checked, as plain arrays."""
    alphas, weights = points(steps, rule) if method == "integrated_gradients" else (np.ones(1), np.ones(1))
    found = Scores(
        tuple(pairs), np.full((len(pairs), max(pair.length for pair in pairs)), np.nan),
        np.zeros(len(pairs)), np.full(len(pairs), np.nan),
    )  # fmt: skip
    done, total = 0, len(pairs) * len(alphas)
    for members in _groups(pairs):
        group = _Group(model, metric, [pairs[n] for n in members], baseline if method != "gradient_norm" else None)
        found.metric[members], found.baseline[members] = group.ends()
        gradients = torch.zeros_like(group.clean, dtype=torch.float64)
        for rows, slope in group.slopes(alphas, batch, should_stop or (lambda: False)):
            for (example, point), one in zip(rows, slope, strict=True):
                gradients[example] += float(weights[point]) * one
            done += len(rows)
            if progress is not None:
                progress(done, total)
        scores = gradients.norm(dim=-1) if method == "gradient_norm" else (group.way * gradients).sum(-1)
        found.values[members, : scores.shape[1]] = scores.cpu().numpy()
    return found


class _Group:
    """Prompts of one length: their embeddings, their baselines', and gradients between the two."""

    def __init__(
        self, model: LanguageModel, metric: Metric, pairs: list[TokenizedPair], baseline: Baseline | None
    ) -> None:
        self.model, self.metric, self.pairs = model, metric, pairs
        self.inputs = inputs_of(model, pairs, clean=True)
        self.targets = Targets.of(pairs)
        self.clean = embed(model, self.inputs)
        self.base = None if baseline is None else baseline_of(model, pairs, self.clean, baseline)

    @property
    def way(self) -> Tensor:
        """x − b, float64."""
        assert self.base is not None
        return self.clean.double() - self.base.double()

    @torch.no_grad()
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The metric of the prompts and of their baselines."""
        logits = self.logits(self.clean, slice(None))
        if self.metric.facts.needs_reference:
            self.targets = Targets(self.targets.answers, self.targets.foils, logits)
        values = [self.metric(logits, self.targets)]
        require_numbers(values[0], self.pairs, self.metric, "the prompt")
        if self.base is not None:
            values.append(self.metric(self.logits(self.base, slice(None)), self.targets))
            require_numbers(values[1], self.pairs, self.metric, "the baseline")
        found = [value.double().cpu().numpy() for value in values]
        return found[0], found[1] if len(found) > 1 else np.full(len(found[0]), np.nan)

    def logits(self, embeddings: Tensor, rows: Any) -> Tensor:
        """Logits at the answer where the embeddings of these prompts are replaced."""
        with embedding(self.model, embeddings):
            return answer_logits(
                self.model, {name: ids[rows] for name, ids in self.inputs.items()}, self.pairs[0].answer_position
            )

    def slopes(
        self, alphas: NDArray[np.float64], batch: int | Literal["auto"], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        """(example, point) of each row of a batch, and ∂metric/∂embedding there, `[row, position, feature]`."""
        every = [(example, point) for point in range(len(alphas)) for example in range(len(self.pairs))]
        size = max(1, TOKENS_A_BATCH // self.clean.shape[1]) if batch == "auto" else batch
        for lo in range(0, len(every), size):
            if should_stop():
                raise Stopped
            rows = every[lo : lo + size]
            index = torch.tensor([example for example, _ in rows], device=self.clean.device)
            with torch.enable_grad():
                leaf = self.between(index, [float(alphas[point]) for _, point in rows]).requires_grad_()
                chosen = [example for example, _ in rows]
                targets = Targets(
                    tuple(self.targets.answers[n] for n in chosen), tuple(self.targets.foils[n] for n in chosen),
                    None if self.targets.reference is None else self.targets.reference[index],
                )  # fmt: skip
                values = self.metric(self.logits(leaf, index), targets)
                require_gradient(values, self.metric)
                (gradient,) = torch.autograd.grad(values.sum(), leaf)
            yield rows, gradient.double()

    def between(self, index: Tensor, alphas: Sequence[float]) -> Tensor:
        """b + α (x − b) of the chosen examples."""
        clean = self.clean[index]
        if self.base is None:
            return clean.detach().clone()
        share = torch.tensor(alphas, device=clean.device, dtype=torch.promote_types(clean.dtype, torch.float32))
        base = self.base[index].to(share.dtype)
        return (base + share[:, None, None] * (clean.to(share.dtype) - base)).to(clean.dtype).detach()


def table(found: Scores, metric: Metric, *, method: Method, baseline: Baseline, steps: int, rule: Rule) -> TokenTable:
    """Scores as a `TokenTable`."""
    longest = found.values.shape[1]
    texts = [[(pair.clean_tokens[t],) if t < pair.length else ("",) for t in range(longest)] for pair in found.pairs]
    signed = method != "gradient_norm"
    largest = float(np.nanmax(np.abs(found.values), initial=0.0)) or 1.0
    facts: dict[str, Any] = {
        "method": method, "metric": metric.facts.name, "unit": metric.facts.unit, "pairs": len(found.pairs),
        "values": found.metric.tolist(), "warnings": [],
    }  # fmt: skip
    errors = np.zeros(0)
    if signed:
        errors = found.sums - found.differences
        facts |= {"baseline": baseline, "sums": found.sums.tolist(), "differences": found.differences.tolist(),
                  "errors": errors.tolist()}  # fmt: skip
    if method == "integrated_gradients":
        facts |= {"steps": steps, "rule": rule}
        far = [n for n, error in enumerate(errors) if abs(error) > FAR * abs(found.differences[n]) + 1e-12]
        if far:
            facts["warnings"] = [_incomplete(found, errors, far, steps)]
    return TokenTable(
        name="tokens",
        title=f"{TITLES[method]} of each token",
        rows=Axis("prompt", "prompt", tuple(Tick(str(pair.number)) for pair in found.pairs)),
        columns=Axis("position", "position", tuple(Tick(str(t)) for t in range(longest))),
        quantity=Quantity(
            "score", TITLES[method], metric.facts.unit if signed else f"{metric.facts.unit} per unit of embedding",
            "diverging" if signed else "sequential", (-largest, largest) if signed else (0.0, largest),
        ),
        tokens=texts,
        values=found.values[..., None],
        facts=facts,
    )  # fmt: skip


def _incomplete(found: Scores, errors: NDArray[np.float64], far: list[int], steps: int) -> str:
    worst = max(far, key=lambda n: abs(errors[n]))
    return (
        f"The scores of {len(far)} of {len(found.pairs)} prompts do not add up to the metric's difference: of prompt "
        f"{found.pairs[worst].number} they sum to {found.sums[worst]:.3g}, the difference is "
        f"{found.differences[worst]:.3g}. Take more than {steps} steps, or another rule."
    )


def _pairs(
    model: LanguageModel,
    prompts: Any,
    metric: Metric,
    method: str,
    baseline: str,
    steps: int,
    rule: str,
    batch: int | str,
) -> tuple[TokenizedPair, ...]:
    """Check the options, then the prompts."""
    for what, value, known in (("method", method, METHODS), ("baseline", baseline, BASELINES), ("rule", rule, RULES)):
        if value not in known:
            raise SpecError(f"Unknown {what} {value!r}.", remedy=f"Use one of {', '.join(known)}.")
    for what, number in (("number of steps", steps), ("batch size", 1 if batch == "auto" else batch)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise SpecError(f"{number!r} is no {what}.", remedy="Use a whole number from 1 up.")
    if are_pairs(prompts):
        pairs = tuple(as_read(model, pair) for pair in pairs_of(model, prompts))
    else:
        if baseline == "corrupted" and method != "gradient_norm":
            raise SpecError(
                "Texts alone have no corrupted prompt to be compared with.",
                remedy='Give prompt pairs, or baseline="zero", "mean_embedding" or "pad".',
            )
        pairs = pairs_of_texts(model, prompts)
    if metric.facts.needs_foil:
        require_usable(pairs, metric.facts.name) if are_pairs(prompts) else _refuse_foil(metric)
    return pairs


def _refuse_foil(metric: Metric) -> None:
    raise SpecError(
        f"The metric {metric.facts.name} compares the answer with a foil, and texts alone have none.",
        remedy='Give prompt pairs, or a metric such as "logit" or "log_prob".',
    )


def _groups(pairs: Sequence[TokenizedPair]) -> list[list[int]]:
    """Numbers of prompts that can run together, without padding."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault((pair.length, pair.answer_position, len(pair.decoder_ids)), []).append(number)
    return list(groups.values())


def _domain(values: Sequence[float]) -> tuple[float, float]:
    reach = 1.25 * max(abs(value) for value in values) or 1.0
    return -reach, reach
