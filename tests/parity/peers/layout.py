"""Where the parts of a model are, by family: the same names for envoys of any library and for modules themselves."""

from dataclasses import dataclass
from typing import Any, Final

BLOCKS: Final = {
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "mistral": "model.layers",
    "gpt_neox": "gpt_neox.layers",
}
ATTENTION: Final = {"gpt2": "attn", "llama": "self_attn", "mistral": "self_attn", "gpt_neox": "attention"}
EMBEDDING: Final = {
    "gpt2": "transformer.wte",
    "llama": "model.embed_tokens",
    "mistral": "model.embed_tokens",
    "gpt_neox": "gpt_neox.embed_in",
}
NORM: Final = {
    "gpt2": "transformer.ln_f",
    "llama": "model.norm",
    "mistral": "model.norm",
    "gpt_neox": "gpt_neox.final_layer_norm",
}


def follow(start: Any, path: str) -> Any:
    """`start.a.b` for "a.b"; whole numbers are indices."""
    for name in path.split("."):
        start = start[int(name)] if name.isdigit() else getattr(start, name)
    return start


@dataclass(frozen=True)
class Layout:
    """The parts of one model, as envoys of a library or as modules."""

    model: Any
    family: str

    @property
    def blocks(self) -> list[Any]:
        """Residual blocks."""
        found = follow(self.model, BLOCKS[self.family])
        return [found[layer] for layer in range(3)]

    @property
    def attentions(self) -> list[Any]:
        """Attention modules, which return a tuple."""
        return [getattr(block, ATTENTION[self.family]) for block in self.blocks]

    @property
    def mlps(self) -> list[Any]:
        """MLPs, which return a tensor."""
        return [block.mlp for block in self.blocks]

    @property
    def embedding(self) -> Any:
        """Token embedding."""
        return follow(self.model, EMBEDDING[self.family])

    @property
    def norm(self) -> Any:
        """Final norm."""
        return follow(self.model, NORM[self.family])

    @property
    def unembedding(self) -> Any:
        """Unembedding."""
        return self.model.lm_head

    def path(self, layer: int, part: str = "") -> str:
        """The module path of a block, or of its "attn" or "mlp"."""
        name = {"attn": ATTENTION[self.family]}.get(part, part)
        return ".".join(piece for piece in (BLOCKS[self.family], str(layer), name) if piece)
