"""ViT: a bidirectional pre-norm encoder of image patches; position 0 is the class token, which the classifier reads."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tracing.families.adapter import Adapter
from tracing.families.sites import separate
from tracing.families.weights import linear

if TYPE_CHECKING:
    from tracing.families.facts import ModelFacts

VIT: Final = Adapter(
    family="vit",
    backbone="vit",
    embeddings=("vit.embeddings",),
    blocks="vit.layers",
    final_norm="vit.layernorm",
    unembed="classifier",
    norm_attn="layernorm_before",
    attn="attention",
    **separate("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    out_proj="attention.o_proj",
    norm_mlp="layernorm_after",
    mlp="mlp",
    neurons="mlp.fc2",
    walk="rows",
    input_name="pixel_values",
)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Classes stand for the vocabulary, patches and the class token for positions."""
    labels = config.get("id2label")
    side = [int(config.get(key, size)) for key, size in (("image_size", 224), ("patch_size", 16))]
    return {"vocab_size": len(labels) if labels else 2, "max_position_embeddings": (side[0] // side[1]) ** 2 + 1}


def count(facts: "ModelFacts", config: Mapping[str, Any]) -> int:
    """Parameters of ViTForImageClassification."""
    width, norm = facts.d_model, 2 * facts.d_model
    patch = int(config.get("patch_size", 16)) ** 2 * int(config.get("num_channels", 3))
    qkv = 3 * linear(width, width, bool(config.get("qkv_bias", True)))
    block = qkv + linear(width, width) + linear(width, facts.d_mlp) + linear(facts.d_mlp, width) + 2 * norm
    head = linear(width, facts.vocab_size) if config.get("id2label", True) else 0
    return linear(patch, width) + (1 + facts.max_positions) * width + facts.n_layers * block + norm + head
