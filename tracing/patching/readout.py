"""From final residuals to the metric, for unpatched and patched runs alike."""

from dataclasses import replace

from torch import Tensor, nn

from tracing.metrics import Metric, Targets
from tracing.models import LanguageModel
from tracing.patching.suffix import read_logits


def measure(
    model: LanguageModel, metric: Metric, targets: Targets, clean: Tensor, final: Tensor, *, narrow: bool
) -> Tensor:
    """The metric of final residuals `[pair, column, d_model]`, `[pair, column]`.

    `clean` `[pair, d_model]` are the clean run's: its logits are computed from them, batch by batch, where the metric
    compares with them, because those of all pairs would fill the memory. With `narrow`, only the vocabulary columns
    that the metric reads are computed.
    """
    columns = None
    if narrow and metric.facts.targets_only and type(model.part(model.adapter.unembed)) is nn.Linear:
        columns = targets.columns()
        targets = targets.within(columns)
    elif metric.facts.needs_reference:
        targets = replace(targets, reference=read_logits(model, clean))
    logits = read_logits(model, final.flatten(0, 1), columns)
    return metric(logits, targets.repeated(final.shape[1])).reshape(final.shape[:2])
