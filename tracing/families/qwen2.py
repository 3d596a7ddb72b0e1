"""Qwen2: LLaMA's layout with biases on q, k and v alone."""

from dataclasses import replace
from typing import Final

from tracing.families.llama import LLAMA
from tracing.families.weights import Weights

QWEN2: Final = replace(
    LLAMA,
    family="qwen2",
    weights=Weights(qkv_bias=True, out_bias=False, mlp_bias=False, norm_bias=False),
)
