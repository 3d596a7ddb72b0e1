"""Gemma 3: Gemma 2's layout with an RMSNorm over each head's query and key, no softcaps by default.

`gemma3_text` is the language model alone. `gemma3` has it beside a vision tower, whose image tokens go through the
same blocks; its standard sites are the language model's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tracing.families.gemma2 import GEMMA2
from tracing.families.weights import count_weights, linear

if TYPE_CHECKING:
    from tracing.families.facts import ModelFacts

GEMMA3: Final = replace(
    GEMMA2,
    family="gemma3_text",
    qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
    weights=replace(GEMMA2.weights, qk_norm="head"),
)
GEMMA3_VISION: Final = replace(
    GEMMA3,
    family="gemma3",
    backbone="model",
    embeddings=("model.language_model.embed_tokens",),
    blocks="model.language_model.layers",
    final_norm="model.language_model.norm",
)


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's."""
    return dict(config["text_config"])


def count(facts: "ModelFacts", config: Mapping[str, Any]) -> int:
    """Parameters of Gemma3ForConditionalGeneration: language model, vision tower (SigLIP) and projection."""
    vision = config["vision_config"]
    width, inner, layers = (int(vision[key]) for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    patch, norm = int(vision["patch_size"]), 2 * width
    block = 4 * linear(width, width) + linear(width, inner) + linear(inner, width) + 2 * norm
    tower = linear(patch**2 * int(vision.get("num_channels", 3)), width) + layers * block + norm
    tower += (int(vision["image_size"]) // patch) ** 2 * width
    return count_weights(facts, GEMMA3_VISION, config) + tower + width * facts.d_model + width
