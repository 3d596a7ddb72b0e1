"""Mamba: a state space model, one mixer a block: resid_post = resid_pre + mixer_out. No heads, no attention, no MLP.

With `residual_in_fp32` the stream is rounded to float32 on its way, so in float64 the identity holds to 1e-7 only.
"""

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from tracing.families.adapter import Adapter
from tracing.families.weights import linear

if TYPE_CHECKING:
    from tracing.families.facts import ModelFacts

MAMBA: Final = Adapter(
    family="mamba",
    backbone="backbone",
    embeddings=("backbone.embeddings",),
    blocks="backbone.layers",
    final_norm="backbone.norm_f",
    unembed="lm_head",
    walk="rows",
    others=(("mixer_out", "mixer"),),
    defaults=(("num_attention_heads", 0), ("head_dim", 0), ("max_position_embeddings", 2**20)),
    sites=("embed", "resid_pre", "resid_post", "mixer_out", "logits"),
)


def count(facts: "ModelFacts", config: Mapping[str, Any]) -> int:
    """Parameters of MambaForCausalLM."""
    width, state = facts.d_model, int(config.get("state_size", 16))
    inner = int(config.get("expand", 2)) * width
    step = config.get("time_step_rank", "auto")
    rank = ceil(width / 16) if step == "auto" else int(step)
    bias = bool(config.get("use_bias"))
    convolution = inner * int(config.get("conv_kernel", 4)) + (inner if config.get("use_conv_bias", True) else 0)
    mixer = linear(width, 2 * inner, bias) + linear(inner, rank + 2 * state, bias=False) + linear(rank, inner)
    mixer += linear(inner, width, bias) + inner * state + inner
    unembed = 0 if config.get("tie_word_embeddings", True) else facts.vocab_size * width
    return facts.vocab_size * width + facts.n_layers * (mixer + convolution + width) + width + unembed
