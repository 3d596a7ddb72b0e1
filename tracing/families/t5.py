"""T5: an encoder and a decoder, at block level. Sites without prefix are the decoder's, those of the encoder begin with
`encoder_`: `sites.resid_post[1]` and `sites.encoder_resid_post[1]`. A decoder block adds three contributions, attn_out,
cross_out (attention to the encoder) and mlp_out; an encoder block adds attn_out and mlp_out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tracing.families.adapter import Adapter
from tracing.families.weights import linear

if TYPE_CHECKING:
    from tracing.families.facts import ModelFacts

ENCODER: Final = Adapter(
    family="t5",
    backbone="encoder",
    embeddings=("encoder.embed_tokens",),
    blocks="encoder.block",
    final_norm="encoder.final_layer_norm",
    block_returns_tuple=True,
    attn_out="layer.0.SelfAttention.o",
    mlp_out="layer.1.DenseReluDense",
    sites=("embed", "resid_pre", "resid_post", "attn_out", "mlp_out"),
)
T5: Final = replace(
    ENCODER,
    backbone="",
    walk="rows",
    neurons="layer.2.DenseReluDense.wo",
    embeddings=("decoder.embed_tokens",),
    blocks="decoder.block",
    final_norm="decoder.final_layer_norm",
    unembed="lm_head",
    mlp_out="layer.2.DenseReluDense",
    others=(("cross_out", "layer.1.EncDecAttention.o"),),
    encoder=ENCODER,
    sites=("embed", "resid_pre", "resid_post", "attn_out", "cross_out", "mlp_out", "logits"),
    defaults=(("n_positions", 512), ("is_encoder_decoder", True)),
)


def count(facts: "ModelFacts", config: Mapping[str, Any]) -> int:
    """Parameters of T5ForConditionalGeneration, which ties all its embeddings."""
    width, inner = facts.d_model, facts.n_heads * facts.d_head
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    attention = 4 * linear(width, inner, bias=False) + width
    mlp = (3 if gated else 2) * width * facts.d_mlp + width
    blocks = facts.n_encoder_layers * (attention + mlp) + facts.n_layers * (2 * attention + mlp)
    buckets = 2 * int(config.get("relative_attention_num_buckets", 32)) * facts.n_heads
    return facts.vocab_size * width + blocks + buckets + 2 * width
