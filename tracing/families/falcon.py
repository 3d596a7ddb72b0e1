"""Falcon: three layouts of one family, chosen by the config.

- 7B: one norm, attention and MLP in parallel, one key-value head (`multi_query`);
- new_decoder_architecture (40B, 180B, Falcon 2): parallel with two norms, key-value heads each with their query heads;
- RW: sequential, ALiBi, q, k and v side by side in each head.
In parallel blocks the MLP's output is changed in place after it was returned: attention's is added to it. A value
read there has to be copied at once, which saving does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tracing.families.adapter import Adapter
from tracing.families.sites import PARALLEL_SITES, SEQUENTIAL_SITES, fused
from tracing.families.weights import Weights

QKV: Final = "self_attention.query_key_value"
FALCON: Final = Adapter(
    family="falcon",
    backbone="transformer",
    embeddings=("transformer.word_embeddings",),
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm_attn="input_layernorm",
    attn="self_attention",
    **fused(QKV, "multi_query"),
    out_proj="self_attention.dense",
    mlp="mlp",
    neurons="mlp.dense_4h_to_h",
    walk="packed",
    positional=("position_embeddings",),
    key_bias="alibi",
    residual="parallel",
    block_returns_tuple=True,
    weights=Weights(qkv_bias="bias", out_bias="bias", mlp_bias="bias", norms=1, tied=True),
    sites=PARALLEL_SITES,
)


def variant(config: Mapping[str, Any]) -> Adapter:
    """The layout of one checkpoint."""
    new = bool(config.get("new_decoder_architecture"))
    layout = fused(QKV, "grouped" if new else "multi_query" if config.get("multi_query", True) else "interleaved")
    found = replace(FALCON, **layout)
    if new and config.get("num_ln_in_parallel_attn") in (None, 2):
        return replace(found, norm_attn="ln_attn", norm_mlp="ln_mlp", weights=replace(found.weights, norms=2))
    if new or config.get("parallel_attn", True):
        return found
    found = replace(found, norm_mlp="post_attention_layernorm", weights=replace(found.weights, norms=2))
    return replace(found, residual="sequential", sites=SEQUENTIAL_SITES)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The key-value heads in use: `num_kv_heads` counts only in the new architecture."""
    if config.get("new_decoder_architecture"):
        return {}
    return {"num_kv_heads": 1 if config.get("multi_query", True) else None}
