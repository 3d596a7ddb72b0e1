"""Logit lens, direct logit attribution and head detector of TransformerLens 4.3.0."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

ANSWER, FOIL = 17, 40
REPEATED = [3, 40, 17, 3, 40, 17, 88, 3]


def case_logit_lens(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    from transformer_lens.tools.analysis import logit_lens

    found = logit_lens(model, given["clean"], positions=None, targets=[ANSWER, FOIL])
    return {
        "logits": found.values,
        "ranks": found.readout.target_ranks,
        "entropy": found.readout.entropy,
        "rows": len(found.labels),
    }


def _attribution(model: Any, ids: Tensor, unit: str) -> dict[str, Any]:
    from transformer_lens.tools.analysis import direct_logit_attribution

    # Value biases stay where they are: folded into the output bias they would leave the heads.
    model.enable_compatibility_mode(fold_value_biases=False)
    found = direct_logit_attribution(model, ids, ANSWER, FOIL, unit=unit)
    rows = [n for n, label in enumerate(found.labels) if label.startswith("L") or "_out" in label]
    return {"shares": found.attribution[rows].flatten()}


def case_heads(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    return _attribution(model, given["clean"], "head")


def case_components(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    return _attribution(model, given["clean"], "component")


def case_detectors(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    from transformer_lens.head_detector import detect_head

    model.to_tokens = lambda _: torch.tensor([REPEATED])  # the models have no tokenizer
    names = ("previous_token", "duplicate_token", "induction")
    return {name: detect_head(model, "", f"{name}_head", error_measure="mul") for name in names}
