"""BLOOM: ALiBi, a LayerNorm behind the embedding, q, k and v side by side in each head.

Attention and MLP add the residual stream inside, so the module `self_attention` returns resid_mid and `mlp` returns
resid_post; what they add is the output of their last dense layers.
"""

from typing import Final

from tracing.families.adapter import Adapter
from tracing.families.sites import fused
from tracing.families.weights import Weights

BLOOM: Final = Adapter(
    family="bloom",
    backbone="transformer",
    embeddings=("transformer.word_embeddings_layernorm",),
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm_attn="input_layernorm",
    attn="self_attention",
    **fused("self_attention.query_key_value", "interleaved"),
    out_proj="self_attention.dense",
    norm_mlp="post_attention_layernorm",
    mlp="mlp",
    mlp_parts=("mlp.dense_h_to_4h", "mlp.gelu_impl", "mlp.dense_4h_to_h"),
    neurons="mlp.dense_4h_to_h",
    walk="packed",
    key_bias="alibi",
    attn_out="self_attention.dense",
    mlp_out="mlp.dense_4h_to_h",
    mid=("self_attention", "output"),
    block_returns_tuple=True,
    weights=Weights(embedding_norm=True, tied=True),
    defaults=(("seq_length", 2048),),
)
