"""LLaMA: rotary positions, RMSNorm, separate projections, gated MLP, grouped-query attention.

z has the query heads, k and v the key-value heads, and `head_dim` of the config need not be d_model / n_heads.
"""

from typing import Final

from tracing.families.adapter import Adapter
from tracing.families.sites import separate
from tracing.families.weights import Weights

LLAMA: Final = Adapter(
    family="llama",
    backbone="model",
    embeddings=("model.embed_tokens",),
    blocks="model.layers",
    final_norm="model.norm",
    unembed="lm_head",
    norm_attn="input_layernorm",
    attn="self_attn",
    **separate("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out_proj="self_attn.o_proj",
    norm_mlp="post_attention_layernorm",
    mlp="mlp",
    neurons="mlp.down_proj",
    walk="packed",
    positional=("position_embeddings",),
    gated_mlp=True,
    weights=Weights(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", norm_bias=False),
)
