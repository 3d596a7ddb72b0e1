"""Tiny random decoders and prompt pairs for the numerical tests: built from configs in memory, from a seed."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

VOCABULARY: Final = 97


def gpt2(**overrides: Any) -> nn.Module:
    """Three layers, four heads, width 32."""
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    return _random(GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, **{**sizes, **overrides}))


def llama(**overrides: Any) -> nn.Module:
    """Three layers, four query heads over two key-value heads, and heads wider than width / heads."""
    sizes = {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "head_dim": 16,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
    }
    return _random(LlamaForCausalLM, LlamaConfig(vocab_size=VOCABULARY, **{**sizes, **overrides}))


FAMILIES: Final[dict[str, Callable[..., nn.Module]]] = {"gpt2": gpt2, "llama": llama}


def language_model(family: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> LanguageModel:
    """A wrapped tiny decoder; the same arguments give the same weights."""
    return LanguageModel(FAMILIES[family](**overrides), dtype=dtype)


def _random(kind: Any, config: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = kind(config)
        with torch.no_grad():
            for parameter in module.parameters():
                # Large enough that every patch moves the logits far above rounding.
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def pair(
    clean: list[int], corrupted: list[int], answer: tuple[int, ...], foil: tuple[int, ...] = (), number: int = 1
) -> TokenizedPair:
    """A tokenized pair from ids; each token's text is its number."""
    return TokenizedPair(
        number, tuple(clean), tuple(corrupted), tuple(map(str, clean)), tuple(map(str, corrupted)), answer, foil
    )


def pairs(count: int = 5, *, lengths: tuple[int, ...] = (5, 6, 8)) -> list[TokenizedPair]:
    """Pairs of unequal lengths that differ at one or two positions, with one or two answers."""
    rng = np.random.default_rng(7)
    found = []
    for n in range(count):
        length = lengths[n % len(lengths)]
        clean = rng.integers(0, VOCABULARY, length).tolist()
        corrupted = list(clean)
        for position in {int(rng.integers(0, length - 1)), int(rng.integers(1, length))}:
            corrupted[position] = (clean[position] + 1 + int(rng.integers(50))) % VOCABULARY
        answer = (n, n + 20) if n % 2 else (n,)
        found.append(pair(clean, corrupted, answer, (n + 40,), n + 1))
    return found
