"""`LanguageModel`: a transformers text model with its tokenizer, ready to be traced, read and patched.

Decoders, encoders, encoder-decoders and state space models alike. Wrapping puts the module into
evaluation mode and turns the gradients of its weights off; apart from that it stays unmodified, and every experiment
reaches it through hooks and calls of its submodules.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tracing.errors import ModelError, PromptError
from tracing.graph.nodes import Inputs
from tracing.models.batching import Batch, batch_text
from tracing.models.hub import find
from tracing.models.inputs import FILLS
from tracing.models.loading import DeviceMap
from tracing.models.logits import Logits
from tracing.models.pretrained import KEYWORDS, Pretrained
from tracing.models.rules import PADS_EXACTLY, TextRules, allowed, deviation, rules_of
from tracing.tokens import Tokens

PROBES = ([3, 5, 7], [2, 11, 5, 3, 7, 1])
"""Two prompts of unequal lengths, by which padding is measured."""


class LanguageModel(Pretrained):
    """A text model for experiments: evaluation mode, gradients of weights off, certified adapter.

    A module given in memory is changed in these two ways, for good: it gets `module.eval().requires_grad_(False)`.
    Call `module.train().requires_grad_(True)` before training it further.

    >>> from tracing import LanguageModel                                              # doctest: +SKIP
    >>> model = LanguageModel("openai-community/gpt2", device_map="auto")             # doctest: +SKIP
    >>> model.facts.n_layers, model.tokenizer.encode(" Paris")                        # doctest: +SKIP
    """

    keywords: ClassVar[tuple[str, ...]] = ("tokenizer", *KEYWORDS)
    public = (*Pretrained.public, "tokenizer", "tokens", "encode", "logits")

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        tokenizer: PreTrainedTokenizerBase | Tokens | str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        device_map: DeviceMap | None = None,
        revision: str | None = None,
        attn_implementation: str | None = None,
        verify: bool = True,
        engine: str = "local",
        rename: Mapping[str, str] | None = None,
        **unknown: Any,
    ) -> None:
        """Load a folder or a Hugging Face hub id, or wrap a module that is already in memory.

        `tokenizer` is a tokenizer, or a folder or hub id that has one; by default the model's own.
        `dtype` ("float32", "bfloat16", "auto" for what the weights are stored in, …) defaults to float32 for a folder
        and to what it has for a module. `device` is one device for all of the model ("meta": shapes without weights,
        for `scan` and `remote`); `device_map` "auto" or a dict spreads it over several by means of accelerate. By
        default a folder is loaded to the CPU and a module stays where it is; asked for, the module itself is moved
        and cast. `attn_implementation` is transformers'.
        `verify` runs `families.check` once, at about the cost of one short forward, and raises `AdapterError` where
        the adapter does not describe the weights; models of other families have no adapter and are not checked, nor
        are models of which accelerate keeps parts elsewhere.
        `rename` gives submodules other names: `{"layers": "transformer.h"}`, see `Model`. Only safetensors are read,
        and no code of the model's folder is run.
        Raises `ModelError` for a model that cannot be found or loaded, `TypeError` for an unknown keyword argument.
        """
        super().__init__(
            model,
            dtype=dtype,
            device=device,
            device_map=device_map,
            revision=revision,
            attn_implementation=attn_implementation,
            verify=verify,
            engine=engine,
            rename=rename,
            **unknown,
        )
        self._tokenizer_given = tokenizer
        if "pixel_values" in (self.accepted or ()):
            self.require_input("input_ids", "VisionModel(...)")

    # -- text ---------------------------------------------------------------------------------------------------------
    @cached_property
    def _tokenizer_folder(self) -> Path | None:
        """The folder that has the tokenizer's files."""
        given = self._tokenizer_given
        if isinstance(given, str | Path):
            return find(given, weights=False).folder
        if given is None and self.source is not None and any(
            (self.source.folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")
        ):  # fmt: skip
            return self.source.folder
        return None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer. Raises `ModelError` where there is none."""
        given, folder = self._tokenizer_given, self._tokenizer_folder
        if isinstance(given, PreTrainedTokenizerBase):
            return given
        if isinstance(given, Tokens):
            return _fast(given)
        if folder is None:
            raise _no_tokenizer(self.family)
        if not (folder / "tokenizer_config.json").exists():  # its class is unknown, its file says everything
            return _fast(Tokens.from_folder(folder))
        try:
            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise ModelError(
                f"The tokenizer of {folder.name!r} cannot be read ({type(error).__name__}).",
                remedy="Save it again with save_pretrained, or pass tokenizer=.",
            ) from error
        assert isinstance(found, PreTrainedTokenizerBase)
        return found

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer without transformers, as the web app uses it. Raises `ModelError` where none was given."""
        given = self._tokenizer_given
        if isinstance(given, Tokens):
            return given
        if isinstance(given, PreTrainedTokenizerBase):
            backend = getattr(given, "backend_tokenizer", None)
            if backend is None:
                raise ModelError("This tokenizer has no fast version.", remedy="Pass one that has: use_fast=True.")
            return Tokens(FastTokenizer.from_str(backend.to_str()))
        if self._tokenizer_folder is None:
            raise _no_tokenizer(self.family)
        return Tokens.from_folder(self._tokenizer_folder)

    def encode(self, texts: str | Sequence[str], special: bool = True) -> list[list[int]]:
        """Ids of texts, nothing padded and nothing cut off; with `special`, BOS and the like where the model has them.

        One text counts as a list of one. Raises `ModelError` where there is no tokenizer.
        """
        encoded = self.tokenizer(
            [texts] if isinstance(texts, str) else list(texts),
            add_special_tokens=special,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    # -- what tracers ask ---------------------------------------------------------------------------------------------
    def input_names(self) -> frozenset[str]:
        """Keyword arguments that are a prompt's own."""
        return self._input_names

    @cached_property
    def _input_names(self) -> frozenset[str]:
        names = FILLS.keys() if self.accepted is None else FILLS.keys() & self.accepted
        return frozenset(names) | {"add_special_tokens"}

    def steps_of(self, options: Mapping[str, Any]) -> int | None:
        """How many tokens a generation with these options makes at most, where that is known."""
        for config in (options, vars(options.get("generation_config") or object), self._generation):
            if config.get("max_new_tokens") is not None:
                return int(config["max_new_tokens"])
        return None

    def sequences_of(self, options: Mapping[str, Any]) -> int:
        """How many rows a generation makes of each row of a prompt: its beams, or sequences to return."""
        given = options, {**self._generation, **vars(options.get("generation_config") or object)}
        return super().sequences_of({**given[1], **given[0]})

    @property
    def _generation(self) -> Mapping[str, Any]:
        """What the model's own generation config says."""
        return vars(getattr(self.module, "generation_config", None) or object)

    def generate_ids(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module's generation: ids `[row, position]`, prompt included.

        Raises `PromptError` where prompt and new tokens together are more than the model has positions.
        """
        self.require_weights()
        new, ids, limit = self.steps_of(kwargs), kwargs.get("input_ids"), self.rules.max_positions
        if limit is not None and new is not None and isinstance(ids, Tensor) and not self.rules.encoder_decoder:
            mask = kwargs.get("attention_mask")
            longest = ids.shape[1] if mask is None else int(mask.sum(1).max())
            if longest + new - 1 > limit:  # the last token is made, not read
                raise PromptError(
                    f"A prompt of {longest} tokens and {new} new ones do not fit the {limit} positions of the model.",
                    remedy="Shorten the prompt, or lower max_new_tokens.",
                    where={"tokens": longest, "new": new, "positions": limit},
                )
        if kwargs.get("max_new_tokens") is not None:
            kwargs.setdefault("max_length", None)  # else transformers warns of the model's own limit at every call
        if self._generation.get("pad_token_id") is None:
            kwargs.setdefault("pad_token_id", self.rules.pad_id)  # transformers warns where it must choose one
        return self.module.generate(*args, **kwargs)

    # -- batches ------------------------------------------------------------------------------------------------------
    @cached_property
    def rules(self) -> TextRules:
        """What the module takes and how far it reaches."""
        return rules_of(self.module, partial(getattr, self, "padding_refusal"))

    def batch(self, inputs: Sequence[Inputs], *, generating: bool = False, steps: int = 1) -> Batch:
        """One padded call for the prompts of all invokes; see `tracing.models.batching`.

        Raises `PromptError` for prompts that cannot be run or not together, `TypeError` for unknown arguments.
        """
        for one in inputs:
            if one.kwargs:
                self.refuse_unknown(one.kwargs, "generate" if generating else "forward")
        batch = batch_text(
            inputs, self.rules, encode=self.encode, generating=generating, steps=steps, device=self.device
        )
        if self.accepted is not None and "input_ids" not in self.accepted and "input_ids" in batch.kwargs:
            # A module of one's own, that calls its ids otherwise.
            ids = batch.kwargs.pop("input_ids")
            return Batch((ids,), batch.kwargs, batch.rows, batch.total, batch.length, batch.decoder_length)
        return batch

    @cached_property
    def padding_refusal(self) -> str:
        """Why prompts of unequal lengths cannot be one batch; "" where they can, as measured on this model."""
        # Eager attention in float64 may take its softmax in float32, where the mask is -inf and padding becomes NaN.
        usual = self.dtype != torch.float64 or self.attention == "sdpa"
        if (usual and self.family in PADS_EXACTLY) or not self.has_weights:
            return ""
        rules = rules_of(self.module, str)
        if "attention_mask" not in rules.takes:
            return "its forward takes no attention_mask"
        probes = [[one % (rules.vocab_size or 12) for one in probe] for probe in PROBES]
        both = batch_text([Inputs((probe,)) for probe in probes], rules, device=self.device)
        alone = batch_text([Inputs((probes[0],))], rules, device=self.device)
        try:
            with torch.inference_mode():
                padded, exact = (_main(self.module(**one.kwargs)) for one in (both, alone))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            return f"its forward fails on padded prompts ({error})"
        padded = padded[:1, both.rows[0].pad :] if padded.shape[1:2] == (both.length,) else padded[:1]
        off = deviation(exact, padded)
        if off <= allowed(exact.dtype):
            return ""
        if off != off:
            return f"padding gives NaN in {str(self.dtype).removeprefix('torch.')} with {self.attention} attention"
        return f"padding changes its outputs (by {off:.0%} of the largest)"

    @property
    def logits(self) -> Logits:
        """`model.logits(prompts)`: next-token logits of equally long texts or rows of ids, `[batch, position, vocab]`.

        Outside of traces; in a trace they are `model.output`.
        """
        return Logits(self)


def _fast(tokens: Tokens) -> PreTrainedTokenizerBase:
    """A transformers tokenizer that encodes as `tokens` does."""
    found: Any = PreTrainedTokenizerFast
    made = found(tokenizer_object=tokens.fast())
    assert isinstance(made, PreTrainedTokenizerBase)
    return made


def _main(output: Any) -> Tensor:
    """Logits, or the hidden states of a model without a head."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, Tensor):
        raise TypeError(f"{type(output).__name__} has no logits")
    return found


def _no_tokenizer(family: str) -> ModelError:
    return ModelError(
        "This model has no tokenizer, so it cannot read text.",
        remedy="Pass tokenizer= (a tokenizer, or a folder with tokenizer.json), or give token ids."
        + ("" if family else " A module that takes other tensors than ids is wrapped by Model(module)."),
    )
