"""Qwen3: LLaMA's layout with an RMSNorm over each head's query and key.

q and k are the projections' outputs, before that norm; q_rot and k_rot are after norm and rotation.
"""

from dataclasses import replace
from typing import Final

from tracing.families.llama import LLAMA
from tracing.families.weights import Weights

QWEN3: Final = replace(
    LLAMA,
    family="qwen3",
    qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
    weights=Weights(
        qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias=False, norm_bias=False, qk_norm="head"
    ),
    defaults=(("head_dim", 128),),
)
