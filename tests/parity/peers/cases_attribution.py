"""Node attribution patching by TransformerLens 4.3.0: gradients in the corrupted run, towards the clean one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

ANSWER, FOIL = 11, 60


def case_nodes(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """Scores `[layer, head, position]` of heads, `[layer, position]` of MLPs, `[position]` of the embedding."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    found = attribution_patch(
        model, given["clean"], given["corrupted"], lambda logits: logits[0, -1, ANSWER] - logits[0, -1, FOIL]
    ).node_scores
    layers, tokens = model.cfg.n_layers, given["clean"].shape[1]
    heads = torch.zeros(layers, model.cfg.n_heads, tokens, dtype=torch.float64)
    mlps, embedding = torch.zeros(layers, tokens, dtype=torch.float64), torch.zeros(tokens, dtype=torch.float64)
    for node, score in found.items():
        if node.kind == "attn_head_out":
            heads[node.layer, node.head, node.position] = score
        elif node.kind == "mlp_out":
            mlps[node.layer, node.position] = score
        else:
            embedding[node.position] = score
    return {"heads": heads, "mlps": mlps, "embedding": embedding}
