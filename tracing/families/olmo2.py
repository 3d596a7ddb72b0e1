"""OLMo 2: LLaMA's layout, but sublayers read the residual stream itself and are normed after.

What a sublayer adds is its norm's output. Queries and keys have a norm over all heads together.
"""

from dataclasses import replace
from typing import Final

from tracing.families.llama import LLAMA
from tracing.families.weights import Weights

OLMO2: Final = replace(
    LLAMA,
    family="olmo2",
    norm_attn="",
    norm_mlp="",
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
    mid=("mlp", "inputs"),
    qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
    weights=Weights(
        qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias=False, norm_bias=False, qk_norm="full"
    ),
)
