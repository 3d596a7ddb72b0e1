"""Token embeddings of prompts, in and out: reading them, replacing them, and baselines to compare them with."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from tracing.engines.hooks import hooks
from tracing.errors import SpecError
from tracing.lenses.prompts import prompts_of, texts_of
from tracing.models import LanguageModel
from tracing.patching.attribution_runs import answer_logits
from tracing.patching.inputs import DecodedPair
from tracing.prompts import TokenizedPair

Baseline = Literal["corrupted", "zero", "mean_embedding", "pad"]
BASELINES: Final = ("corrupted", "zero", "mean_embedding", "pad")
IDS_AT_ONCE: Final = 8192


def embedder(model: LanguageModel) -> nn.Module:
    """The module that looks tokens up; of an encoder-decoder model, the encoder's."""
    if model.adapter.encoder is not None:
        return model.part(model.adapter.encoder.embeddings[0])
    found = model.module.get_input_embeddings()
    assert isinstance(found, nn.Module)
    return found


@torch.no_grad()
def embed(model: LanguageModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Token embeddings as the model has them (scaled, where it scales them), `[prompt, position, feature]`."""
    found: Tensor = embedder(model)(inputs[model.adapter.input_name])
    return found


@contextmanager
def embedding(model: LanguageModel, values: Tensor) -> Iterator[None]:
    """Within the block, the first lookup of a forward gives these embeddings, which may carry gradients."""
    waiting = [values]
    with hooks() as registered:
        # An encoder and a decoder may share the module: the prompt's lookup comes first.
        registered.after(embedder(model), lambda _output: waiting.pop() if waiting else None)
        yield


@torch.no_grad()
def baseline_of(model: LanguageModel, pairs: Sequence[TokenizedPair], clean: Tensor, baseline: Baseline) -> Tensor:
    """A baseline's embeddings, of the shape of the prompts'.

    Raises `SpecError` for "pad" where the model names no padding token.
    """
    if baseline == "corrupted":
        rows = torch.tensor([list(pair.corrupted_ids) for pair in pairs], device=clean.device)
        return embed(model, {model.adapter.input_name: rows})
    if baseline == "zero":
        return torch.zeros_like(clean)
    if baseline == "mean_embedding":
        return _mean(model, clean).expand_as(clean)
    pad = _pad_id(model)
    return embed(model, {model.adapter.input_name: torch.tensor([[pad]], device=clean.device)}).expand_as(clean)


def _mean(model: LanguageModel, clean: Tensor) -> Tensor:
    lookup, size = embedder(model), model.facts.vocab_size
    total = torch.zeros(clean.shape[-1], dtype=torch.float64, device=clean.device)
    for lo in range(0, size, IDS_AT_ONCE):
        total += lookup(torch.arange(lo, min(size, lo + IDS_AT_ONCE), device=clean.device)).double().sum(0)
    return (total / size).to(clean.dtype)


def _pad_id(model: LanguageModel) -> int:
    pad = getattr(model.config, "pad_token_id", None)
    if pad is None:
        raise SpecError(
            "The model's config names no padding token.",
            remedy='Use baseline="zero" or "mean_embedding", or set model.config.pad_token_id.',
        )
    return int(pad)


def as_read(model: LanguageModel, pair: TokenizedPair) -> TokenizedPair:
    """The pair with the positions of what is explained: of an encoder-decoder model, what its encoder reads."""
    if not isinstance(pair, DecodedPair):
        return pair
    clean, corrupted = (tuple(texts_of(model, ids)) for ids in (pair.clean_ids, pair.corrupted_ids))
    return TokenizedPair(
        pair.number, pair.clean_ids, pair.corrupted_ids, clean, corrupted, pair.answer_ids, pair.foil_ids,
        answer_position=pair.answer_position, decoder_ids=pair.decoder_ids,
    )  # fmt: skip


def pairs_of_texts(model: LanguageModel, prompts: Any) -> tuple[TokenizedPair, ...]:
    """Prompts without pairs, whose answer is the token that the model predicts."""
    found = []
    for prompt in prompts_of(model, prompts):
        ids = prompt.inputs[model.adapter.input_name][0].tolist()
        position = -1 if prompt.answer is None else prompt.answer
        with torch.no_grad():
            inputs = {name: value.to(model.device) for name, value in prompt.inputs.items()}
            answer = int(answer_logits(model, inputs, position).argmax(-1))
        texts = tuple(texts_of(model, ids))
        found.append(
            TokenizedPair(prompt.number, tuple(ids), tuple(ids), texts, texts, (answer,), (), answer_position=position)
        )
    return tuple(found)
