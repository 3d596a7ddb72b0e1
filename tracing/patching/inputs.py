"""What a pair gives to a forward: token ids, decoder ids or pixels, by the names of the model's arguments.

Text pairs become `TokenizedPair`s by the model's tokenizer, image pairs `ImagesOfPair`s; from there on a pair is the
same for planning: a number of positions, where its two runs can differ, and where the answer is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracing.errors import PromptError, SpecError
from tracing.models import LanguageModel
from tracing.prompts import PromptPair, TokenizedPair, require_readable, require_usable, tokenize_all


@dataclass(frozen=True, slots=True, eq=False)
class ImagePair:
    """A clean and a corrupted image, as pixels `[channel, height, width]` that the model reads, and class numbers."""

    clean: Tensor
    corrupted: Tensor
    answer: int | Sequence[int]
    foil: int | Sequence[int] = ()
    label: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ImagesOfPair(TokenizedPair):
    """An image pair as sweeps take it: a position is a patch of the image, the first one the class token.

    Everything may differ everywhere, because every patch sees every other.
    """

    clean_pixels: Any = None
    corrupted_pixels: Any = None

    @property
    def differs(self) -> tuple[bool, ...]:
        return (True,) * self.length


Pair = PromptPair | TokenizedPair | ImagePair
Pairs = Pair | Sequence[PromptPair] | Sequence[TokenizedPair] | Sequence[ImagePair]


def ready(model: LanguageModel, pairs: Pairs) -> tuple[TokenizedPair, ...]:
    """Pairs tokenised and checked for the model.

    Raises `PromptError` for a pair that cannot be used, `SpecError` for a mixture of kinds.
    """
    several: Sequence[Any] = [pairs] if isinstance(pairs, PromptPair | TokenizedPair | ImagePair) else list(pairs)
    kinds = {PromptPair, ImagePair} & {type(pair) for pair in several}
    tokenized = [pair for pair in several if isinstance(pair, TokenizedPair)]
    if len(tokenized) == len(several) and several:
        require_usable(tokenized)
        found = tuple(tokenized)
    elif several and kinds == {ImagePair} and all(type(pair) is ImagePair for pair in several):
        found = tuple(_images(model, pair, number) for number, pair in enumerate(several, start=1))
    elif all(isinstance(pair, PromptPair) for pair in several):
        found = tuple(tokenize_all(several, model.tokens, model.facts.max_positions))
    else:
        raise SpecError("The pairs are neither all texts nor all tokenized.", remedy="Pass PromptPair objects.")
    _require_answers(model, found)
    read = tuple(_with_decoder(model, pair) for pair in found)
    for pair in read:
        _require_readable(model, pair)
    return read


def _require_readable(model: LanguageModel, pair: TokenizedPair) -> None:
    if not isinstance(pair, ImagesOfPair):  # what stands for the ids of an image are its patches
        facts = model.facts
        require_readable(pair, facts.vocab_size, None if model.adapter.encoder else facts.max_positions)


def _images(model: LanguageModel, pair: ImagePair, number: int) -> ImagesOfPair:
    clean, corrupted = torch.as_tensor(pair.clean), torch.as_tensor(pair.corrupted)
    if clean.dim() != 3 or clean.shape != corrupted.shape or not clean.is_floating_point():
        raise PromptError(
            f"Pair {number}: the images are {list(clean.shape)} and {list(corrupted.shape)}, and must be two tensors "
            "of floats [channel, height, width] of one size.",
            remedy="Take pixel_values of the model's processor, one image of each.",
            where={"pair": number},
        )
    if bool((clean == corrupted).all()):
        raise PromptError(f"Pair {number}: both images are the same.", remedy="Change the corrupted one.")
    length = model.facts.max_positions
    texts = ("class token", *(f"patch {n}" for n in range(length - 1)))
    ids = tuple(range(length))
    answer, foil = ((one,) if isinstance(one, int) else tuple(int(i) for i in one) for one in (pair.answer, pair.foil))
    beyond = [i for i in (*answer, *foil) if not 0 <= i < model.facts.vocab_size]
    if beyond or not answer:
        raise PromptError(
            f"Pair {number}: {beyond[0]} is no class of the model." if beyond else f"Pair {number}: no answer.",
            remedy=f"Give class numbers from 0 to {model.facts.vocab_size - 1}.",
            where={"pair": number, "field": "answer"},
        )
    return ImagesOfPair(
        number, ids, ids, texts, texts, answer, foil, answer_position=0,
        clean_pixels=clean, corrupted_pixels=corrupted,
    )  # fmt: skip


def _require_answers(model: LanguageModel, pairs: Sequence[TokenizedPair]) -> None:
    """Raises `PromptError` where the model reads another kind of input, or fills a mask that a pair does not have."""
    images = model.adapter.input_name == "pixel_values"
    for pair in pairs:
        if images != isinstance(pair, ImagesOfPair):
            kind = "images" if images else "token ids"
            raise PromptError(
                f"Pair {pair.number}: the family {model.family} reads {kind}.",
                remedy="Give ImagePair objects." if images else "Give PromptPair objects.",
                where={"pair": pair.number},
            )
        if model.adapter.residual == "post_norm" and pair.answer_position == -1:
            raise PromptError(
                f"Pair {pair.number}: the prompts have no mask token, and a model of the family {model.family} answers "
                "at a mask.",
                remedy="Write one mask token in each prompt, or give answer_position to the TokenizedPair.",
                where={"pair": pair.number, "field": "clean"},
            )


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPair(TokenizedPair):
    """A pair of an encoder-decoder model: positions are those of its decoder, which sees both runs everywhere."""

    @property
    def length(self) -> int:
        return len(self.decoder_ids)

    @property
    def differs(self) -> tuple[bool, ...]:
        return (True,) * len(self.decoder_ids)


def _with_decoder(model: LanguageModel, pair: TokenizedPair) -> TokenizedPair:
    if model.adapter.encoder is None or isinstance(pair, DecodedPair):
        return pair
    config: Any = model.config
    ids = pair.decoder_ids or (int(config.decoder_start_token_id),)
    names = tuple(model.tokens.texts(ids)) if _has_tokenizer(model) else tuple(map(str, ids))
    return DecodedPair(
        pair.number, pair.clean_ids, pair.corrupted_ids, names, names, pair.answer_ids, pair.foil_ids,
        answer_position=pair.answer_position, decoder_ids=ids,
    )  # fmt: skip


def _has_tokenizer(model: LanguageModel) -> bool:
    return model._tokenizer_given is not None or model._tokenizer_folder is not None


def inputs_of(model: LanguageModel, pairs: Sequence[TokenizedPair], side: str) -> dict[str, Tensor]:
    """The forward's arguments of pairs of one length, `side` "clean" or "corrupted"."""
    if isinstance(pairs[0], ImagesOfPair):
        pixels = [getattr(pair, f"{side}_pixels") for pair in pairs]
        return {"pixel_values": torch.stack(pixels).to(model.device, model.dtype)}
    rows = torch.tensor([list(getattr(pair, f"{side}_ids")) for pair in pairs], device=model.device)
    found = {model.adapter.input_name: rows}
    if model.adapter.encoder is not None:
        found["decoder_input_ids"] = torch.tensor([list(pair.decoder_ids) for pair in pairs], device=model.device)
    return found


def one_prompt(model: LanguageModel, prompt: Any, number: int) -> TokenizedPair:
    """A reference prompt (text, ids or pixels) as a pair of itself with itself. Raises `PromptError` for others."""
    if isinstance(prompt, Tensor) and prompt.is_floating_point():
        ids = tuple(range(model.facts.max_positions))
        names = tuple(map(str, ids))
        return ImagesOfPair(
            number, ids, ids, names, names, (), (), answer_position=0, clean_pixels=prompt, corrupted_pixels=prompt
        )
    if not isinstance(prompt, str | Sequence | Tensor):
        raise PromptError(
            f"Reference prompt {number} is {type(prompt).__name__}.", remedy="Give pairs, texts or rows of token ids."
        )
    found = tuple(model.tokens.encode(prompt) if isinstance(prompt, str) else (int(one) for one in prompt))
    names = tuple(map(str, found))
    pair = _with_decoder(model, TokenizedPair(number, found, found, names, names, (), ()))
    _require_readable(model, pair)
    return pair
