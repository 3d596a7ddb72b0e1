"""Titles, units and colour rules of the metrics, without torch: forms, legends and cost previews read these.

The functions themselves are in `tracing.metrics`, under the same names.
"""

from dataclasses import dataclass
from typing import Final, Literal

from tracing.errors import MetricError

Rule = Literal["symmetric", "unit", "signed_unit", "from_zero", "to_zero", "around"]


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """One metric as a reader sees it. `rule` says how the colour domain follows from the two baselines."""

    name: str
    title: str
    description: str
    unit: str
    rule: Rule
    needs_foil: bool = False
    targets_only: bool = False
    """True where only the logits of answers and foils matter: the rest of the vocabulary need not be computed."""
    needs_reference: bool = False
    """True where the metric compares with the clean run's logits over the whole vocabulary."""

    @property
    def scale(self) -> Literal["diverging", "sequential"]:
        return "diverging" if self.rule in ("symmetric", "signed_unit") else "sequential"

    def domain(self, clean: float, corrupted: float) -> tuple[float, float]:
        """Fixed colour domain of a raw map, from the two baselines alone (so it is known before the first cell)."""
        low, high = min(clean, corrupted), max(clean, corrupted)
        reach = 1.25 * max(abs(low), abs(high)) or 1.0
        margin = 0.25 * (high - low) or 1.0
        domains: dict[Rule, tuple[float, float]] = {
            "symmetric": (-reach, reach),
            "unit": (0.0, 1.0),
            "signed_unit": (-1.0, 1.0),
            "from_zero": (0.0, reach),
            "to_zero": (-reach, 0.0),
            "around": (low - margin, high + margin),
        }
        return domains[self.rule]


_ALL: Final = (
    MetricFacts(
        "logit_diff",
        "Logit difference",
        "Mean logit of the answers minus mean logit of the foils.",
        "logits",
        "symmetric",
        needs_foil=True,
        targets_only=True,
    ),
    MetricFacts("logit", "Answer logit", "Mean logit of the answers.", "logits", "around", targets_only=True),
    MetricFacts("prob", "Answer probability", "Total probability of the answers.", "probability", "unit"),
    MetricFacts(
        "prob_diff",
        "Probability difference",
        "Total probability of the answers minus that of the foils.",
        "probability",
        "signed_unit",
        needs_foil=True,
    ),
    MetricFacts(
        "log_prob",
        "Answer log-probability",
        "Natural logarithm of the total probability of the answers.",
        "nats",
        "to_zero",
    ),
    MetricFacts(
        "rank", "Answer rank", "How many tokens score higher than the best answer; 0 is the top.", "places", "from_zero"
    ),
    MetricFacts(
        "kl_divergence",
        "KL divergence",
        "How far the patched next-token distribution is from the clean run's, summed over the vocabulary.",
        "nats",
        "from_zero",
        needs_reference=True,
    ),
    MetricFacts(
        "accuracy", "Accuracy", "Share of pairs whose highest-scoring token is an answer.", "share of pairs", "unit"
    ),
)

METRICS: Final = {facts.name: facts for facts in _ALL}
"""Every metric by name."""


def metric_facts(name: str) -> MetricFacts:
    """The facts of a metric. Raises `MetricError` listing the known names otherwise."""
    try:
        return METRICS[name]
    except KeyError:
        raise MetricError(
            f"There is no metric named {name!r}.", remedy=f"Known metrics: {', '.join(METRICS)}."
        ) from None
