"""Gemma 2: norms before and after each sublayer, scaled embedding, softcapped scores and logits, sliding windows.

What a sublayer adds to the residual stream is the output of its second norm, so that is attn_out and mlp_out;
z·W_O and head_out are before that norm. The embedding's module returns the scaled embedding.
"""

from dataclasses import replace
from typing import Final

from tracing.families.llama import LLAMA
from tracing.families.weights import Weights

GEMMA2: Final = replace(
    LLAMA,
    family="gemma2",
    norm_mlp="pre_feedforward_layernorm",
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
    weights=Weights(
        qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias=False, norm_bias=False, norms=4, tied=True
    ),
    defaults=(("head_dim", 256), ("num_key_value_heads", 4)),
)
