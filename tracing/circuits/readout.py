"""The metric of final residual streams, at the answer position or at every position."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracing.circuits.runs import Part
from tracing.engines.hooks import main_output
from tracing.errors import MetricError, SpecError
from tracing.metrics import Metric, Targets, require_numbers
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

Answer = int | Literal["all", "pair"]
"""A position; the one that each pair names; or all of them."""
LOGITS_AT_ONCE: Final = 2**25


def check_answer(metric: Metric, answer: Any, named: bool, pairs: Sequence[TokenizedPair]) -> None:
    """Raises `MetricError` where a named metric is to read every position: those read one row of logits a prompt.

    Raises `SpecError` for an answer that is no position of every prompt, and neither "pair" nor "all".
    """
    shortest = min((pair.length for pair in pairs), default=0)
    number = isinstance(answer, int) and not isinstance(answer, bool)
    if answer not in ("all", "pair") if not number else not -shortest <= answer < shortest:
        raise SpecError(
            f"The answer cannot be read at {answer!r}.",
            remedy=f'Use "pair", "all", or a position that every prompt has, from {-shortest} to {shortest - 1}.',
        )
    if answer == "all" and named:
        raise MetricError(
            f"The metric {metric.facts.name} reads one position, not all.",
            remedy="Pass a function of logits [pair, position, vocabulary], or the answer's position.",
        )


def metric_of(
    model: LanguageModel, metric: Metric, part: Part, final: Tensor, answer: Answer, place: str
) -> NDArray[Any]:
    """The metric of final streams `[row, pair, T, d_model]`, `[row, pair]`.

    Raises `MetricError` naming the first pair whose metric is not a finite number.
    """
    targets = part.targets
    columns = None
    if metric.facts.targets_only and type(model.part(model.adapter.unembed)) is nn.Linear:
        columns = targets.columns()
        targets = targets.within(columns)
    elif metric.facts.needs_reference:
        targets = replace(targets, reference=logits_of(model, at_answer(part, part.clean_final, answer)))
    width = model.facts.vocab_size if columns is None else len(columns)
    rows = max(1, LOGITS_AT_ONCE // (width * len(part.members) * (final.shape[2] if answer == "all" else 1)))
    found = [
        _measure(model, metric, targets, at_answer(part, some, answer), columns)
        for some in torch.split(final, rows)
    ]  # fmt: skip
    values = torch.cat(found)
    require_numbers(values.T, part.members, metric, place)
    wide = values if values.dtype == torch.float64 else values.float()
    array: NDArray[Any] = wide.cpu().numpy()
    return array


def at_answer(part: Part, final: Tensor, answer: Answer) -> Tensor:
    """Final streams `[…, pair, T, d_model]` where the metric reads them: `[…, pair, d_model]`, or all positions."""
    if answer == "all":
        return final
    if answer != "pair":
        return final[..., answer, :]
    where = torch.tensor([pair.answer_position for pair in part.members], device=final.device)
    return final[..., torch.arange(len(where), device=final.device), where, :]


def _measure(
    model: LanguageModel, metric: Metric, targets: Targets, final: Tensor, columns: list[int] | None
) -> Tensor:
    rows, pairs = final.shape[:2]
    logits = logits_of(model, final.transpose(0, 1).flatten(0, 1), columns)
    return metric(logits, targets.repeated(rows)).reshape(pairs, rows).T


def logits_of(model: LanguageModel, final: Tensor, columns: list[int] | None = None) -> Tensor:
    """Logits of final residual streams `[…, d_model]`, float32 or wider; `columns` keeps some of the vocabulary."""
    adapter = model.adapter
    normed = main_output(model.part(adapter.final_norm)(final)) if adapter.final_norm else final
    unembed = model.part(adapter.unembed)
    if columns is None:
        logits = main_output(unembed(normed))
    else:
        assert isinstance(unembed, nn.Linear)
        index = torch.tensor(columns, device=normed.device)
        bias: Tensor | None = getattr(unembed, "bias", None)
        logits = nn.functional.linear(normed, unembed.weight[index], None if bias is None else bias[index])
    config: Any = getattr(model.module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    # Differences of bfloat16 logits would lose most of their digits once more in the metric.
    return logits if logits.dtype == torch.float64 else logits.float()


def float_kind(model: LanguageModel) -> Any:
    """float64 of a float64 model, else float32."""
    return np.float64 if model.dtype == torch.float64 else np.float32
