"""LLaMA: rotary positions, RMSNorm, separate projections, gated MLP, grouped-query attention.

z has the query heads, k and v the key-value heads, and `head_dim` of the config need not be d_model / n_heads.
"""

from typing import Final

from tracing.families.adapter import Adapter, HeadSlice

LLAMA: Final = Adapter(
    family="llama",
    backbone="model",
    embeddings=("model.embed_tokens",),
    blocks="model.layers",
    final_norm="model.norm",
    unembed="lm_head",
    norm_attn="input_layernorm",
    attn="self_attn",
    q=HeadSlice("self_attn.q_proj"),
    k=HeadSlice("self_attn.k_proj"),
    v=HeadSlice("self_attn.v_proj"),
    out_proj="self_attn.o_proj",
    norm_mlp="post_attention_layernorm",
    mlp="mlp",
    positional=("position_embeddings",),
    gated_mlp=True,
    biases=("attention_bias", "mlp_bias"),
    norm_bias=False,
)
