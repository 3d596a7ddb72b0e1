"""GPT-2: learned positions, LayerNorm, one fused q|k|v Conv1D (weight `[in, out]`), tied unembedding."""

from typing import Final

from tracing.families.adapter import Adapter
from tracing.families.sites import fused
from tracing.families.weights import Weights

GPT2: Final = Adapter(
    family="gpt2",
    backbone="transformer",
    embeddings=("transformer.wte", "transformer.wpe"),
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm_attn="ln_1",
    attn="attn",
    **fused("attn.c_attn"),
    out_proj="attn.c_proj",
    norm_mlp="ln_2",
    mlp="mlp",
    neurons="mlp.c_proj",
    walk="packed",
    weights=Weights(learned_positions=True, tied=True),
)
