"""Models with a circuit that is known because it was put there: random weights, one private subspace an edge.

Every planted edge u → v owns a few dimensions of the residual stream: u alone writes there, v alone reads there. What
is not planted therefore changes nothing, and what is planted changes the answer, for it is kept only where it is alive:
it hangs on the input, leads to the logits, and of a head's query and key either both read something or neither does.
The models are transformers' own, in four layouts, with their norms taken out. Where norms are left in, every change
moves the norm and so all that is read behind it: the token embedding then carries a constant that nobody reads, and
that makes up most of the norm, so that this leak is small beside what is planted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import transformers as hf
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests import decoders
from tests.parity.hooks import GEMMA, GPT2, LLAMA, NEOX, Where
from tracing.circuits.layout import Layout
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

LAYERS: Final = 3
HEADS: Final = 4
VOCABULARY: Final = 24
HIDDEN: Final = 24
BALLAST: Final = 8
"""Dimensions of the constant that nobody reads, of models with norms."""
LOAD: Final = 3.0
"""The root mean square of the stream that the constant alone makes."""
PRIVATE: Final = 3
"""Dimensions of an edge's subspace."""


@dataclass(frozen=True)
class Kind:
    """One layout: how its model is made for a width, and where its weights are."""

    make: Callable[[int], nn.Module]
    where: Where
    mlp_reads: tuple[str, ...]
    mlp_writes: str
    embedding: str
    unembed: str
    norms: tuple[str, ...]
    kv_heads: int = HEADS
    parallel: bool = False


def _gpt2(width: int) -> nn.Module:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS, n_embd=width, n_inner=HIDDEN, n_positions=16,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return hf.GPT2LMHeadModel(config)


def _neox(width: int) -> nn.Module:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_sizes(width), rotary_pct=0.5))


def _llama(width: int) -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_sizes(width), num_key_value_heads=2, head_dim=16))


def _gemma(width: int) -> nn.Module:
    config = hf.Gemma2Config(
        **_sizes(width), num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, attn_logit_softcapping=None,
        final_logit_softcapping=None, sliding_window=64,
    )  # fmt: skip
    return hf.Gemma2ForCausalLM(config)


def _sizes(width: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN, "max_position_embeddings": 16, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip


_LLAMA_MLP: Final = ("mlp.gate_proj", "mlp.up_proj")
KINDS: Final = {
    "MHA": Kind(_gpt2, GPT2, ("mlp.c_fc",), "mlp.c_proj", "transformer.wte", "lm_head", ("ln_1", "ln_2", "ln_f")),
    "grouped-query": Kind(
        _llama, LLAMA, _LLAMA_MLP, "mlp.down_proj", "model.embed_tokens", "lm_head",
        ("input_layernorm", "post_attention_layernorm", "model.norm"), kv_heads=2,
    ),
    "parallel": Kind(
        _neox, NEOX, ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", "gpt_neox.embed_in", "lm_head",
        ("input_layernorm", "post_attention_layernorm", "final_layer_norm"), parallel=True,
    ),
    "sandwich": Kind(
        _gemma, GEMMA, _LLAMA_MLP, "mlp.down_proj", "model.embed_tokens", "lm_head",
        (
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
            "model.norm",
        ),
        kv_heads=2,
    ),
}  # fmt: skip
"""By the name of the layout."""


@dataclass(frozen=True, eq=False)
class Planted:
    """A model, its circuit `[source, reader]`, and pairs that differ at every position."""

    model: LanguageModel
    layout: Layout
    truth: NDArray[np.bool_]
    pairs: list[TokenizedPair]


def planted(name: str, seed: int, *, norms: bool = False, share: float = 0.55) -> Planted:
    """A model in float64 with about that share of the edges planted, before dead ones are left out."""
    kind, rng = KINDS[name], np.random.default_rng(seed)
    layout = Layout(LAYERS, HEADS, kind.kv_heads, kind.parallel)
    truth = alive(layout, layout.real & (rng.random(layout.real.shape) < share))
    edges = [(int(s), int(r)) for s, r in np.argwhere(truth)]
    width = -(-(len(edges) * PRIVATE + BALLAST) // (2 * HEADS)) * 2 * HEADS
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind.make(width).double().eval()
        with torch.no_grad():
            _plant(module, kind, layout, edges, width)
            if norms:
                _load(module, kind, width)
            else:
                _take_out(module, kind)
    return Planted(LanguageModel(module), layout, truth, _pairs(rng))


def alive(layout: Layout, edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those edges that can change the logits."""
    edges = edges.copy()
    while True:
        before = int(edges.sum())
        for layer in range(layout.n_layers):
            group = layout.n_heads // layout.n_kv_heads
            for head in range(layout.n_heads):
                rows = layout.heads(layer).start + head
                q = layout.reads(layer, "q").start + head
                k, v = (layout.reads(layer, letter).start + head // group for letter in "kv")
                # Without a value a head writes nothing; with a query or a key alone its pattern is constant.
                if not edges[:, v].any():
                    edges[rows] = False
                if not edges[rows].any() or not edges[:, k].any():
                    edges[:, q] = False
            for kv in range(layout.n_kv_heads):
                q = slice(
                    layout.reads(layer, "q").start + kv * group, layout.reads(layer, "q").start + (kv + 1) * group
                )
                k, v = (layout.reads(layer, letter).start + kv for letter in "kv")
                heads = slice(layout.heads(layer).start + kv * group, layout.heads(layer).start + (kv + 1) * group)
                if not edges[:, q].any():
                    edges[:, k] = False
                if not edges[heads].any():
                    edges[:, v] = False
            mlp, reads = layout.mlp(layer), layout.mlp_reads(layer)
            if not edges[mlp].any() or not edges[:, reads].any():
                edges[mlp], edges[:, reads] = False, False
        if int(edges.sum()) == before:
            return edges


def _plant(module: nn.Module, kind: Kind, layout: Layout, edges: list[tuple[int, int]], width: int) -> None:
    """Zero every weight, then let each edge's ends write and read its subspace."""
    for name, parameter in module.named_parameters():
        if not any(part in name for part in kind.norms):
            parameter.zero_()
    where = replace(kind.where, kv=kind.kv_heads, d=16 if kind.kv_heads < HEADS else width // HEADS)
    owned = {edge: slice(n * PRIVATE, (n + 1) * PRIVATE) for n, edge in enumerate(edges)}
    for n, place in enumerate(layout.source_places):
        dims = [owned[edge] for edge in edges if edge[0] == n]
        if place.kind == "input":
            scale = width**-0.5 if isinstance(module, hf.Gemma2ForCausalLM) else 1.0
            _fill(_matrix(module.get_submodule(kind.embedding)), slice(None), dims, scale)
        elif place.kind == "mlp":
            path = f"{where.blocks}.{place.layer}.{kind.mlp_writes}"
            _fill(_matrix(module.get_submodule(path)), slice(None), dims, HIDDEN**-0.5 * 1.7)
        else:
            z = where.place("z", place.layer)
            columns = z.columns[place.head]
            _fill(_matrix(module.get_submodule(z.path)), columns, dims, (columns.stop - columns.start) ** -0.5 * 2)
    for n, place in enumerate(layout.reader_places):
        dims = [owned[edge] for edge in edges if edge[1] == n]
        scale = 1.0 * max(1, PRIVATE * len(dims)) ** -0.5
        if place.kind == "logits":
            _fill(_matrix(module.get_submodule(kind.unembed)).T, slice(None), dims, scale)
        elif place.kind == "mlp":
            for path in kind.mlp_reads:
                _fill(_matrix(module.get_submodule(f"{where.blocks}.{place.layer}.{path}")).T, slice(None), dims, scale)
        else:
            where_read = where.place(place.kind, place.layer)
            matrix = _matrix(module.get_submodule(where_read.path)).T
            _fill(matrix, where_read.columns[place.head], dims, scale)


def _matrix(module: nn.Module) -> Tensor:
    """The weight as `[input, output]`; of an embedding `[token, d_model]`."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight if isinstance(module, Conv1D | nn.Embedding) else weight.T


def _fill(matrix: Tensor, rows: slice, dims: list[slice], scale: float) -> None:
    for one in dims:
        part = matrix[rows, one]
        part.copy_(torch.randn(part.shape, dtype=part.dtype) * scale)


def _take_out(module: nn.Module, kind: Kind) -> None:
    for path, _ in list(module.named_modules()):
        if any(path.endswith(name) for name in kind.norms):
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, nn.Identity())


def _load(module: nn.Module, kind: Kind, width: int) -> None:
    """Put the constant into the last dimensions; gains make up for what the norms then divide by."""
    table = _matrix(module.get_submodule(kind.embedding))
    scale = width**-0.5 if isinstance(module, hf.Gemma2ForCausalLM) else 1.0
    signs = torch.tensor([1.0, -1.0] * (BALLAST // 2), dtype=table.dtype)  # a LayerNorm takes the mean away
    table[:, -BALLAST:] = signs * LOAD * (width / BALLAST) ** 0.5 * scale
    gemma = isinstance(module, hf.Gemma2ForCausalLM)
    for name, part in module.named_modules():
        behind = gemma and ".post_" in name  # norms of what a sublayer writes, where no constant comes
        if any(name.endswith(norm) for norm in kind.norms) and not behind:
            part.weight.fill_(LOAD - 1 if gemma else LOAD)  # type: ignore[union-attr, operator]


def _pairs(rng: np.random.Generator) -> list[TokenizedPair]:
    found = []
    for number in range(6):
        clean = rng.integers(0, VOCABULARY, 6)
        corrupted = (clean + rng.integers(1, VOCABULARY, 6)) % VOCABULARY
        found.append(decoders.pair(clean.tolist(), corrupted.tolist(), (number,), (number + 6,), number + 1))
    return found
