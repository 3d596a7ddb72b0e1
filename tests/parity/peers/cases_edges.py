"""EAP by TransformerLens 4.3.0: gradients in the corrupted run, towards the clean one, an edge a position."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.peers.layout import Layout

ANSWER, FOIL = 11, 60
LETTERS = {"q_input": 0, "k_input": 1, "v_input": 2}


def case_edges(model: Any, at: Layout, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """Scores `[position, source, reader]`, sources and readers in EAP-IG's order."""
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    found = attribution_patch(
        model, given["clean"], given["corrupted"], lambda logits: logits[0, -1, ANSWER] - logits[0, -1, FOIL],
        EdgeAttributionConfig(granularity="edge"),
    ).edge_scores  # fmt: skip
    layers, heads, tokens = model.cfg.n_layers, model.cfg.n_heads, given["clean"].shape[1]
    scores = torch.zeros(tokens, 1 + layers * (heads + 1), layers * (3 * heads + 1) + 1, dtype=torch.float64)
    for (source, reader), score in found.items():
        row = 0
        if source.kind != "embed":
            row = 1 + source.layer * (heads + 1) + (heads if source.kind == "mlp_out" else source.head)
        column = -1
        if reader.kind != "logits":
            part = 3 * heads if reader.kind == "mlp_in" else LETTERS[reader.kind] * heads + reader.head
            column = reader.layer * (3 * heads + 1) + part
        scores[reader.position, row, column] = score
    return {"scores": scores}
