"""Models of the zoo whose every part computes in float64, and what plain hooks see in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests import zoo
from tracing.models import LanguageModel


def language_model(name: str) -> LanguageModel:
    """A model in float64 whose RMSNorms, which transformers runs in float32, are computed in float64 too."""
    module = zoo.model(name, torch.float64)
    for part in module.modules():
        if "RMSNorm" in type(part).__name__ or type(part).__name__ == "T5LayerNorm":
            _exact(part)
    return LanguageModel(module)


def _exact(norm: Any) -> None:
    eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None)
    gain = 1 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight
    norm.forward = lambda x: gain * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


@contextmanager
def seen(modules: dict[str, nn.Module], *, inputs: bool = False) -> Iterator[dict[str, Tensor]]:
    """Outputs (or first inputs) of modules by name, of the last forward in the block."""
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def before(_: Any, args: Any, kwargs: Any) -> None:
            found[name] = (args[0] if args else kwargs["hidden_states"]).clone()

        def after(_: Any, args: Any, output: Any) -> None:
            found[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return before if inputs else after

    handles = [
        part.register_forward_pre_hook(keeper(name), with_kwargs=True)
        if inputs
        else part.register_forward_hook(keeper(name))
        for name, part in modules.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def residuals(model: LanguageModel, ids: list[int]) -> list[Tensor]:
    """The residual stream `[position, d_model]` entering each block, and behind the last."""
    blocks = {str(n): block for n, block in enumerate(model.block_modules)}
    with seen(blocks, inputs=True) as into, seen({"out": model.block_modules[-1]}) as out:
        model.module(input_ids=torch.tensor([ids]))
    return [*(into[name][0] for name in blocks), out["out"][0]]
