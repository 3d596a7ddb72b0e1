"""Phi: attention and MLP in parallel behind one LayerNorm, rotation of half a head, biases everywhere."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tracing.families.adapter import Adapter
from tracing.families.sites import PARALLEL_SITES, separate
from tracing.families.weights import Weights

PHI: Final = Adapter(
    family="phi",
    backbone="model",
    embeddings=("model.embed_tokens",),
    blocks="model.layers",
    final_norm="model.final_layernorm",
    unembed="lm_head",
    norm_attn="input_layernorm",
    attn="self_attn",
    **separate("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out_proj="self_attn.dense",
    mlp="mlp",
    neurons="mlp.fc2",
    walk="packed",
    residual="parallel",
    positional=("position_embeddings",),
    weights=Weights(norms=1, unembed_bias=True),
    sites=PARALLEL_SITES,
)


def variant(config: Mapping[str, Any]) -> Adapter:
    """Some configs norm each head's query and key (`qk_layernorm`); the sites are the same."""
    if not config.get("qk_layernorm"):
        return PHI
    norms = ("self_attn.q_layernorm", "self_attn.k_layernorm")
    return replace(PHI, qk_norm=norms, weights=replace(PHI.weights, qk_norm="head"))
