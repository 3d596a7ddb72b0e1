"""What invokes are given, read into tensors: text, ids, tensors and tokenizer output, by the axes they have."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor

from tracing.errors import PromptError
from tracing.graph.nodes import Inputs
from tracing.models.rules import TextRules

IGNORED_LABEL: Final = -100
"""The label that transformers leaves out of the loss."""

FILLS: Final = {
    "input_ids": 0, "inputs_embeds": 0, "attention_mask": 0, "token_type_ids": 0, "position_ids": 0,
    "labels": IGNORED_LABEL,
    "decoder_input_ids": 0, "decoder_inputs_embeds": 0, "decoder_attention_mask": 0,
}  # fmt: skip
"""Inputs with one entry a position, and what stands in padding."""


Encode = Callable[[Sequence[str], bool], list[list[int]]]
"""Texts, and whether to add special tokens, to ids."""


@dataclass(slots=True)
class Prompt:
    """One invoke's inputs, sorted by the axes they have."""

    number: int
    tokens: dict[str, Tensor] = field(default_factory=dict)
    """`[row, position, …]`"""
    decoder: dict[str, Tensor] = field(default_factory=dict)
    """`[row, decoder position, …]`"""
    by_row: dict[str, Tensor] = field(default_factory=dict)
    """`[row, …]`"""
    shared: dict[str, Any] = field(default_factory=dict)
    ragged: bool = False
    """Whether rows were padded to one width here, rather than by the user."""

    @property
    def main(self) -> Tensor:
        return self.tokens["input_ids" if "input_ids" in self.tokens else "inputs_embeds"]

    @property
    def count(self) -> int:
        return int(self.main.shape[0])

    @property
    def width(self) -> int:
        return int(self.main.shape[1])

    @property
    def decoder_width(self) -> int:
        return max((int(tensor.shape[1]) for tensor in self.decoder.values()), default=1)


def read_prompt(number: int, given: Inputs, rules: TextRules, encode: Encode | None) -> Prompt | None:
    """One invoke's inputs as tensors; None where it gives no prompt."""
    named = dict(given.kwargs)
    special = bool(named.pop("add_special_tokens", True))
    if len(given.args) > 1:
        raise PromptError(
            f"Invoke {number} was given {len(given.args)} prompts, but an invoke takes one.",
            remedy="Give a list of texts, or an invoke to each.",
        )
    if given.args:
        prompt = given.args[0]
        fields = dict(prompt) if isinstance(prompt, Mapping) else {"input_ids": _ids(number, prompt, encode, special)}
        if twice := sorted(fields.keys() & named.keys()):
            raise PromptError(
                f"Invoke {number} was given {', '.join(twice)} twice, in its prompt and by name.",
                remedy="Give it once.",
            )
        named = {**fields, **named}
    if "input_ids" not in named and "inputs_embeds" not in named:
        if not given.args and not any(_has_rows(value) for value in named.values()):
            return None
        raise PromptError(
            f"Invoke {number} has no input_ids, only {', '.join(sorted(named)) or 'an empty mapping'}.",
            remedy="Give a text, ids, or a mapping with input_ids.",
        )
    found = _sort(number, named, rules)
    if rules.encoder_decoder:  # labels have the decoder's positions, even where their number is the encoder's
        for group in (found.tokens, found.by_row):
            if "labels" in group:
                found.decoder["labels"] = group.pop("labels")
    _require_valid(found, rules)
    return found


def _ids(number: int, prompt: Any, encode: Encode | None, special: bool) -> Any:
    """Ids of a prompt given by position: encoded where it is text."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    if isinstance(texts, list | tuple) and texts and all(isinstance(one, str) for one in texts):
        if encode is None:
            raise PromptError(
                f"The prompt of invoke {number} is text, and this model has no tokenizer.",
                remedy="Pass tokenizer= to the model, or give token ids.",
            )
        return encode(list(texts), special)
    if isinstance(prompt, Tensor | np.ndarray | list | tuple):
        return prompt
    raise TypeError(
        f"Invoke {number} was given {type(prompt).__name__}, which is no prompt. Give a text, a list of texts, "
        "token ids (a list or a tensor), or a mapping with input_ids."
    )


def _sort(number: int, named: Mapping[str, Any], rules: TextRules) -> Prompt:
    """The named inputs of an invoke as tensors, by the axes they have."""
    prompt = Prompt(number)
    main = "input_ids" if named.get("input_ids") is not None else "inputs_embeds"
    lists = {name: value for name, value in named.items() if name in FILLS and isinstance(value, list | tuple)}
    prompt.tokens[main] = _rectangle(number, main, named[main])
    if main in lists and _ragged(lists[main]):
        prompt.ragged = True
        lengths = torch.tensor([len(row) for row in lists[main]])
        prompt.tokens["attention_mask"] = (torch.arange(prompt.width) >= prompt.width - lengths[:, None]).long()
    for name, value in named.items():
        if name == main or value is None:
            continue
        if name == "labels" and not rules.encoder_decoder and np.shape(value) == (prompt.count,) != (prompt.width,):
            prompt.by_row[name] = torch.as_tensor(value)
        elif name in FILLS:
            _place(prompt, name, _rectangle(number, name, value), cached="past_key_values" in named)
        elif isinstance(value, Tensor) and value.dim() and value.shape[0] == prompt.count:
            prompt.by_row[name] = value
        else:
            prompt.shared[name] = value
    return prompt


def _place(prompt: Prompt, name: str, tensor: Tensor, *, cached: bool) -> None:
    """Puts an input that has positions where it belongs; `cached` positions are not in the prompt."""
    if tensor.shape[0] == 1 and prompt.count > 1:
        tensor = tensor.expand(prompt.count, *tensor.shape[1:])
    if prompt.ragged and name == "attention_mask":  # a list like the ids: what padded them is known already
        tensor = tensor * prompt.tokens[name]
    if tensor.shape[0] == prompt.count and name.startswith("decoder_"):
        prompt.decoder[name] = tensor
    elif tensor.shape[:2] == prompt.main.shape[:2] and not _full_mask(name, tensor):
        prompt.tokens[name] = tensor
    elif tensor.shape[0] == prompt.count and (cached or name == "labels" or _full_mask(name, tensor)):
        prompt.by_row[name] = tensor
    else:
        raise PromptError(
            f"The {name} of invoke {prompt.number} has shape {list(tensor.shape)}, but its prompt has shape "
            f"{list(prompt.main.shape[:2])}.",
            remedy="Give one entry a token.",
        )


def _full_mask(name: str, tensor: Tensor) -> bool:
    """Whether this is a mask over pairs of positions."""
    return name == "attention_mask" and tensor.dim() > 2


def _rectangle(number: int, name: str, value: Any) -> Tensor:
    """A tensor `[row, position, …]` of a list or tensor, unequal rows padded on the left."""
    wanted = 3 if name.endswith("embeds") else 2
    tensor = torch.as_tensor(value) if isinstance(value, Tensor | np.ndarray) else _stack(number, name, value)
    if tensor.dim() == wanted - 1:
        tensor = tensor[None]
    if name.endswith("_ids") and tensor.numel() and (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise PromptError(
            f"The {name} of invoke {number} are {str(tensor.dtype).removeprefix('torch.')}, not token ids.",
            remedy="Give integers, or pass hidden states as inputs_embeds=.",
        )
    return tensor.long() if name.endswith("_ids") else tensor


def _stack(number: int, name: str, value: Any) -> Tensor:
    """`_rectangle` of lists."""
    try:
        rows = [torch.as_tensor(row) for row in (value if _nested(value) else [value])]
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"The {name} of invoke {number} are no list of numbers: {error}.") from error
    empty = next((place for place, row in enumerate(rows) if not len(row)), None)
    if empty is not None:
        raise _no_tokens(number, empty if len(rows) > 1 else None)
    width = max(len(row) for row in rows)
    return torch.stack([pad(row, width, 0, FILLS[name]) for row in rows])


def _nested(value: Any) -> bool:
    return bool(value) and not isinstance(value[0], int | float | np.integer | np.floating)


def _ragged(value: Any) -> bool:
    return _nested(value) and len({len(row) for row in value}) > 1


def _require_valid(prompt: Prompt, rules: TextRules) -> None:
    """Raises `PromptError` for no tokens, too many, or ids outside the vocabulary."""
    ids, number = prompt.main, prompt.number
    if ids.numel() == 0:
        raise _no_tokens(number)
    axes = "[row, position, d_model]" if ids.is_floating_point() else "[row, position]"
    if ids.dim() != axes.count(",") + 1:
        raise PromptError(
            f"The prompt of invoke {number} has shape {list(ids.shape)}, not {axes}.",
            remedy="Give one row of ids a sequence.",
        )
    if rules.max_positions is not None and prompt.width > rules.max_positions:
        raise PromptError(
            f"The prompt of invoke {number} has {prompt.width} tokens, but the model reads {rules.max_positions}.",
            remedy="Shorten it: nothing is cut off silently.",
            where={"invoke": number, "tokens": prompt.width, "positions": rules.max_positions},
        )
    if rules.vocab_size is None or ids.is_floating_point() or ids.device.type != "cpu":
        return
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= rules.vocab_size:
        raise PromptError(
            f"The prompt of invoke {number} has the token id {low if low < 0 else high}, but "
            f"{'ids are 0 to' if low < 0 else 'the vocabulary ends at'} {rules.vocab_size - 1}.",
            remedy="Use the tokenizer of this model.",
            where={"invoke": number, "id": low if low < 0 else high, "vocab_size": rules.vocab_size},
        )


def _no_tokens(number: int, row: int | None = None) -> PromptError:
    which = "The" if row is None else f"Row {row} (the first is row 0) of the"
    return PromptError(f"{which} prompt of invoke {number} has no tokens.", remedy="Give at least one token a row.")


def pad(tensor: Tensor, length: int, axis: int, fill: int, *, left: bool = True) -> Tensor:
    """`tensor` with `axis` filled up to `length`."""
    missing = length - tensor.shape[axis]
    if not missing:
        return tensor
    sides = (missing, 0) if left else (0, missing)
    return pad_tensor(tensor, (0, 0) * (tensor.dim() - axis - 1) + sides, value=fill)


def _has_rows(value: Any) -> bool:
    return any(tensor.dim() for tensor in tensors_in(value))


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and mappings, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors_in(value)
