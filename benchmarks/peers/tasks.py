"""What every contestant does: the sizes, the prompts, the models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

VOCABULARY: Final = 1000
TOKENS: Final = 10
INVOKES: Final = 100
NODES: Final = 1000
NEW_TOKENS: Final = 20
SHAPES: Final[Mapping[str, dict[str, int]]] = {
    "small": {"n_layer": 4, "n_embd": 64, "n_head": 4, "n_positions": 64},
    "deep": {"n_layer": 12, "n_embd": 32, "n_head": 4, "n_positions": 64},
    "wide": {"n_layer": 12, "n_embd": 256, "n_head": 4, "n_positions": 512},
}
"""`small`: the cost of tracing itself. `deep`: the patch sweep. `wide`: memory, 4 MiB a saved layer."""
WIDE_BATCH: Final = 8


class Stop(Exception):
    """Ends a trace before it runs, so that recording alone is measured."""


def _prompts(seed: int, rows: int, tokens: int) -> Tensor:
    return torch.randint(1, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


# Made once, outside of any trace: nnsight 0.4.11 records what torch's factories make inside of one.
CLEAN: Final = _prompts(0, 1, TOKENS)
CORRUPTED: Final = _prompts(1, 1, TOKENS)
MANY: Final = [prompt[None] for prompt in _prompts(2, INVOKES, TOKENS)]
"""A prompt an invoke, each `[1, token]`."""
LONG: Final = _prompts(3, WIDE_BATCH, 512)


def save_models(folder: Path) -> None:
    """Random models and a word tokenizer: speed does not depend on what they are."""
    words = {f"w{n}": n for n in range(VOCABULARY)}
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w0", unk_token="w0"
    )
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        sizes: dict[str, Any] = {**shape, "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
        made: Any = GPT2LMHeadModel(GPT2Config(**sizes))
        made.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
