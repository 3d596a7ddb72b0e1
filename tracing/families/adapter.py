"""What a family adapter says: the module paths and slicing rules of one architecture, as data.

Every method finds the standard sites through an `Adapter`, so a new family is one small file and no method changes.
Adapters are plain data: this module and the family files never import torch, so the web process can read them.
An adapter is a claim about somebody else's code; `tracing.families.check` tests the claim numerically.
`tracing.families.registry` shows one for a module of one's own.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tracing.errors import SiteError
from tracing.families.sites import ATTENTION_SITES, GLOBAL_SITES, SEQUENTIAL_SITES, HeadSlice, SitePath, Step
from tracing.families.weights import Weights

if TYPE_CHECKING:
    from torch import nn

NOWHERE = HeadSlice("")
USUAL = Weights()


class Sizes(Protocol):
    """The sizes that `Adapter.site` needs; `ModelFacts` has them."""

    @property
    def n_layers(self) -> int: ...
    @property
    def n_encoder_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def d_head(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Adapter:
    """Module paths of a family: first those from the model, then those from one block ("" where there is no such)."""

    family: str
    """`config.model_type`."""
    backbone: str
    """Maps inputs to final hidden states, without the unembedding."""
    embeddings: tuple[str, ...]
    """Modules whose outputs sum to the residual stream that enters block 0."""
    blocks: str
    final_norm: str = ""
    unembed: str = ""

    norm_attn: str = ""
    attn: str = ""
    """Gets the normed residual, returns what its heads add up to (and a pattern, where attention is eager)."""
    q: HeadSlice = NOWHERE
    k: HeadSlice = NOWHERE
    v: HeadSlice = NOWHERE
    out_proj: str = ""
    """The linear map W_O: its input is z of all heads side by side, its output is attn_out."""
    norm_mlp: str = ""
    """Its input is resid_mid."""
    mlp: str = ""

    attn_out: str = ""
    """Its output is what attention adds to the residual stream, where that is not the output of `attn`."""
    mlp_out: str = ""
    """The same of the MLP, where that is not the output of `mlp`."""
    mid: tuple[str, Literal["inputs", "output"]] | None = None
    """Where resid_mid is, if not at the input of `norm_mlp`."""
    others: tuple[tuple[str, str], ...] = ()
    """Further sites of a block and their paths: outputs of modules that add to the residual stream."""
    flat: tuple[str, ...] = ()
    """Sites whose module is called on tokens side by side, `[batch · position, d_model]`."""
    residual: Literal["sequential", "parallel", "post_norm"] = "sequential"
    """"parallel": attention and MLP read the same residual. "post_norm": x1 = LN(x + attn), x2 = LN(x1 + mlp)."""
    norm_after: tuple[str, str] = ("", "")
    """Post-norm: the norms of both sums."""
    encoder: "Adapter | None" = None
    """Of an encoder-decoder model: its encoder, whose sites are those of this adapter with `encoder_` before."""

    pattern_item: int | None = None
    """Which item of `attn`'s output is its pattern, for attention that is not one of transformers'."""
    qk_norm: tuple[str, str] = ("", "")
    """Norms that queries and keys pass before they are rotated."""

    block_returns_tuple: bool = False
    """Whether blocks return (hidden states, …) and not the hidden states alone."""
    positional: tuple[str, ...] = ()
    """Arguments of a block with one entry a position: tensors, or tuples of tensors, of shape [1, position, …]."""
    key_bias: str = ""
    """The argument of a block that holds a bias for each key, `[batch · head, 1, key]` or `[batch, head, 1, key]`."""
    gated_mlp: bool = False
    mlp_parts: tuple[str, ...] = ()
    """Modules of a block that one after another make mlp_out of the MLP's normed input; none: `mlp` alone does."""
    neurons: str = ""
    """The MLP's down projection: its input are the neurons. "" where a block has no such module (experts)."""
    walk: Literal["packed", "rows", ""] = ""
    """How `tracing.patching` runs many patches at once. "packed": causal attention that takes a stand-in cache and an
    additive mask, so only tokens that a patch changes run. "rows": whole rows, from the patched layer on. "": not."""
    input_name: str = "input_ids"
    """How the model calls its input; "" where it takes it as its only positional argument."""
    weights: Weights = USUAL
    """What the parameter count follows from."""
    defaults: tuple[tuple[str, Any], ...] = ()
    """Sizes that the family's config class assumes where config.json is silent."""
    sites: tuple[str, ...] = SEQUENTIAL_SITES

    def part(self, model: "nn.Module", path: str) -> "nn.Module":
        """A module of the language model by one of the first group of paths."""
        return model.get_submodule(path)

    def block_list(self, model: "nn.Module") -> "list[nn.Module]":
        """The residual blocks in order; of an encoder-decoder model, the decoder's."""
        return list(model.get_submodule(self.blocks).children())

    def residual_blocks(self, model: "nn.Module") -> "list[nn.Module]":
        """Every module whose `.output[0]` means the whole hidden state: the blocks of all stacks."""
        before = self.encoder.residual_blocks(model) if self.encoder else []
        return before + self.block_list(model)

    @property
    def attn_out_path(self) -> str:
        """The module whose output attention adds to the residual stream, from the block."""
        return self.attn_out or self.attn

    @property
    def mlp_out_path(self) -> str:
        """The module whose output the MLP adds to the residual stream, from the block."""
        return self.mlp_out or self.mlp

    @property
    def patchable(self) -> tuple[str, ...]:
        """The sites that a sweep can patch; none where `walk` is ""."""
        if not self.walk:
            return ()
        named = (site for site in self.sites if site not in (*GLOBAL_SITES, *ATTENTION_SITES))
        return (*named, *(("neurons",) if self.neurons else ()))

    @property
    def all_sites(self) -> tuple[str, ...]:
        """Every site: the standard ones, then the encoder's."""
        encoder = tuple(f"encoder_{site}" for site in self.encoder.sites) if self.encoder else ()
        return (*self.sites, *encoder)

    def layers_of(self, name: str, sizes: Sizes) -> int:
        """How many layers a site has: an encoder's sites have the encoder's. 0 for embed and logits."""
        if name.removeprefix("encoder_") in GLOBAL_SITES:
            return 0
        return sizes.n_encoder_layers if self.encoder is not None and name.startswith("encoder_") else sizes.n_layers

    def site(self, name: str, layer: int | None, sizes: Sizes) -> SitePath:
        """Where a standard site is. `layer` counts from the end where negative, and is None for embed and logits.

        Raises `SiteError` for a site this family does not have, and for a missing, needless or impossible layer.
        """
        if self.encoder is not None and name.startswith("encoder_"):
            return self.encoder._site(name.removeprefix("encoder_"), name, layer, sizes, sizes.n_encoder_layers)
        return self._site(name, name, layer, sizes, sizes.n_layers)

    def _site(self, name: str, shown: str, layer: int | None, sizes: Sizes, n_layers: int) -> SitePath:
        if name not in self.sites:
            raise SiteError(*self._unknown(name, shown))
        if name in GLOBAL_SITES:
            if layer is not None:
                raise SiteError(f"The site {shown} has no layers.", remedy=f"Write sites.{shown} without an index.")
            if name == "logits":
                return SitePath("", "output", (("logits",),))
            return SitePath(f"{self.blocks}.0", "inputs", (("first",),))
        if layer is None:
            raise SiteError(f"The site {shown} needs a layer.", remedy=f"Write sites.{shown}[layer].")
        if not -n_layers <= layer < n_layers:
            raise SiteError(
                f"There is no layer {layer}: the model has {n_layers}.", remedy=f"Layers are 0 to {n_layers - 1}."
            )
        return self._in_block(name, f"{self.blocks}.{layer % n_layers}", sizes)

    def _unknown(self, name: str, shown: str) -> tuple[str]:
        if name == "resid_mid" and self.residual == "parallel":
            return (
                f"resid_mid does not exist on the parallel blocks of {self.family}: attention and MLP read the same "
                "residual. Use resid_pre, attn_out, mlp_out or resid_post.",
            )
        near = get_close_matches(shown, self.all_sites, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return (f"The family {self.family} has no site {shown!r}.{hint} Its sites: {', '.join(self.all_sites)}.",)

    def _in_block(self, name: str, block: str, sizes: Sizes) -> SitePath:
        flat: tuple[Step, ...] = (("rows",),) if name in self.flat else ()
        split = ("heads", 0, 1, sizes.d_head)
        if name == "resid_pre":
            return SitePath(block, "inputs", (("first",),))
        if name == "resid_post":
            return SitePath(block, "output", (("main",),))
        if name == "resid_mid":
            path, kind = self.mid or (self.norm_mlp, "inputs")
            first = "first" if kind == "inputs" else "main"
            return SitePath(f"{block}.{path}", kind, ((first,), *flat), in_place=kind == "inputs")
        outputs = {"attn_out": self.attn_out_path, "mlp_out": self.mlp_out_path, **dict(self.others)}
        if name in outputs:
            return SitePath(f"{block}.{outputs[name]}", "output", (("main",), *flat))
        if name == "z":
            return SitePath(f"{block}.{self.out_proj}", "inputs", (("first",), split))
        if name == "head_out":
            return SitePath(
                f"{block}.{self.out_proj}", "head_out", (split,), read_only="it is computed from z: write z or attn_out"
            )
        if name in ("q", "k", "v"):
            where = {"q": self.q, "k": self.k, "v": self.v}[name]
            steps = where.steps(sizes.n_heads, sizes.n_kv_heads, sizes.d_head)
            return SitePath(f"{block}.{where.path}", "output", (("main",), *steps))
        if name == "pattern" and self.pattern_item is not None:
            reason = "the module returns a copy of it that nothing reads"
            return SitePath(f"{block}.{self.attn}", "output", (("index", self.pattern_item),), read_only=reason)
        # Attention sees [batch, head, position, d_head]; q and q_rot are to have one shape.
        turned: tuple[Step, ...] = (("view", "transpose", (1, 2), {}),) if name in ("q_rot", "k_rot") else ()
        return SitePath(f"{block}.{self.attn}", name, turned)
