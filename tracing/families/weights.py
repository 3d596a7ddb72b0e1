"""How many parameters a decoder or encoder block stack has, from sizes and a few facts of the family. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracing.families.adapter import Adapter
    from tracing.families.facts import ModelFacts

Says = bool | str
"""A fact of the family, or the key of the config that decides; a leading "!" means true where the config is silent."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Which parameters exist. Widths come from the model's sizes."""

    qkv_bias: Says = True
    out_bias: Says = True
    mlp_bias: Says = True
    norms: int = 2
    """Norms a block."""
    norm_bias: bool = True
    """LayerNorm has a bias, RMSNorm none."""
    final_norm: bool = True
    embedding_norm: bool = False
    learned_positions: bool = False
    more_positions: int = 0
    """Rows of the position table beyond the longest prompt."""
    qk_norm: str = ""
    """ "head": a norm of d_head numbers each for q and k; "full": over the whole projection."""
    experts: str = ""
    """The config's key for how many MLPs a block has, with a router; "" is one MLP and no router."""
    unembed_bias: bool = False
    tied: bool = False
    """Whether a config that does not say so ties unembedding and embedding."""

    def says(self, name: str, config: Mapping[str, Any]) -> bool:
        """A fact for a model with this config."""
        value: Says = getattr(self, name)
        if isinstance(value, bool):
            return value
        found = config.get(value.removeprefix("!"))
        return value.startswith("!") if found is None else bool(found)


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    """Parameters of a linear map."""
    return inputs * outputs + (outputs if bias else 0)


def count_weights(facts: "ModelFacts", adapter: "Adapter", config: Mapping[str, Any]) -> int:
    """The parameters of a language model that its sizes and `adapter.weights` imply."""
    weights, width = adapter.weights, facts.d_model
    norm = width * (2 if weights.norm_bias else 1)
    tied = bool(config.get("tie_word_embeddings", weights.tied))
    positions = facts.max_positions + weights.more_positions if weights.learned_positions else 0
    return (
        (facts.vocab_size + positions) * width
        + (norm if weights.embedding_norm else 0)
        + facts.n_layers * (_attention(facts, adapter, config) + _mlp(facts, adapter, config) + weights.norms * norm)
        + (norm if weights.final_norm else 0)
        + (0 if tied else facts.vocab_size * width)
        + (facts.vocab_size if weights.unembed_bias else 0)
    )


def _attention(facts: "ModelFacts", adapter: "Adapter", config: Mapping[str, Any]) -> int:
    weights, width = adapter.weights, facts.d_model
    query, key_value = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    bias = weights.says("qkv_bias", config)
    gains = {"": 0, "head": 2 * facts.d_head, "full": query + key_value}[weights.qk_norm]
    return (
        linear(width, query, bias)
        + 2 * linear(width, key_value, bias)
        + linear(query, width, weights.says("out_bias", config))
        + gains * (2 if weights.norm_bias else 1)
    )


def _mlp(facts: "ModelFacts", adapter: "Adapter", config: Mapping[str, Any]) -> int:
    bias = adapter.weights.says("mlp_bias", config)
    one = (2 if adapter.gated_mlp else 1) * linear(facts.d_model, facts.d_mlp, bias)
    one += linear(facts.d_mlp, facts.d_model, bias)
    if not adapter.weights.experts:
        return one
    experts = int(config[adapter.weights.experts])
    return experts * one + linear(facts.d_model, experts, bias=False)
