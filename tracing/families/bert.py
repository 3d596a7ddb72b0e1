"""BERT: an encoder that norms after each sublayer: resid_mid = LN(resid_pre + attn_out), resid_post = LN(resid_mid +
mlp_out). The residual stream is therefore not a sum over layers; each block's two identities hold.

`attention.self` returns the heads' z side by side; W_O is `attention.output.dense`. The MLP is `intermediate` and
`output.dense`. There is no final norm; the head of masked language models has its own transform and norm.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tracing.families.adapter import Adapter
from tracing.families.sites import separate
from tracing.families.weights import linear

if TYPE_CHECKING:
    from tracing.families.facts import ModelFacts

BERT: Final = Adapter(
    family="bert",
    backbone="bert",
    embeddings=("bert.embeddings",),
    blocks="bert.encoder.layer",
    unembed="cls.predictions",
    attn="attention.self",
    **separate("attention.self.query", "attention.self.key", "attention.self.value"),
    out_proj="attention.output.dense",
    mlp="output.dense",
    mlp_parts=("intermediate", "output.dense"),
    neurons="output.dense",
    walk="rows",
    attn_out="attention.output.dense",
    mid=("attention.output.LayerNorm", "output"),
    residual="post_norm",
    norm_after=("attention.output.LayerNorm", "output.LayerNorm"),
)


def count(facts: "ModelFacts", config: Mapping[str, Any]) -> int:
    """Parameters of BertForMaskedLM, without a pooler."""
    width, norm = facts.d_model, 2 * facts.d_model
    tables = facts.vocab_size + facts.max_positions + int(config.get("type_vocab_size", 2))
    block = 4 * linear(width, width) + linear(width, facts.d_mlp) + linear(facts.d_mlp, width) + 2 * norm
    head = linear(width, width) + norm + facts.vocab_size
    untied = 0 if config.get("tie_word_embeddings", True) else facts.vocab_size * width
    return tables * width + norm + facts.n_layers * block + head + untied
