"""Tiny random models of every attention family, and what a hand-written reference has to know about each."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as T  # noqa: N812 - short for a table
from torch import Tensor, nn

from tracing.engines.attention import KINDS, Taps

VOCAB = 40
WIDTH = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**WIDTH, "intermediate_size": 40, "num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4}
SLIDING = {**LLAMA, "sliding_window": 4, "pad_token_id": 0}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}


@dataclass(frozen=True)
class Family:
    """How to build a model, where its attention modules are, and what its eager path does differently."""

    model: str
    config: str
    settings: dict[str, Any]
    path: str  # of the attention module of layer {}
    out: str  # projection whose input is the merged z; "" if the attention module returns that
    float32: bool = True  # softmax in float32
    sdpa: bool = True
    softcap: float | None = None
    bias: bool = False  # scores hold more than the scaled product and the mask
    inputs: str = "ids"
    kinds: tuple[str, ...] = ("q_rot", "k_rot", "v", "scores", "pattern")


FAMILIES: dict[str, Family] = {
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", GPT2 | ENDS, "transformer.h.{}.attn", "c_proj", float32=False),
    "gpt2_by_layer": Family(
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2 | ENDS | {"scale_attn_by_inverse_layer_idx": True},
        "transformer.h.{}.attn",
        "c_proj",
        float32=False,
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {**WIDTH, "intermediate_size": 40},
        "gpt_neox.layers.{}.attention",
        "dense",
    ),
    "llama": Family("LlamaForCausalLM", "LlamaConfig", LLAMA, "model.layers.{}.self_attn", "o_proj"),
    "mistral": Family("MistralForCausalLM", "MistralConfig", SLIDING, "model.layers.{}.self_attn", "o_proj"),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", LLAMA, "model.layers.{}.self_attn", "o_proj"),
    "qwen3": Family(
        "Qwen3ForCausalLM", "Qwen3Config", {**LLAMA, "head_dim": 12}, "model.layers.{}.self_attn", "o_proj"
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**SLIDING, "head_dim": 12, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 0.5},
        "model.layers.{}.self_attn",
        "o_proj",
        sdpa=False,
        softcap=0.5,
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**SLIDING, "head_dim": 12, "query_pre_attn_scalar": 9, "layer_types": ["sliding_attention", "full_attention"]},
        "model.layers.{}.self_attn",
        "o_proj",
    ),
    "phi": Family(
        "PhiForCausalLM", "PhiConfig", {**WIDTH, "intermediate_size": 40}, "model.layers.{}.self_attn", "dense"
    ),
    "phi3": Family(
        "Phi3ForCausalLM", "Phi3Config", {**LLAMA, "pad_token_id": 0}, "model.layers.{}.self_attn", "o_proj"
    ),
    "opt": Family(
        "OPTForCausalLM",
        "OPTConfig",
        {**WIDTH, "ffn_dim": 40, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
        "model.decoder.layers.{}.self_attn",
        "out_proj",
    ),
    "olmo2": Family("Olmo2ForCausalLM", "Olmo2Config", LLAMA, "model.layers.{}.self_attn", "o_proj"),
    "mixtral": Family(
        "MixtralForCausalLM",
        "MixtralConfig",
        # Grouped matrix products know no float64.
        {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1, "experts_implementation": "eager"},
        "model.layers.{}.self_attn",
        "o_proj",
    ),
    "gpt_bigcode": Family("GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT2 | ENDS, "transformer.h.{}.attn", "c_proj"),
    "bert": Family(
        "BertForMaskedLM",
        "BertConfig",
        {**WIDTH, "intermediate_size": 40},
        "bert.encoder.layer.{}.attention.self",
        "",
        float32=False,
    ),
    "vit": Family(
        "ViTForImageClassification",
        "ViTConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "image_size": 8,
            "patch_size": 4,
        },
        "vit.layers.{}.attention",
        "o_proj",
        inputs="pixels",
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 40,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        "decoder.block.{}.layer.0.SelfAttention",
        "o",
        float32=False,
        bias=True,
        inputs="both",
    ),
    "falcon": Family(
        "FalconForCausalLM", "FalconConfig", WIDTH, "transformer.h.{}.self_attention", "dense", float32=False
    ),
    "falcon_new": Family(
        "FalconForCausalLM",
        "FalconConfig",
        {**WIDTH, "new_decoder_architecture": True, "num_kv_heads": 2},
        "transformer.h.{}.self_attention",
        "dense",
        float32=False,
    ),
    "falcon_alibi": Family(
        "FalconForCausalLM",
        "FalconConfig",
        {**WIDTH, "alibi": True, "multi_query": False},
        "transformer.h.{}.self_attention",
        "dense",
        float32=False,
        bias=True,
    ),
    "bloom": Family(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "transformer.h.{}.self_attention",
        "dense",
        sdpa=False,
        bias=True,
    ),
    "gptj": Family(
        "GPTJForCausalLM",
        "GPTJConfig",
        {**GPT2, **ENDS, "rotary_dim": 4},
        "transformer.h.{}.attn",
        "out_proj",
        float32=False,
        sdpa=False,
    ),
    "codegen": Family(
        "CodeGenForCausalLM",
        "CodeGenConfig",
        {**GPT2, **ENDS, "rotary_dim": 4},
        "transformer.h.{}.attn",
        "out_proj",
        float32=False,
        sdpa=False,
    ),
    "gpt_neo": Family(
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            **ENDS,
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
        "transformer.h.{}.attn.attention",
        "out_proj",
        float32=False,
        sdpa=False,
    ),
}


@functools.lru_cache(maxsize=8)
def build(name: str, implementation: str = "sdpa", dtype: torch.dtype = torch.float64) -> nn.Module:
    """The family's model from a fixed seed, in evaluation mode, with weights large enough to make heads differ."""
    family = FAMILIES[name]
    config = getattr(T, family.config)(**family.settings)
    config._attn_implementation = implementation if family.sdpa or implementation != "sdpa" else "eager"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: nn.Module = getattr(T, family.model)(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval()


def inputs(name: str, dtype: torch.dtype = torch.float64, positions: int = 9) -> dict[str, Tensor]:
    """Two rows of input to the family's model."""
    generator = torch.Generator().manual_seed(3)
    if FAMILIES[name].inputs == "pixels":
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator, dtype=dtype)}
    ids = torch.randint(2, VOCAB, (2, positions), generator=generator)
    return (
        {"input_ids": ids, "decoder_input_ids": ids.flip(1)} if FAMILIES[name].inputs == "both" else {"input_ids": ids}
    )


def attention(model: nn.Module, name: str, layer: int = 0) -> nn.Module:
    """The attention module of a layer."""
    return model.get_submodule(FAMILIES[name].path.format(layer))


def merged_z(run: Callable[[], Any], model: nn.Module, name: str, layer: int = 0) -> Tensor:
    """z of a layer as `[batch, position, head * d_head]`, caught before the output projection while `run` runs."""
    module, seen = attention(model, name, layer), []
    if out := FAMILIES[name].out:
        handle = module.get_submodule(out).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda _m, _args, output: seen.append(output[0]))
    try:
        run()
    finally:
        handle.remove()
    (z,) = seen
    return z


def patterns(model: nn.Module, name: str, **given: Tensor) -> tuple[Tensor, ...]:
    """The model's own eager patterns, by layer."""
    output = model(**given, output_attentions=True)
    found: tuple[Tensor, ...] = output.decoder_attentions if FAMILIES[name].inputs == "both" else output.attentions
    return found


def weighted(name: str, pattern: Tensor, value: Tensor) -> Tensor:
    """pattern · v merged over heads, key-value heads repeated: `[batch, query, head * d_head]`."""
    value = value.repeat_interleave(pattern.shape[1] // value.shape[1], dim=1)
    return torch.einsum("bhqk,bhkd->bqhd", pattern.to(value.dtype), value).flatten(2)


def softmax(name: str, scores: Tensor) -> Tensor:
    """The family's softmax, back in the dtype of the scores."""
    return torch.softmax(scores.float() if FAMILIES[name].float32 else scores, dim=-1).to(scores.dtype)


def keep(into: list[tuple[str, Tensor]]) -> Callable[[str, Tensor], Tensor]:
    """A visitor that changes nothing and lists what it saw."""

    def visit(kind: str, tensor: Tensor) -> Tensor:
        into.append((kind, tensor))
        return tensor

    return visit


def reads(into: list[tuple[str, Tensor]], *kinds: str) -> Taps:
    """Taps that list what they see, of every kind if none is named."""
    return Taps(keep(into), frozenset(kinds or KINDS), frozenset())
