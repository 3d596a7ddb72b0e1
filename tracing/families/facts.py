"""What is known of a model from its config.json alone: sizes, parameter count, sites. Never loads torch.

Config keys have aliases across families (`hidden_size`, `n_embd`), and defaults hide traps: `head_dim` need not be
`hidden_size / num_attention_heads`, a missing or null `n_inner` means 4 × width, a missing number of key-value heads
means as many as query heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tracing.errors import ModelError
from tracing.families.registry import adapter_of, families, family_of
from tracing.families.weights import count_weights

WIDTH: Final = ("hidden_size", "n_embd", "d_model")
HEADS: Final = ("num_attention_heads", "n_head", "num_heads")
LAYERS: Final = ("num_hidden_layers", "n_layer", "num_decoder_layers", "num_layers")
KEY_VALUE_HEADS: Final = ("num_key_value_heads", "num_kv_heads")
HEAD_WIDTH: Final = ("head_dim", "d_kv")
MLP_WIDTH: Final = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
POSITIONS: Final = ("max_position_embeddings", "n_positions", "seq_length")


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
    n_encoder_layers: int = 0
    n_active: int = 1
    """How many of a block's MLPs a token goes through: the experts that the router picks, of a mixture."""


def sites_of_family(family: str) -> tuple[str, ...]:
    """Names of the standard sites that blocks of this family have. Raises `ModelError` for an unknown family."""
    return adapter_of(family).all_sites


def is_sweepable(family: str) -> bool:
    """Whether `tracing.patching` can sweep this family's blocks; False for an unknown family."""
    return family in families() and bool(adapter_of(family).walk)


def model_facts(config: Mapping[str, Any]) -> ModelFacts:
    """Sizes from a parsed config.json. Raises `ModelError` for an unknown family or a config that lacks a size."""
    name = str(config.get("model_type", ""))
    family, adapter = family_of(name), adapter_of(name, config)
    config = {**dict(adapter.defaults), **config}
    config |= family.sizes(config) if family.sizes else {}
    active = _size(config, "num_experts_per_tok", default=1) if adapter.weights.experts else 1
    facts = ModelFacts(family=name, n_params=0, n_active=active, **_sizes(config))
    return replace(
        facts, n_params=family.count(facts, config) if family.count else count_weights(facts, adapter, config)
    )


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    d_model = _size(config, *WIDTH)
    n_heads = _size(config, *HEADS)
    return {
        "n_layers": _size(config, *LAYERS),
        "n_heads": n_heads,
        "n_kv_heads": _size(config, *KEY_VALUE_HEADS, default=n_heads),
        "d_model": d_model,
        "d_head": _size(config, *HEAD_WIDTH, default=d_model // max(1, n_heads)),
        "d_mlp": _size(config, *MLP_WIDTH, default=4 * d_model),
        "vocab_size": _size(config, "vocab_size"),
        "max_positions": _size(config, *POSITIONS),
        "n_encoder_layers": _size(config, "num_layers", default=0) if config.get("is_encoder_decoder") else 0,
    }


def _size(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if value is not None:
            return int(value)
    if default is None:
        raise ModelError(
            f"The model's config does not say its {' (or '.join(names[:2])}{')' * (len(names[:2]) - 1)}.",
            remedy="Add it to module.config, of a module of your own; where it is the config.json of a saved model, "
            "save that again with save_pretrained of a current transformers version.",
        )
    return default
