"""What a text model takes, read off its module: optional inputs, sizes, limits, and what padding may change."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.utils.generic import TransformersKwargs

from tracing.families import config_of


@dataclass(frozen=True, slots=True)
class TextRules:
    """What a text model takes and how far it reaches."""

    pad_id: int = 0
    """Stands in padding, where it is masked."""
    takes: frozenset[str] = frozenset({"attention_mask", "position_ids", "use_cache"})
    """Which of the optional inputs the forward takes."""
    first_position: int = 0
    """The position id of a first token."""
    vocab_size: int | None = None
    max_positions: int | None = None
    """Longest prompt, for models with a table of absolute positions."""
    sizes: Collection[int] = frozenset()
    """Every other size of the model, which a padded length must not equal."""
    decoder_start: int | None = None
    """The first id of an encoder-decoder's decoder, used where an invoke gives no decoder input."""
    encoder_decoder: bool = False
    shifted_labels: bool = True
    """Whether the loss compares a label with the logits one position before it."""
    refusal: Callable[[], str] = str
    """Why prompts of unequal lengths cannot be one batch on this model; "" where they can."""


OPTIONAL: Final = ("attention_mask", "position_ids", "use_cache")

POSITION_TABLES: Final = ("wpe", "position_embeddings", "embed_positions", "position_embedding", "pos_embed")
"""Names under which models keep one learned vector (or a computed one) for each absolute position."""

PADS_EXACTLY: Final = frozenset({
    "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "phi3", "opt", "olmo2", "mixtral",
    "bloom", "falcon", "gpt_bigcode", "gpt_neox", "gptj", "mamba", "bert", "roberta", "distilbert", "t5",
})  # fmt: skip
"""Model types on which padding on the left with a mask is known to change no value; others are measured."""

GENERATE_ARGUMENTS: Final = frozenset({
    "generation_config", "logits_processor", "stopping_criteria", "streamer", "assistant_model", "tokenizer",
})  # fmt: skip
"""What `generate` takes besides the fields of a GenerationConfig and the inputs of the forward."""

HEADS: Final = ("num_attention_heads", "n_head", "num_heads", "n_heads")
WIDTHS: Final = ("hidden_size", "n_embd", "d_model")

ALLOWED: Final = 1e-3
"""Largest change of logits by padding that is rounding, relative to their largest, in 32 and 64 bits."""
ALLOWED_IN_16_BITS: Final = 5e-2


def forward_parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's forward, without `self`; accelerate's wrappers are looked through."""
    found = dict(inspect.signature(type(module).forward).parameters)
    return dict(list(found.items())[1:])


def accepted_keywords(module: nn.Module) -> frozenset[str] | None:
    """Keyword arguments that the forward understands; None where it takes any and does not say which.

    What a transformers model takes as `**kwargs` goes down to its backbone and its layers.
    """
    parameters = forward_parameters(module)
    names = {name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return frozenset(names)
    inner = getattr(module, "base_model", None)
    if not isinstance(inner, nn.Module):
        return None
    return frozenset(names | forward_parameters(inner).keys() | TransformersKwargs.__annotations__.keys()) - {"kwargs"}


@cache
def generation_names() -> frozenset[str]:
    """Keyword arguments of every generation, besides the inputs of the forward."""
    config: Any = GenerationConfig
    return frozenset(name for name in vars(config()) if not name.startswith("_")) | GENERATE_ARGUMENTS


def rules_of(module: nn.Module, refusal: Callable[[], str]) -> TextRules:
    """The rules of a text model. `refusal` is asked when prompts of unequal lengths come up."""
    config = config_of(module)
    accepted = accepted_keywords(module)
    vocab_size = _vocab_size(module)
    pad_id = _first_id(config, vocab_size, "pad_token_id", "eos_token_id", "bos_token_id")
    seq2seq = bool(config.get("is_encoder_decoder", False))
    start = _first_id(config, None, "decoder_start_token_id", "bos_token_id", "pad_token_id")
    return TextRules(
        pad_id=pad_id or 0,
        takes=frozenset(OPTIONAL if accepted is None else accepted.intersection(OPTIONAL)),
        first_position=_first_position(module),
        vocab_size=vocab_size,
        max_positions=_max_positions(module, config),
        sizes=frozenset(_sizes(module, config)),
        decoder_start=(start or 0) if seq2seq else None,
        encoder_decoder=seq2seq,
        shifted_labels=not seq2seq and getattr(module, "loss_type", None) in (None, "ForCausalLM"),
        refusal=refusal,
    )


def _first_id(config: Mapping[str, Any], below: int | None, *names: str) -> int | None:
    """The first of these ids that the config has."""
    for name in names:
        value = config.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and value >= 0 and (below is None or value < below):
            return value
    return None


def _vocab_size(module: nn.Module) -> int | None:
    try:
        table = module.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def _first_position(module: nn.Module) -> int:
    """RoBERTa and its kin count positions from behind the padding id."""
    for part in module.modules():
        if hasattr(part, "create_position_ids_from_input_ids"):
            return int(getattr(part, "padding_idx", None) or 0) + 1
    return 0


def _position_tables(module: nn.Module) -> Iterator[Tensor]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if "vision" in name or "audio" in name:  # a tower that reads no text
            continue
        if tensor.dim() == 2 and any(part in POSITION_TABLES for part in name.split(".")):
            yield tensor


def _max_positions(module: nn.Module, config: Mapping[str, Any]) -> int | None:
    """How many absolute positions there are; None where positions are relative."""
    rows = [int(table.shape[0]) for table in _position_tables(module)]
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
    said = [int(config[name]) for name in names if isinstance(config.get(name), int)]
    return min([*rows, *said[:1]]) - max(_first_position(module) - 1, 0) if rows else None


def _sizes(module: nn.Module, config: Mapping[str, Any]) -> Iterator[int]:
    """Every size that an axis of an activation may have, but for rows and positions."""
    tables = {id(table) for table in _position_tables(module)}
    for parameter in module.parameters():
        yield from parameter.shape[1:] if id(parameter) in tables else parameter.shape
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _sizes(nn.Module(), value)
        elif type(value) is int and value > 0 and not name.endswith("_id") and "position" not in name:
            yield value
    heads = next((config[name] for name in HEADS if config.get(name)), 0)
    width = next((config[name] for name in WIDTHS if config.get(name)), 0)
    if isinstance(heads, int) and isinstance(width, int) and heads:
        yield width // heads
        yield heads // int(config.get("num_key_value_heads") or heads)


def deviation(one: Any, padded: Any) -> float:
    """How far `padded` is from `one`, relative to the largest value of `one`."""
    assert isinstance(one, Tensor)
    assert isinstance(padded, Tensor)
    return float((one - padded).abs().max().double() / one.abs().max().double().clamp_min(1e-30))


def allowed(dtype: torch.dtype) -> float:
    """The largest `deviation` that is rounding."""
    return ALLOWED if dtype in (torch.float32, torch.float64) else ALLOWED_IN_16_BITS
