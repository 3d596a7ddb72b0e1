"""Parts of a block that work position by position, on any tokens: `[pair, token, …]` in, `[pair, token, d_model]` out.

With them a patch of attention's or the MLP's output, of z, of a pattern or of neurons becomes a patch of the residual
stream behind the block, without running its attention. Formulas by `Adapter.residual`:
- sequential: mid = pre + attn, post = mid + mlp(mid); sandwich norms are part of what `attn_out` and `mlp_out` mean;
- parallel: post = pre + attn + mlp(pre);
- post_norm: mid = LN₁(pre + attn), post = LN₂(mid + mlp(mid)).
"""

from torch import Tensor, nn

from tracing.engines.hooks import main_output
from tracing.models import LanguageModel


def attn_out(model: LanguageModel, layer: int, z: Tensor) -> Tensor:
    """What attention adds to the residual stream, from z of all heads side by side."""
    return behind_heads(model, layer, main_output(_part(model, layer, model.adapter.out_proj)(z)))


def behind_heads(model: LanguageModel, layer: int, heads: Tensor) -> Tensor:
    """attn_out from the sum of what the heads write: the same, or its norm."""
    return _then(model, layer, heads, model.adapter.attn_out, model.adapter.out_proj)


def behind_neurons(model: LanguageModel, layer: int, written: Tensor) -> Tensor:
    """mlp_out from the down projection's output: the same, or its norm."""
    return _then(model, layer, written, model.adapter.mlp_out, model.adapter.neurons)


def mlp_out(model: LanguageModel, layer: int, residual: Tensor) -> Tensor:
    """What the MLP adds, from resid_mid (in parallel blocks from resid_pre)."""
    adapter = model.adapter
    norm = adapter.norm_mlp or (adapter.norm_attn if adapter.residual == "parallel" else "")
    hidden = _part(model, layer, norm)(residual) if norm else residual
    parts = adapter.mlp_parts or (adapter.mlp,)
    for path in parts:
        hidden = main_output(_part(model, layer, path)(hidden))
    return _then(model, layer, hidden, adapter.mlp_out, *parts)


def after_attention(
    model: LanguageModel, layer: int, pre: Tensor, attention: Tensor, mlp: Tensor | None = None
) -> Tensor:
    """resid_post from resid_pre and attn_out; in parallel blocks `mlp` is mlp_out where it is known."""
    adapter = model.adapter
    if adapter.residual == "parallel":
        return pre + attention + (mlp_out(model, layer, pre) if mlp is None else mlp)
    return after_middle(model, layer, normed(model, layer, 0, pre + attention))


def after_middle(model: LanguageModel, layer: int, middle: Tensor) -> Tensor:
    """resid_post from resid_mid."""
    return normed(model, layer, 1, middle + mlp_out(model, layer, middle))


def normed(model: LanguageModel, layer: int, which: int, total: Tensor) -> Tensor:
    """The sum of residual and sublayer as the stream goes on: itself, or in post-norm blocks its norm."""
    if model.adapter.residual != "post_norm":
        return total
    return main_output(_part(model, layer, model.adapter.norm_after[which])(total))


def _then(model: LanguageModel, layer: int, value: Tensor, path: str, *passed: str) -> Tensor:
    """The value behind a further module, unless it passed that already."""
    return value if not path or path in passed else main_output(_part(model, layer, path)(value))


def _part(model: LanguageModel, layer: int, path: str) -> nn.Module:
    return model.block_modules[layer].get_submodule(path)
