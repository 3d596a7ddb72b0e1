"""Mixtral: Mistral's attention, a mixture of experts as MLP (router `mlp.gate`, `mlp.experts`)."""

from dataclasses import replace
from typing import Final

from tracing.families.mistral import MISTRAL

MIXTRAL: Final = replace(
    MISTRAL,
    family="mixtral",
    neurons="",
    weights=replace(MISTRAL.weights, experts="num_local_experts"),
    defaults=(("num_key_value_heads", 8), ("num_local_experts", 8), ("num_experts_per_tok", 2)),
)
