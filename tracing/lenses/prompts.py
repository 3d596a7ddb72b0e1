"""What a look runs on: prompts (texts, rows of ids, pairs, pixels) as equally long groups, nothing padded.

Prompts of one length run together, so every number is that of the prompt alone. An encoder-decoder model reads the
prompt with its encoder and is looked at where its decoder starts: one position, the start token's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import torch
from torch import Tensor

from tracing.errors import PromptError, SpecError
from tracing.models.pretrained import Pretrained
from tracing.patching.inputs import ImagePair, ImagesOfPair, ready
from tracing.prompts import PromptPair, TokenizedPair, require_usable

TOKENS_A_FORWARD: Final = 8192
"""Prompts that run together have at most this many tokens."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as the model reads it. `tokens` has one text for each position that is looked at."""

    number: int
    tokens: tuple[str, ...]
    inputs: dict[str, Tensor]
    """What a forward takes, rows of one."""
    answer: int | None = None
    """Where a pair says that the answer is read; None where nobody said it."""

    @property
    def length(self) -> int:
        """Positions that are looked at."""
        return len(self.tokens)

    @property
    def text(self) -> str:
        """Its tokens as one text; of an image, that it is one."""
        return f"image {self.number}" if "pixel_values" in self.inputs else "".join(self.tokens)

    @property
    def short(self) -> str:
        """Its text, cut to what a title has room for."""
        return self.text if len(self.text) <= 80 else f"{self.text[:79]}…"


@dataclass(frozen=True, slots=True)
class Batch:
    """Equally long prompts that run together: `numbers` are their indices in the list."""

    numbers: tuple[int, ...]
    inputs: dict[str, Tensor]
    length: int

    @property
    def rows(self) -> int:
        """How many prompts."""
        return len(self.numbers)


def pairs_of(model: Pretrained, pairs: Any, *, needs_foil: str = "") -> tuple[TokenizedPair, ...]:
    """Pairs as the model reads them: one, or a list, of `PromptPair`, `TokenizedPair` or `ImagePair`.

    Raises `PromptError` for a pair that cannot be used, or lacks the foil that the metric `needs_foil` compares with;
    `SpecError` for anything else than pairs.
    """
    if not are_pairs(pairs):
        raise SpecError(
            f"Pairs are needed, and {type(pairs).__name__} is none.", remedy="Give PromptPair objects, one at least."
        )
    found = ready(cast("Any", model), pairs)
    require_usable(found, needs_foil)
    return found


def are_pairs(prompts: Any) -> bool:
    """Whether these are prompt pairs, and not prompts."""
    first = prompts[0] if isinstance(prompts, list | tuple) and prompts else prompts
    return isinstance(first, PromptPair | TokenizedPair | ImagePair)


def prompts_of(model: Pretrained, prompts: Any, *, run: str = "clean") -> tuple[Prompt, ...]:
    """Prompts as the model reads them: a text, texts, a row or rows of ids, pairs (their `run`), or pixels.

    Raises `PromptError` where there are none, one is empty, longer than the model reads, or no row of its token ids;
    `ModelError` for texts without a tokenizer; `SpecError` for another run.
    """
    if run not in ("clean", "corrupted"):
        raise SpecError(f"Pairs have no run {run!r}.", remedy='Use "clean" or "corrupted".')
    if are_pairs(prompts):
        pairs = pairs_of(model, prompts)
        return tuple(_of_pair(model, pair, run) for pair in pairs)
    if model.adapter.input_name == "pixel_values":
        return _images(model, prompts)
    rows = _rows(model, prompts)
    if not rows:
        raise PromptError("There are no prompts.", remedy="Give at least one.")
    return tuple(_prompt(model, number, row) for number, row in enumerate(rows, start=1))


def texts_of(model: Pretrained, ids: Sequence[int]) -> list[str]:
    """The text of each id; the ids themselves where the model has no tokenizer."""
    if not has_tokenizer(model):
        return [str(one) for one in ids]
    found: list[str] = _text_model(model).tokens.texts(list(ids))
    return found


def batches(
    prompts: Sequence[Prompt], batch: int | str, device: torch.device, tokens: int = TOKENS_A_FORWARD
) -> Iterator[Batch]:
    """The prompts in groups of one length, `batch` at once ("auto": as many as have `tokens` tokens, one at least).

    Raises `SpecError` for what is no number of rows.
    """
    check_batch(batch)
    by_length: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        shape = (prompt.length, *(value.shape[1] for value in prompt.inputs.values()))
        by_length.setdefault(shape, []).append(number)
    for numbers in by_length.values():
        length = prompts[numbers[0]].length
        at_once = max(1, tokens // max(1, length)) if batch == "auto" else int(batch)
        for lo in range(0, len(numbers), at_once):
            chosen = numbers[lo : lo + at_once]
            names = prompts[chosen[0]].inputs
            inputs = {name: torch.cat([prompts[n].inputs[name] for n in chosen]).to(device) for name in names}
            yield Batch(tuple(chosen), inputs, length)


def check_batch(batch: int | str) -> None:
    """Raises `SpecError` for what is no number of rows."""
    if batch != "auto" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise SpecError(f"batch={batch!r} is no number of prompts.", remedy='Give a number from 1 on, or "auto".')


def position_in(prompt: Prompt, position: int | None, model: Pretrained) -> int:
    """The position that is read: given (from the end where negative), else where the model answers.

    That is the last position of a decoder, the mask token of a masked language model, the class token of an image
    model. Raises `PromptError` for a position that the prompt does not have, or a prompt without its mask token.
    """
    if position is not None:
        if not is_whole(position) or not -prompt.length <= position < prompt.length:
            raise PromptError(
                f"Prompt {prompt.number} has no position {position!r}: it has {prompt.length} tokens.",
                remedy=f"Positions are 0 to {prompt.length - 1}, or from -1 backwards.",
            )
        return position % prompt.length
    if model.adapter.input_name == "pixel_values":
        return 0
    if prompt.answer is not None and not (prompt.answer == -1 and bidirectional(model)):
        return prompt.answer % prompt.length
    if not bidirectional(model):
        return prompt.length - 1
    raise PromptError(
        f"Prompt {prompt.number} has no mask token, so where this model answers is not known.",
        remedy="Put the mask token into the prompt, or give position=.",
    )


def is_whole(value: object) -> bool:
    """Whether this is a whole number: True and 1.0 are equal to 1, and would pass for it."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def bidirectional(model: Pretrained) -> bool:
    """Whether positions see later ones."""
    return model.adapter.residual == "post_norm" or model.adapter.input_name == "pixel_values"


def has_tokenizer(model: Pretrained) -> bool:
    """Whether texts can be read."""
    return getattr(model, "_tokenizer_given", None) is not None or getattr(model, "_tokenizer_folder", None) is not None


# -- reading ----------------------------------------------------------------------------------------------------------
def _text_model(model: Any) -> Any:
    """The model, whose `tokens` and `encode` raise `ModelError` where it reads no text."""
    return model


def _rows(model: Pretrained, prompts: Any) -> list[list[int]]:
    if isinstance(prompts, Tensor):
        prompts = (prompts if prompts.dim() > 1 else prompts[None]).tolist()
    if isinstance(prompts, str):
        return _encoded(model, [prompts])
    given = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    if given and all(isinstance(one, str) for one in given):
        return _encoded(model, given)
    several: list[Any] = [given] if given and all(isinstance(one, int) for one in given) else given
    for number, row in enumerate(several, start=1):
        if isinstance(row, str) or not isinstance(row, Iterable) or not all(map(is_whole, row)):
            raise PromptError(
                f"Prompt {number} is neither a text nor a row of token ids.", remedy="Give all texts, or all rows."
            )
    return [[int(one) for one in row] for row in several]


def _encoded(model: Pretrained, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = _text_model(model).encode(texts)
    return found


def _of_pair(model: Pretrained, pair: TokenizedPair, run: str) -> Prompt:
    if isinstance(pair, ImagesOfPair):
        pixels = pair.clean_pixels if run == "clean" else pair.corrupted_pixels
        return Prompt(pair.number, pair.clean_tokens, {"pixel_values": pixels[None].to(model.dtype)}, 0)
    ids = pair.clean_ids if run == "clean" else pair.corrupted_ids
    tokens = pair.clean_tokens if run == "clean" else pair.corrupted_tokens
    found = _prompt(model, pair.number, list(ids), pair.decoder_ids, tokens)
    return replace(found, answer=None if model.adapter.encoder else pair.answer_position)


def _prompt(
    model: Pretrained, number: int, ids: list[int], decoder: tuple[int, ...] = (), tokens: tuple[str, ...] = ()
) -> Prompt:
    if not ids:
        raise PromptError(f"Prompt {number} is empty.", remedy="Give it at least one token.")
    if len(ids) > model.facts.max_positions and not model.adapter.encoder:
        raise PromptError(
            f"Prompt {number} has {len(ids)} tokens, the model reads at most {model.facts.max_positions}.",
            remedy=f"Shorten it by {len(ids) - model.facts.max_positions} tokens.",
        )
    bad = [one for one in ids if not 0 <= one < model.facts.vocab_size]
    if bad:
        raise PromptError(
            f"Prompt {number}: {bad[0]} is no token id of the model.",
            remedy=f"Its ids are 0 to {model.facts.vocab_size - 1}.",
        )
    name = model.adapter.input_name or "input_ids"
    inputs = {name: torch.tensor([ids])}
    if model.adapter.encoder is None:
        # Decoders may have a mask token in their vocabulary; they answer at their last position all the same.
        mask = _text_model(model).tokens.mask_id if bidirectional(model) and has_tokenizer(model) else None
        answer = ids.index(mask) if mask in ids else None
        return Prompt(number, tokens or tuple(texts_of(model, ids)), inputs, answer)
    decoder = decoder or (int(getattr(model.config, "decoder_start_token_id", None) or 0),)
    return Prompt(number, tuple(texts_of(model, decoder)), {**inputs, "decoder_input_ids": torch.tensor([decoder])})


def _images(model: Any, images: Any) -> tuple[Prompt, ...]:
    from tracing.graph.nodes import Inputs  # the wrapper's own reading of pixels, processors' outputs and pictures

    pixels = model.batch([Inputs((images,))]).kwargs["pixel_values"].cpu()
    tokens = ("class token", *(f"patch {n}" for n in range(model.facts.max_positions - 1)))
    return tuple(Prompt(n, tokens, {"pixel_values": one[None]}) for n, one in enumerate(pixels, start=1))
