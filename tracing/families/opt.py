"""OPT: learned positions (two rows more than tokens), LayerNorm, no MLP module: fc2's output is what the MLP adds.

The second half of a block runs on tokens side by side, so resid_mid and mlp_out are `[batch · position, d_model]`
there. Every block has a `final_layer_norm`, which is not the model's. OPT-350M has another layout and is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tracing.errors import ModelError
from tracing.families.adapter import Adapter
from tracing.families.sites import separate
from tracing.families.weights import Weights

OPT: Final = Adapter(
    family="opt",
    backbone="model.decoder",
    embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    blocks="model.decoder.layers",
    final_norm="model.decoder.final_layer_norm",
    unembed="lm_head",
    norm_attn="self_attn_layer_norm",
    attn="self_attn",
    **separate("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out_proj="self_attn.out_proj",
    norm_mlp="final_layer_norm",
    mlp="fc2",
    mlp_parts=("fc1", "activation_fn", "fc2"),
    neurons="fc2",
    walk="packed",
    flat=("resid_mid", "mlp_out"),
    weights=Weights(
        qkv_bias="!enable_bias", out_bias="!enable_bias", mlp_bias="!enable_bias",
        learned_positions=True, more_positions=2, tied=True,
    ),
)  # fmt: skip


def variant(config: Mapping[str, Any]) -> Adapter:
    """Raises `ModelError` for checkpoints whose embedding is narrower than the model or that norm after (OPT-350M)."""
    width = config.get("hidden_size")
    if config.get("word_embed_proj_dim", width) not in (None, width) or config.get("do_layer_norm_before") is False:
        raise ModelError(
            "This OPT checkpoint projects its embedding or norms after each sublayer, as only OPT-350M does.",
            remedy="Use raw module paths, or another OPT size.",
        )
    return replace(OPT, final_norm="") if config.get("_remove_final_layer_norm") else OPT
