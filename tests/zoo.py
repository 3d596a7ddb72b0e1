"""A tiny random model of every first-class architecture, from configs in memory and a seed.

Sizes differ from each other wherever the architecture lets them, so that an axis cannot be taken for another: three
layers (two where a layer is dear), 4 heads, 2 key-value heads where there are fewer, width 32, vocabulary 97, prompts
of 2 × 9 tokens. Weights are perturbed so that every effect is far above rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
import transformers as hf
from torch import Tensor, nn

VOCABULARY: Final = 97
WIDTH: Final = 32
HEADS: Final = 4
POSITIONS: Final = 48
ROWS: Final = 2
TOKENS: Final = 9
IDS: Final = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
COMMON: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "intermediate_size": 56,
    "max_position_embeddings": POSITIONS,
    **IDS,
}
GROUPED: Final = {**COMMON, "num_key_value_heads": 2}
WIDE: Final = {**GROUPED, "head_dim": 12}
"""Heads whose widths do not add up to the model's."""
GPT: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": 3,
    "n_head": HEADS,
    "n_inner": 56,
    "n_positions": POSITIONS,
    **IDS,
}
FALCON: Final = {
    **{key: value for key, value in COMMON.items() if key != "intermediate_size"},
    "ffn_hidden_size": 56,
    "alibi": False,
}
T5: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 12,
    "d_ff": 56,
    "num_layers": 2,  # other than the decoder's; transformers generates only with num_layers=3, as many
    "num_decoder_layers": 3,
    "num_heads": HEADS,
    "decoder_start_token_id": 2,
    **IDS,
}
GEMMA: Final = {**WIDE, "sliding_window": 4, "query_pre_attn_scalar": 12, "attention_bias": False}
SLIDING: Final = ["sliding_attention", "full_attention", "sliding_attention"]


def make(model: str, config: str, **sizes: Any) -> nn.Module:
    """A transformers model by class names; the same arguments give the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(hf, config)(**sizes)
        if "num_local_experts" in sizes:
            made._experts_implementation = "eager"  # the grouped kernel has no float64
        module: nn.Module = getattr(hf, model)(made)
        with torch.no_grad():
            for parameter in module.parameters():
                # Large enough that every patch moves the logits far above rounding.
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def _decoder(name: str, sizes: dict[str, Any], **more: Any) -> Callable[..., nn.Module]:
    return partial(make, f"{name}ForCausalLM", f"{name}Config", **{**sizes, **more})


ZOO: Final[dict[str, Callable[..., nn.Module]]] = {
    "gpt2": partial(make, "GPT2LMHeadModel", "GPT2Config", **GPT),
    "gpt_neox": _decoder("GPTNeoX", COMMON, rotary_pct=0.5),
    "gpt_neox_sequential": _decoder("GPTNeoX", COMMON, use_parallel_residual=False, attention_bias=False),
    "llama": _decoder("Llama", WIDE),
    "mistral": _decoder("Mistral", WIDE, sliding_window=4),
    "qwen2": _decoder("Qwen2", GROUPED),
    "qwen3": _decoder("Qwen3", WIDE),
    "gemma2": _decoder("Gemma2", GEMMA, layer_types=SLIDING),
    "gemma3_text": partial(make, "Gemma3ForCausalLM", "Gemma3TextConfig", **GEMMA, layer_types=SLIDING),
    "gemma3": partial(
        make,
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        text_config={**GEMMA, "layer_types": SLIDING},
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        image_token_index=3,
        **IDS,
    ),
    "phi": _decoder("Phi", COMMON),
    "phi_normed": _decoder("Phi", COMMON, qk_layernorm=True),
    "phi3": _decoder("Phi3", GROUPED),
    "opt": partial(
        make,
        "OPTForCausalLM",
        "OPTConfig",
        **{key: value for key, value in COMMON.items() if key != "intermediate_size"},
        ffn_dim=56,
        word_embed_proj_dim=WIDTH,
    ),
    "olmo2": _decoder("Olmo2", GROUPED),
    "mixtral": _decoder("Mixtral", WIDE, num_local_experts=3, num_experts_per_tok=2),
    "bloom": partial(
        make,
        "BloomForCausalLM",
        "BloomConfig",
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        n_layer=3,
        n_head=HEADS,
        **IDS,
    ),
    "falcon": _decoder("Falcon", FALCON, multi_query=True),
    "falcon_new": _decoder("Falcon", FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_sequential": _decoder("Falcon", FALCON, multi_query=False, parallel_attn=False, bias=True),
    "gpt_bigcode": _decoder("GPTBigCode", GPT),
    "gpt_bigcode_heads": _decoder("GPTBigCode", GPT, multi_query=False),
    "gptj": _decoder("GPTJ", GPT, rotary_dim=4),
    "bert": partial(make, "BertForMaskedLM", "BertConfig", **COMMON),
    "vit": partial(
        make,
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=56,
        image_size=12,
        patch_size=4,
        num_labels=7,
    ),
    "mamba": _decoder("Mamba", {key: COMMON[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}, **IDS,
                      state_size=6, residual_in_fp32=False),
    "t5": partial(make, "T5ForConditionalGeneration", "T5Config", **T5),
    "t5_gated": partial(
        make, "T5ForConditionalGeneration", "T5Config", **T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
}  # fmt: skip
"""One model a layout; a name with a suffix is a second layout of the family before it."""


def model(name: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> nn.Module:
    """A model of the zoo in a precision, in evaluation mode, with other sizes where given."""
    return ZOO[name](**overrides).to(dtype).eval()


def double(module: nn.Module) -> nn.Module:
    """The module in float64. Some parts still compute in float32: RMSNorm, rotary tables, eager softmax."""
    return module.to(torch.float64)


def ids(rows: int = ROWS, tokens: int = TOKENS) -> Tensor:
    """Token ids that all differ within a row, none of them special, `[row, token]`."""
    return (torch.arange(rows * tokens).reshape(rows, tokens) * 5 + 3).remainder(VOCABULARY - 4) + 4


def example_inputs(name: str, *, rows: int = ROWS, tokens: int = TOKENS) -> dict[str, Tensor]:
    """Keyword arguments of a forward: ids `[row, token]`, pixels in float32, or ids for both stacks."""
    if name.startswith("vit"):
        pixels = torch.linspace(-1, 1, rows * 3 * 12 * 12).reshape(rows, 3, 12, 12)
        return {"pixel_values": torch.sin(pixels * 37)}
    if name.startswith("t5"):
        return {"input_ids": ids(rows, tokens), "decoder_input_ids": ids(rows, tokens - 2)}
    return {"input_ids": ids(rows, tokens)}


def decoders() -> list[str]:
    """The models that predict the next token with attention."""
    return [name for name in ZOO if name not in ("bert", "vit", "mamba", "t5", "t5_gated")]
