"""The tiny model of the tests: a random GPT-2 with a word tokenizer, saved as safetensors, made from a seed.

Making it loads torch, so tests that only need rows use `CONFIG` and `pairs`, and a worker's tests call `make`.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, models, pre_tokenizers

from tracing.prompts import PromptPair

ROOT_ALIAS: Final = "tests"
FOLDER: Final = "tiny"
NAMES: Final = ("Mary", "John", "Anna", "Paul", "Lisa", "Mark", "Rosa", "Hugo")
WORDS: Final = ("When", "and", "went", "to", "the", "store", "gave", "a", "drink", "park", "saw", "book")
VOCABULARY: Final = ("<unk>", *NAMES, *WORDS)
CONFIG: Final[dict[str, Any]] = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": len(VOCABULARY),
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": True,
}


def pairs(count: int) -> list[PromptPair]:
    """Token-aligned pairs of thirteen tokens: who gets the drink depends on who gave it."""
    found = []
    for n in range(count):
        first, second = NAMES[n % len(NAMES)], NAMES[(n + 1 + n // len(NAMES)) % len(NAMES)]
        stem = f"When {first} and {second} went to the store"
        found.append(
            PromptPair(
                clean=f"{stem} {second} gave a drink to",
                corrupted=f"{stem} {first} gave a drink to",
                answer=(first,),
                foil=(second,),
            )
        )
    return found


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer without special tokens, as tokenizer.json."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def hashes(folder: Path) -> dict[str, Any]:
    """The hashes registering a model folder stores, by column of `ModelSource`."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    return {
        "weights_sha256": {name: sha for name, sha in found.items() if name.endswith(".safetensors")},
        "tokenizer_sha256": found["tokenizer.json"],
        "config_sha256": found["config.json"],
    }


def make(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Save model and tokenizer under `folder`; the same seed and sizes give the same bytes."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    write_tokenizer(folder)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**{**CONFIG, **overrides}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2) if parameter.dim() > 1 else None
    model.save_pretrained(folder)
    return folder
