"""GPT-J: attention and MLP in parallel behind one LayerNorm, rotary positions, an unembedding with bias."""

from typing import Final

from tracing.families.adapter import Adapter
from tracing.families.sites import PARALLEL_SITES, separate
from tracing.families.weights import Weights

GPTJ: Final = Adapter(
    family="gptj",
    backbone="transformer",
    embeddings=("transformer.wte",),
    blocks="transformer.h",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm_attn="ln_1",
    attn="attn",
    **separate("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    out_proj="attn.out_proj",
    mlp="mlp",
    neurons="mlp.fc_out",
    walk="packed",
    positional=("position_ids",),
    residual="parallel",
    block_returns_tuple=True,
    weights=Weights(qkv_bias=False, out_bias=False, norms=1, unembed_bias=True),
    sites=PARALLEL_SITES,
)
