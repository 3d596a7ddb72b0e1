"""GPT-NeoX, Pythia: attention and MLP in parallel, each behind a LayerNorm; q, k and v side by side in a head."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tracing.families.adapter import Adapter
from tracing.families.sites import PARALLEL_SITES, SEQUENTIAL_SITES, fused
from tracing.families.weights import Weights

GPT_NEOX: Final = Adapter(
    family="gpt_neox",
    backbone="gpt_neox",
    embeddings=("gpt_neox.embed_in",),
    blocks="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    unembed="lm_head",
    norm_attn="input_layernorm",
    attn="attention",
    **fused("attention.query_key_value", "interleaved"),
    out_proj="attention.dense",
    norm_mlp="post_attention_layernorm",
    mlp="mlp",
    neurons="mlp.dense_4h_to_h",
    walk="packed",
    residual="parallel",
    positional=("position_embeddings",),
    weights=Weights(qkv_bias="!attention_bias", out_bias="!attention_bias"),
    sites=PARALLEL_SITES,
)


def variant(config: Mapping[str, Any]) -> Adapter:
    """`use_parallel_residual: false` puts the MLP behind attention."""
    if config.get("use_parallel_residual", True):
        return GPT_NEOX
    return replace(GPT_NEOX, residual="sequential", sites=SEQUENTIAL_SITES)
