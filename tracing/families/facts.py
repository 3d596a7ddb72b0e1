"""What is known of a model from its config.json alone: sizes, parameter count, sites. Never loads torch.

Config keys have aliases across families (`hidden_size`, `n_embd`), and defaults hide traps: `head_dim` need not be
`hidden_size / num_attention_heads`, a missing or null `n_inner` means 4 × width, a missing number of key-value heads
means as many as query heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracing.errors import ModelError
from tracing.families.adapter import Adapter
from tracing.families.registry import adapter_of


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the catalog knows of a model without loading it (from its config.json)."""

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    vocab_size: int
    max_positions: int
    n_params: int


def sites_of_family(family: str) -> tuple[str, ...]:
    """Names of the standard sites that blocks of this family have. Raises `ModelError` for an unknown family."""
    return adapter_of(family).sites


def model_facts(config: Mapping[str, Any]) -> ModelFacts:
    """Sizes from a parsed config.json. Raises `ModelError` for an unknown family or a config that lacks a size."""
    family = str(config.get("model_type", ""))
    adapter = adapter_of(family)
    d_model = _size(config, "hidden_size", "n_embd")
    n_heads = _size(config, "num_attention_heads", "n_head")
    facts = ModelFacts(
        family=family,
        n_layers=_size(config, "num_hidden_layers", "n_layer"),
        n_heads=n_heads,
        n_kv_heads=_size(config, "num_key_value_heads", default=n_heads),
        d_model=d_model,
        d_head=_size(config, "head_dim", default=d_model // n_heads),
        d_mlp=_size(config, "intermediate_size", "n_inner", default=4 * d_model),
        vocab_size=_size(config, "vocab_size"),
        max_positions=_size(config, "max_position_embeddings", "n_positions"),
        n_params=0,
    )
    return _with_params(facts, adapter, config)


def _size(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if value is not None:
            return int(value)
    if default is None:
        raise ModelError(
            f"The model's config.json does not say its {' (or '.join(names)}{')' * (len(names) - 1)}.",
            remedy="Save the model again with save_pretrained of a current transformers version.",
        )
    return default


def _with_params(facts: ModelFacts, adapter: Adapter, config: Mapping[str, Any]) -> ModelFacts:
    """`facts` with the parameter count that its sizes imply."""
    width, query, key_value = facts.d_model, facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    attention_bias, mlp_bias = adapter.has_biases(config)
    projections = 3 if adapter.gated_mlp else 2
    norm = width * (2 if adapter.norm_bias else 1)
    block = (
        2 * width * query
        + 2 * width * key_value
        + (query + 2 * key_value + width if attention_bias else 0)
        + projections * width * facts.d_mlp
        + ((projections - 1) * facts.d_mlp + width if mlp_bias else 0)
        + 2 * norm
    )
    tied = bool(config.get("tie_word_embeddings", adapter.tied_by_default))
    total = (
        facts.vocab_size * width * (1 if tied else 2)
        + (facts.max_positions * width if adapter.learned_positions else 0)
        + facts.n_layers * block
        + norm
    )
    values = {name: getattr(facts, name) for name in ModelFacts.__slots__}
    return ModelFacts(**{**values, "n_params": total})
