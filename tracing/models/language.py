"""`LanguageModel`: a transformers decoder with its adapter, tokenizer and sizes, ready to be read and patched.

The wrapped module stays unmodified; every experiment reaches it through hooks and calls of its submodules.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tracing.errors import ModelError
from tracing.families import ModelFacts, adapter_for, check, model_facts
from tracing.models.loading import dtype_of, load_module
from tracing.tokens import Tokens


class LanguageModel:
    """A causal language model for experiments: evaluation mode, gradients off, certified adapter.

    >>> from tracing.models import LanguageModel                                      # doctest: +SKIP
    >>> model = LanguageModel("models/my-gpt2")                                       # doctest: +SKIP
    >>> model.facts.n_layers, model.tokens.encode("The Eiffel Tower")                 # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        tokenizer: Tokens | str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        verify: bool = True,
    ) -> None:
        """Load a folder, or wrap a transformers module that is already in memory.

        `tokenizer` is a `Tokens` or a folder with tokenizer.json; by default the model folder's own, if it has one.
        `dtype` defaults to float32 for a folder and to what it has for a module. `verify` runs `families.check`
        and raises `AdapterError` where the adapter does not describe the weights.
        Raises `ModelError` for a missing folder, pickled weights only, or an unknown family.
        """
        self.device = torch.device(device)
        if isinstance(model, nn.Module):
            adapter = adapter_for(model)
            module = model.to(self.device) if dtype is None else model.to(self.device, dtype_of(dtype))
        else:
            if tokenizer is None and (Path(model) / "tokenizer.json").exists():
                tokenizer = model
            module = load_module(Path(model), dtype=dtype_of(dtype or "float32"), device=self.device)
            adapter = adapter_for(module)
        self.module = module.eval().requires_grad_(False)
        self.adapter = adapter
        self.facts: ModelFacts = model_facts(module.config.to_dict())  # type: ignore[operator, union-attr]
        self.dtype: torch.dtype = next(module.parameters()).dtype
        self._tokens = Tokens.from_folder(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
        if verify:
            check(self)

    @property
    def _model(self) -> nn.Module:
        """The wrapped transformers module."""
        return self.module

    @property
    def tokens(self) -> Tokens:
        """The tokenizer. Raises `ModelError` where none was given."""
        if self._tokens is None:
            raise ModelError(
                "This model has no tokenizer, so it cannot read text.",
                remedy="Pass tokenizer=<folder with tokenizer.json>, or give tokenized pairs.",
            )
        return self._tokens

    @property
    def attention(self) -> str:
        """Which attention implementation transformers runs, e.g. "sdpa"."""
        return str(getattr(self.module.config, "_attn_implementation", ""))

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks, first to last."""
        return self.adapter.block_list(self.module)

    def part(self, path: str) -> nn.Module:
        """A submodule by an adapter's path, e.g. `model.part(model.adapter.final_norm)`."""
        return self.adapter.part(self.module, path)

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Next-token logits of equally long prompts, `[batch, position, vocab]`."""
        with torch.inference_mode():
            output = self.module(input_ids=torch.tensor(ids, device=self.device), use_cache=False)
        logits: Tensor = output.logits
        return logits

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"LanguageModel({facts.family}, {facts.n_layers} layers × {facts.n_heads} heads, d_model {facts.d_model}, "
            f"{facts.n_params / 1e6:.1f}M parameters, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )
