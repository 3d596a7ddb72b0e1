"""From final residuals to the metric."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tracing.engines.hooks import main_output
from tracing.metrics import Metric, Targets
from tracing.models import LanguageModel


def read_logits(model: LanguageModel, final: Tensor, columns: Sequence[int] | None = None) -> Tensor:
    """Logits of residuals behind the last block `[…, d_model]`, float32 or wider; with `columns`, only those.

    As the model does it: final norm, T5's scale, unembedding with bias, Gemma's softcap.
    """
    adapter, unembed = model.adapter, model.part(model.adapter.unembed)
    config: Any = model.config
    if adapter.final_norm:
        final = main_output(model.part(adapter.final_norm)(final))
    if getattr(config, "scale_decoder_outputs", False):
        final = final * model.facts.d_model**-0.5
    if columns is None:
        logits = _wide(main_output(unembed(_as_weights(final, unembed))))
    else:
        assert isinstance(unembed, nn.Linear)
        index = torch.tensor(list(columns), device=final.device)
        bias = getattr(unembed, "bias", None)
        narrow = _as_weights(final, unembed)
        logits = _wide(nn.functional.linear(narrow, unembed.weight[index], None if bias is None else bias[index]))
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    cap = getattr(text, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def _as_weights(final: Tensor, unembed: nn.Module) -> Tensor:
    # Mamba may keep its residual stream in float32, whatever its weights are in.
    return final.to(unembed.weight.dtype) if isinstance(unembed, nn.Linear) else final


def _wide(logits: Tensor) -> Tensor:
    # Differences of bfloat16 logits would lose most of their digits once more in the metric.
    return logits if logits.dtype == torch.float64 else logits.float()


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
