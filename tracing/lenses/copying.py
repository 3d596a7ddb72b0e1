"""Does a head copy? From the weights alone: does attending to a token raise that token's own logit?

A head that attends to a token with embedding row e adds e W_V W_O W_U to the logits, so its full OV circuit is the
matrix W_E W_V W_O W_U, `[vocab, vocab]`, whose diagonal says how much each token raises itself. With λ its eigenvalues,

    copying = Σ λ / Σ |λ|

is 1 where it copies and −1 where it suppresses (Elhage et al. 2021). Its nonzero eigenvalues are those of
W_O (W_U W_E) W_V, `[d_head, d_head]`, so nothing as large as the vocabulary squared is formed. The gains of the norm
before attention and of the final norm are multiplied in; their scales, centring and biases, and norms behind attention,
are left out, as are all earlier layers: it is a look at a head's direct path from the embedding.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracing.errors import SiteError
from tracing.families.identities import output_weight
from tracing.graph.lens import get
from tracing.lenses.frozen import FrozenNorm
from tracing.lenses.readout import Readout
from tracing.models.pretrained import Pretrained


def copying_scores(model: Pretrained) -> NDArray[np.float64]:
    """`[layer, head]`, −1 … 1. Computed in float64.

    Raises `SiteError` for models without heads, token embeddings or a linear unembedding of the residual stream.
    """
    adapter, facts = model.adapter, model.facts
    readout = Readout(model)
    embedding = getattr(model.module, "get_input_embeddings", lambda: None)()
    if "z" not in adapter.sites or not readout.linear or not isinstance(embedding, nn.Embedding):
        raise SiteError(
            f"Heads of {model.family} have no direct path from a token's embedding to its logit.",
            remedy="Use the detectors of attention: previous_token, duplicate_token, induction.",
        )
    found = np.zeros((facts.n_layers, facts.n_heads))
    with torch.inference_mode():
        assert isinstance(readout.unembed, nn.Linear)
        words, unembed = embedding.weight.double(), readout.unembed.weight.double()
        size = min(len(words), len(unembed))
        outer = gain(readout.norm, words.shape[1], words)
        between = (unembed[:size] * outer).T @ words[:size]  # W_U W_E, [d_model, d_model]
        for layer, block in enumerate(model.block_modules):
            norm = block.get_submodule(adapter.norm_attn) if adapter.norm_attn else None
            values = value_weight(model, block) * gain(norm, words.shape[1], words)[:, None, None]
            writes = output_weight(block.get_submodule(adapter.out_proj)).double()
            writes = writes.reshape(facts.n_heads, facts.d_head, -1)
            values = values.repeat_interleave(facts.n_heads // values.shape[1], 1)
            inner = torch.einsum("hdm,mn,nhe->hde", writes, between, values)
            eigenvalues = torch.linalg.eigvals(inner)
            score = eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1).clamp_min(1e-300)
            found[layer] = score.cpu().numpy()
    return found


def value_weight(model: Pretrained, block: nn.Module) -> Tensor:
    """W_V of a block, `[d_model, kv_head, d_head]`, float64."""
    facts, where = model.facts, model.adapter.v
    weight = output_weight(block.get_submodule(where.path)).double()
    found: Tensor = get(weight, where.steps(facts.n_heads, facts.n_kv_heads, facts.d_head))
    return found


def gain(norm: nn.Module | None, width: int, like: Tensor) -> Tensor:
    """The gain of a norm, `[d_model]`; ones where there is none."""
    if norm is None:
        return torch.ones(width, dtype=like.dtype, device=like.device)
    return FrozenNorm.of(norm).gain
