"""What a family adapter says: the module paths and slicing rules of one architecture, as data.

Every method finds the standard sites through an `Adapter`, so a new family is one small file and no method changes.
Adapters are plain data: this module and the family files never import torch, so the web process can read them.
An adapter is a claim about somebody else's code; `tracing.families.check` tests the claim numerically.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SEQUENTIAL_SITES = (
    "embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out",
    "q", "k", "v", "z", "pattern", "head_out", "logits",
)  # fmt: skip
"""Standard sites of a pre-norm decoder whose MLP reads the residual after attention."""


@dataclass(frozen=True, slots=True)
class HeadSlice:
    """Where q, k or v lies: part `part` of `parts` equal parts of a projection's output, heads in order inside it."""

    path: str
    part: int = 0
    parts: int = 1

    def of(self, output: "Tensor", d_head: int) -> "Tensor":
        """`[..., width]` of the projection to `[..., head, d_head]`."""
        width = output.shape[-1] // self.parts
        part = output[..., self.part * width : (self.part + 1) * width]
        return part.reshape(*part.shape[:-1], width // d_head, d_head)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Module paths of a decoder-only family: first those from the language model, then those from one block."""

    family: str
    """`config.model_type`."""
    backbone: str
    """Maps ids to final hidden states, without the unembedding."""
    embeddings: tuple[str, ...]
    """Modules whose outputs sum to the residual stream that enters block 0."""
    blocks: str
    final_norm: str
    unembed: str

    norm_attn: str
    attn: str
    q: HeadSlice
    k: HeadSlice
    v: HeadSlice
    out_proj: str
    """The linear map W_O: its input is z of all heads side by side, its output is attn_out."""
    norm_mlp: str
    """Its input is resid_mid."""
    mlp: str

    positional: tuple[str, ...] = ()
    """Arguments of a block with one entry a position: tensors, or tuples of tensors, of shape [1, position, …]."""
    gated_mlp: bool = False
    biases: tuple[str, str] = ("", "")
    """Config keys that say whether attention and MLP projections have biases; "" means always."""
    norm_bias: bool = True
    learned_positions: bool = False
    tied_by_default: bool = False
    """Whether a config that does not say so ties unembedding and embedding."""
    sites: tuple[str, ...] = SEQUENTIAL_SITES

    def part(self, model: "nn.Module", path: str) -> "nn.Module":
        """A module of the language model by one of the first group of paths."""
        return model.get_submodule(path)

    def block_list(self, model: "nn.Module") -> "list[nn.Module]":
        """The residual blocks in order."""
        return list(model.get_submodule(self.blocks).children())

    def has_biases(self, config: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether attention and MLP projections of a model with this config have biases."""
        attention, mlp = (key == "" or bool(config.get(key, False)) for key in self.biases)
        return attention, mlp
