"""The compiled Tracr transformers as torch modules: config.json and safetensors of the reference data, nothing else.

An encoder without norms: x += attn(x), x += mlp(x), ReLU, softmax(q·k / √key_size), learned positions.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tracing.families import PLAIN_SITES, Adapter, separate

NAMES: Final = ("hist", "reverse", "sort_unique", "xproportion")

ADAPTER: Final = Adapter(
    family="tracr",
    backbone="",
    input_name="",
    embeddings=("embed", "positions"),
    blocks="blocks",
    unembed="unembed",
    attn="attn",
    **separate("attn.q", "attn.k", "attn.v"),
    out_proj="attn.o",
    pattern_item=1,
    mlp="mlp",
    mid=("mlp", "inputs"),
    sites=PLAIN_SITES,
)


class Attention(nn.Module):
    """Bidirectional attention that returns (output, pattern)."""

    def __init__(self, d_model: int, heads: int, key_size: int) -> None:
        super().__init__()
        self.heads, self.key_size = heads, key_size
        self.q, self.k, self.v = (nn.Linear(d_model, heads * key_size) for _ in range(3))
        self.o = nn.Linear(heads * key_size, d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, position, d_model]` to the same and `[batch, head, query, key]`."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, self.key_size)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        pattern = (q @ k.transpose(-1, -2) / self.key_size**0.5).softmax(-1)
        return self.o((pattern @ v).transpose(1, 2).flatten(-2)), pattern


class MLP(nn.Module):
    """One hidden layer with ReLU."""

    def __init__(self, d_model: int, d_mlp: int) -> None:
        super().__init__()
        self.fc_in, self.fc_out = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Position by position."""
        hidden: Tensor = self.fc_out(torch.relu(self.fc_in(x)))
        return hidden


class Block(nn.Module):
    """x += attn(x), x += mlp(x)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.attn = Attention(config["d_model"], config["n_heads"], config["key_size"])
        self.mlp = MLP(config["d_model"], config["d_mlp"])

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, position, d_model]`."""
        x = x + self.attn(x)[0]
        return x + self.mlp(x)


class Positions(nn.Embedding):
    """A row a position, whatever the tokens are."""

    def forward(self, ids: Tensor) -> Tensor:
        """`[batch, position]` to `[position, d_model]`."""
        rows: Tensor = self.weight[: ids.shape[1]]
        return rows


class Tracr(nn.Module):
    """Ids `[batch, position]` to logits `[batch, position, d_out]`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = {
            "model_type": "tracr",
            "hidden_size": config["d_model"],
            "num_attention_heads": config["n_heads"],
            "head_dim": config["key_size"],
            "num_hidden_layers": config["n_layers"],
            "intermediate_size": config["d_mlp"],
            "vocab_size": config["d_vocab"],
            "max_position_embeddings": config["n_ctx"],
        }
        self.embed = nn.Embedding(config["d_vocab"], config["d_model"])
        self.positions = Positions(config["n_ctx"], config["d_model"])
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["n_layers"]))
        self.unembed = nn.Linear(config["d_model"], config["d_out"], bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits; for numerical programs the one number."""
        x = self.embed(ids) + self.positions(ids)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.unembed(x)
        return logits


def load(folder: Path, dtype: torch.dtype = torch.float64) -> Tracr:
    """The model of one folder of the reference data."""
    config = json.loads((folder / "config.json").read_text())
    assert (config["act"], config["layer_norm"], config["causal"]) == ("relu", False, False)
    weights = {
        name.replace("pos_embed", "positions"): value for name, value in load_file(folder / "model.safetensors").items()
    }
    model = Tracr(config)
    model.load_state_dict(weights)
    return model.to(dtype).eval()
