"""`model.logits(prompts)`: next-token logits without a trace."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from tracing.errors import PathError, PromptError
from tracing.graph.lines import user_line

if TYPE_CHECKING:
    from tracing.models.language import LanguageModel

IN_A_TRACE: Final = "In a trace the logits are model.output, or model.sites.logits; outside call model.logits(prompts)."


class Logits:
    """The function behind `model.logits`; used as if it were a value of a trace, it says where the logits are."""

    __slots__ = ("_model",)

    def __init__(self, model: "LanguageModel") -> None:
        self._model = model

    def __call__(self, prompts: str | Sequence[str] | Sequence[Sequence[int]] | Tensor) -> Tensor:
        """Next-token logits of a text, of texts or of rows of ids, all of one length: `[batch, position, vocab]`.

        Raises `PromptError` for prompts of unequal lengths, `ModelError` where the model has no weights, or no
        tokenizer for a text.
        """
        model = self._model
        model.require_weights()
        ids = _rows(model, prompts)
        lengths = sorted({len(row) for row in ids})
        if len(lengths) != 1 or not lengths[0]:
            raise PromptError(
                f"model.logits was given prompts of {' and '.join(map(str, lengths)) or 'no'} tokens (at "
                f"{user_line()}); all have one length, of one token at least.",
                remedy="Call it for each, or read model.output in a trace, which pads.",
            )
        with torch.inference_mode():
            output = model.module(input_ids=torch.as_tensor(ids, device=model.device), use_cache=False)
        logits: Tensor = output.logits
        return logits

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise PathError(f"model.logits is a function and has no {name!r} (at {user_line()}).", remedy=IN_A_TRACE)

    def __getitem__(self, key: Any) -> Any:
        raise PathError(f"model.logits is a function and has no items (at {user_line()}).", remedy=IN_A_TRACE)

    def __repr__(self) -> str:
        return "<function model.logits(prompts)>"


def _rows(model: "LanguageModel", prompts: Any) -> Any:
    """Rows of ids."""
    if isinstance(prompts, str):
        return model.encode(prompts)
    if isinstance(prompts, Tensor):
        return prompts if prompts.dim() > 1 else prompts[None]
    prompts = list(prompts)
    if prompts and all(isinstance(one, str) for one in prompts):
        return model.encode(prompts)
    return [prompts] if prompts and all(isinstance(one, int) for one in prompts) else prompts
