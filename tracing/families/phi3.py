"""Phi-3: LLaMA's layout with q, k and v in one projection, as many columns each as they have heads."""

from dataclasses import replace
from typing import Final

from tracing.families.llama import LLAMA
from tracing.families.sites import fused
from tracing.families.weights import Weights

PHI3: Final = replace(
    LLAMA,
    family="phi3",
    **fused("self_attn.qkv_proj", "unequal"),
    weights=Weights(qkv_bias=False, out_bias=False, mlp_bias=False, norm_bias=False),
)
