"""What is swept: prompts, cells, and the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY: Final = 50257
ANSWER, FOIL = 11, 13
SHAPES: Final[Mapping[str, dict[str, int]]] = {
    "tiny": {"n_layer": 3, "n_head": 4, "n_embd": 64},
    "small": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
}


@dataclass(frozen=True, slots=True)
class Task:
    """A sweep: its site, the axes beside the layer, and the size of its prompts."""

    title: str
    site: str
    axes: tuple[str, ...]
    tokens: int = 16
    pairs: int = 1

    def cells(self, layers: int, heads: int) -> list[tuple[int, ...]]:
        """(layer, …) of every cell, row by row."""
        sizes = {"position": self.tokens, "head": heads}
        return list(product(range(layers), *(range(sizes[axis]) for axis in self.axes)))

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Clean and corrupted ids, `[pair, token]`."""
        generator = torch.Generator().manual_seed(0)
        clean, corrupted = (torch.randint(20, 50_000, (self.pairs, self.tokens), generator=generator) for _ in range(2))
        return clean, torch.where(corrupted == clean, corrupted + 1, corrupted)


TASKS: Final[Mapping[str, Task]] = {
    "resid": Task("resid_pre, layer × position", "resid_pre", ("position",)),
    "heads": Task("z, layer × head", "z", ("head",)),
    "heads_positions": Task("z, layer × head × position", "z", ("head", "position")),
    "pairs": Task("resid_pre, layer × position", "resid_pre", ("position",), pairs=16),
    "long": Task("resid_pre, layer × position", "resid_pre", ("position",), tokens=64),
}


def network(shape: str, device: str, dtype: str) -> Any:
    """A random GPT-2; speed does not depend on what its weights are."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, **SHAPES[shape]}
    made: Any = GPT2LMHeadModel(GPT2Config(**sizes))
    return made.to(device, getattr(torch, dtype)).eval().requires_grad_(False)


def logit_difference(logits: Tensor) -> Tensor:
    """Of the last logits `[…, vocab]`, in float32."""
    return (logits[..., ANSWER] - logits[..., FOIL]).float()
