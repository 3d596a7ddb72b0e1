"""GPT-2 with every edge written out: each reader gets its own sum of sources, plus a mask times a change, per edge.

Slow and small, from the weights alone: the definition that edge attribution's methods are compared with. Scores are
gradients of the metric at the masks, by autograd.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Override = dict[int, Tensor]
"""Rows of sources whose write is replaced, `[pair, T, d_model]`."""


@dataclass
class WrittenOut:
    """A transformers GPT-2 and its sizes."""

    module: nn.Module

    def __post_init__(self) -> None:
        config: Any = self.module.config
        self.layers, self.heads, self.width = config.n_layer, config.n_head, config.n_embd
        self.d = self.width // self.heads

    def run(
        self, ids: Tensor, mask: Tensor | None = None, change: Tensor | None = None, patched: Tensor | None = None,
        override: Override | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits at the last position and all writes `[source, pair, T, d_model]`.

        `mask` `[source, reader]` times `change[source]`, or times `patched[source]` minus the live write, is added to
        what the reader gets of that source.
        """
        body: Any = self.module.transformer
        override = override or {}
        live = [override.get(0, body.wte(ids))]
        rest = body.wpe.weight[: ids.shape[1]].expand_as(live[0])
        column = 0

        def stream() -> Tensor:
            nonlocal column
            total = rest
            for s, write in enumerate(live):
                total = total + write
                if mask is not None:
                    moved = change[s] if change is not None else patched[s] - write
                    total = total + mask[s, column] * moved
            column += 1
            return total

        for block in body.h:
            parts = {letter: [] for letter in "qkv"}
            weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
            for n, letter in enumerate("qkv"):
                for head in range(self.heads):
                    lo = n * self.width + head * self.d
                    columns = slice(lo, lo + self.d)
                    parts[letter].append(block.ln_1(stream()) @ weight[:, columns] + bias[columns])
            writes = []
            for head in range(self.heads):
                q, k, v = (parts[letter][head] for letter in "qkv")
                z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                writes.append(z @ block.attn.c_proj.weight[head * self.d : (head + 1) * self.d])
            for write in writes:
                live.append(override.get(len(live), write))
            rest = rest + block.attn.c_proj.bias
            live.append(override.get(len(live), block.mlp(block.ln_2(stream()))))
        logits = self.module.lm_head(body.ln_f(stream()))[:, -1]
        return logits, torch.stack(live)

    def slopes(self, ids: Tensor, metric: Any, at: float, **options: Any) -> Tensor:
        """∂(mean metric)/∂(every mask) where all masks are `at`, `[source, reader]`; 0 where there is no edge."""
        n_sources = 1 + self.layers * (self.heads + 1)
        n_readers = self.layers * (3 * self.heads + 1) + 1
        mask = torch.full((n_sources, n_readers), at, dtype=torch.float64, requires_grad=True)
        metric(self.run(ids, mask, **options)[0]).mean().backward()
        assert mask.grad is not None
        return mask.grad
