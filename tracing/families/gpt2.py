"""GPT-2: learned positions, LayerNorm, one fused q|k|v Conv1D (weight `[in, out]`), tied unembedding."""

from typing import Final

from tracing.families.adapter import Adapter, HeadSlice

GPT2: Final = Adapter(
    family="gpt2",
    backbone="transformer",
    embeddings=("transformer.wte", "transformer.wpe"),
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm_attn="ln_1",
    attn="attn",
    q=HeadSlice("attn.c_attn", 0, 3),
    k=HeadSlice("attn.c_attn", 1, 3),
    v=HeadSlice("attn.c_attn", 2, 3),
    out_proj="attn.c_proj",
    norm_mlp="ln_2",
    mlp="mlp",
    learned_positions=True,
    tied_by_default=True,
)
