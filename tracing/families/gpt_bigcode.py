"""GPT-BigCode (StarCoder): GPT-2's layout with Linear layers and one key-value head for all query heads."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from tracing.families.adapter import Adapter
from tracing.families.gpt2 import GPT2
from tracing.families.sites import fused

GPT_BIGCODE: Final = replace(
    GPT2,
    family="gpt_bigcode",
    **fused("attn.c_attn", "multi_query"),
)


def variant(config: Mapping[str, Any]) -> Adapter:
    """`multi_query: false` puts q, k and v side by side in each head."""
    if config.get("multi_query", True):
        return GPT_BIGCODE
    return replace(GPT_BIGCODE, **fused("attn.c_attn", "interleaved"))


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configs saved by older versions do not count their key-value heads."""
    return {"num_key_value_heads": 1} if config.get("multi_query", True) else {}
