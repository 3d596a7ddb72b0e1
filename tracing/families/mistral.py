"""Mistral: LLaMA's layout, grouped-query attention in a sliding window, no biases."""

from dataclasses import replace
from typing import Final

from tracing.families.llama import LLAMA
from tracing.families.weights import Weights

MISTRAL: Final = replace(
    LLAMA,
    family="mistral",
    weights=Weights(qkv_bias=False, out_bias=False, mlp_bias=False, norm_bias=False),
    defaults=(("num_key_value_heads", 8),),
)
