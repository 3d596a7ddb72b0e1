"""From what each invoke was given to one call of the model, and which rows and positions of it belong to whom.

Text and ids, `batch_text`:
1. Every invoke's prompt becomes ids `[row, position]` of its own width, with the mask its rows need.
2. If all widths are equal, the ids are stacked and nothing else is passed: the call is the one a user would write.
3. Otherwise rows are padded on the left to one length, with a mask, and with position ids that start at 0 at each row's
   first token where the model takes them. The padded length differs from every other size of the model, so that an
   axis of that size is an axis over positions.
4. What a decoder reads besides (`decoder_input_ids`, an encoder-decoder's labels) is padded on the right: it is causal.

Any other module, `batch_tensors`: tensors of the invokes one after the other along dimension 0.
Nothing is ever cut off: a prompt that does not fit is an error.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tracing.errors import PromptError
from tracing.graph.nodes import Inputs
from tracing.models.inputs import FILLS, IGNORED_LABEL, Encode, Prompt, pad, read_prompt, tensors_in
from tracing.models.rules import TextRules

__all__ = ["Batch", "Encode", "Inputs", "Rows", "TextRules", "batch_tensors", "batch_text"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The part of the batch one invoke sees: rows `start:stop`, positions from `pad` on."""

    start: int
    stop: int
    pad: int = 0
    """Columns of padding on the left that all rows of this invoke have and its user did not give."""
    decoder: int | None = None
    """How many positions of the decoder are the invoke's, where `Batch.decoder_length` is set."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the model: `module(*args, **kwargs)`, and the rows of each invoke in their order."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: tuple[Rows, ...]
    total: int
    """Rows of all invokes together."""
    length: int | None = None
    """Positions of the batch, padding included; None where inputs have no position axis."""
    decoder_length: int | None = None
    """Positions of an encoder-decoder's decoder, only where its invokes give decoder inputs of unequal lengths."""


# -- text and ids -----------------------------------------------------------------------------------------------------
def batch_text(
    inputs: Sequence[Inputs],
    rules: TextRules,
    *,
    encode: Encode | None = None,
    generating: bool = False,
    steps: int = 1,
    device: torch.device | None = None,
) -> Batch:
    """The one call that runs all invokes' prompts; `steps` of a generation are read or written.

    An invoke gives one prompt: a text, a list of texts, ids (a list, a list of lists, a tensor `[position]` or
    `[row, position]`), or a mapping with `input_ids`, as tokenizers return; anything else by name.
    Raises `PromptError` for a prompt that is empty, too long, not in the vocabulary or not a prompt at all, for inputs
    of several invokes that do not fit together, and where prompts of unequal lengths cannot be batched on this model;
    `TypeError` for an input of a kind no model reads.
    """
    if not generating and not rules.encoder_decoder:
        quick = _of_one_width(inputs, rules, encode, device)
        if quick is not None:
            return quick
    read = [read_prompt(number, one, rules, encode) for number, one in enumerate(inputs, start=1)]
    prompts = [prompt for prompt in read if prompt is not None]
    if not prompts:
        raise PromptError("No prompt was given.", remedy='Give one: model.trace("text"), or tracer.invoke("text").')
    total, width = sum(prompt.count for prompt in prompts), max(prompt.width for prompt in prompts)
    padded = any(prompt.ragged or prompt.width != width for prompt in prompts)
    length = width
    if padded:
        _require_paddable(rules, prompts, width)
        # Nor may an axis over the decoder's positions, of which each step has one more, look like the encoder's.
        decoded = {one.decoder_width + step for one in prompts for step in range(steps) if rules.encoder_decoder}
        length = _free_length(width, {*rules.sizes, total, *decoded}, steps)
    kwargs = _merge_tokens(prompts, rules, length, padded=padded, generating=generating)
    decoder_length = _merge_decoder(kwargs, prompts, rules, {*rules.sizes, total, length}, generating=generating)
    kwargs.update(_merge_rows(prompts, total))
    if device is not None:
        kwargs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    kwargs.update(_merge_shared(inputs, prompts))
    if not generating and "use_cache" in rules.takes:
        kwargs.setdefault("use_cache", False)
    return Batch((), kwargs, _rows(read, length, decoder_length), total, length, decoder_length)


def _of_one_width(
    inputs: Sequence[Inputs], rules: TextRules, encode: Encode | None, device: torch.device | None
) -> Batch | None:
    """The call for the usual prompts, texts or ids of one width and nothing else, in a few steps; None for others.

    Whatever is wrong with a prompt is for the long way to say.
    """
    rows: list[list[int]] = []
    counts: list[int] = []
    tensors: list[Tensor] = []
    for one in inputs:
        if len(one.args) != 1 or one.kwargs:
            return None
        prompt = one.args[0]
        if isinstance(prompt, str) and encode is not None:
            prompt = encode([prompt], True)[0]
        elif isinstance(prompt, Tensor) and prompt.dtype == torch.int64 and prompt.dim() in (1, 2):
            tensors.append(prompt)
            prompt = prompt.tolist()
        elif type(prompt) is not list or not prompt or not all(type(item) in (int, list) for item in prompt):
            return None
        prompt = prompt if prompt and type(prompt[0]) is list else [prompt]
        rows += prompt
        counts.append(len(prompt))
    width = len(rows[0]) if rows else 0
    if not 0 < width <= (rules.max_positions or width) or rules.vocab_size is None:
        return None
    if any(len(row) != width or set(map(type, row)) != {int} for row in rows):
        return None
    if min(map(min, rows)) < 0 or max(map(max, rows)) >= rules.vocab_size:
        return None
    # A prompt that is a tensor already is taken as it is: nothing writes to the ids.
    alone = len(tensors) == 1 and len(counts) == 1
    ids = tensors[0].view(-1, width).to(device) if alone else torch.tensor(rows, device=device)
    kwargs: dict[str, Any] = {"input_ids": ids}
    if "use_cache" in rules.takes:
        kwargs["use_cache"] = False
    ends = list(accumulate(counts))
    spans = tuple(Rows(end - count, end) for end, count in zip(ends, counts, strict=True))
    return Batch((), kwargs, spans, len(rows), width)


def _rows(read: Sequence[Prompt | None], length: int, decoder_length: int | None) -> tuple[Rows, ...]:
    """The rows of each invoke; one without a prompt sees all, without the padding that all have."""
    prompts = [prompt for prompt in read if prompt is not None]
    total = sum(prompt.count for prompt in prompts)
    found, start = [], 0
    for prompt in read:
        if prompt is None:
            widths = [one.width for one in prompts], [one.decoder_width for one in prompts]
            found.append(Rows(0, total, length - max(widths[0]), max(widths[1]) if decoder_length else None))
            continue
        stop = start + prompt.count
        found.append(Rows(start, stop, length - prompt.width, prompt.decoder_width if decoder_length else None))
        start = stop
    return tuple(found)


def _require_paddable(rules: TextRules, prompts: Sequence[Prompt], width: int) -> None:
    """Raises `PromptError` where padding would change values."""
    reason = rules.refusal()
    if not reason and "attention_mask" not in rules.takes:
        reason = "its forward takes no attention_mask"
    if not reason and any("attention_mask" in prompt.by_row for prompt in prompts):
        reason = "an attention_mask with more than two axes cannot be padded"
    if reason:
        widths = ", ".join(str(prompt.width) for prompt in prompts) if len(prompts) > 1 else f"up to {width}"
        raise PromptError(
            f"Prompts of unequal lengths ({widths} tokens) cannot be one batch on this model: {reason}.",
            remedy="Trace them one by one, or give prompts of one length.",
        )


def _free_length(width: int, taken: Collection[int], steps: int = 1) -> int:
    """The smallest length from `width` on that is no other size, nor becomes one in that many steps."""
    for size in sorted(taken):
        if width <= size < width + steps:
            width = size + 1
    return width


def _merge_tokens(
    prompts: Sequence[Prompt], rules: TextRules, length: int, *, padded: bool, generating: bool
) -> dict[str, Any]:
    """Inputs with a position axis, all prompts' rows together."""
    names = {name: None for prompt in prompts for name in prompt.tokens}
    # `generate` takes ids that equal the padding id for padding unless there is a mask that says otherwise.
    masked = padded or "attention_mask" in names or (generating and "attention_mask" in rules.takes)
    if masked:
        names["attention_mask"] = None
        for prompt in prompts:
            prompt.tokens.setdefault("attention_mask", torch.ones(prompt.main.shape[:2], dtype=torch.long))
    if "position_ids" in rules.takes and not generating and (padded or _starts_late(prompts)):
        names["position_ids"] = None
    if "position_ids" in names:
        for prompt in prompts:
            prompt.tokens.setdefault("position_ids", _positions(prompt, rules.first_position))
    merged = {}
    for name in names:
        fill = rules.pad_id if name == "input_ids" else FILLS[name]
        _require_all(name, prompts)
        parts = [pad(_token_input(name, prompt), length, 1, fill) for prompt in prompts]
        merged[name] = _concatenate(name, parts, prompts)
    if padded and rules.shifted_labels and "labels" in merged:
        _forget_first(merged["labels"], merged["attention_mask"])
    return merged


def _forget_first(labels: Tensor, mask: Tensor) -> None:
    """Takes the first token of padded rows out of the loss: the logits before it are those of padding."""
    late = (mask[:, 0] == 0).nonzero()[:, 0]
    labels[late, (mask[late] != 0).to(torch.uint8).argmax(1)] = IGNORED_LABEL


def _token_input(name: str, prompt: Prompt) -> Tensor:
    if name not in prompt.tokens:  # `_require_all` left only those with a neutral value
        return torch.full(prompt.main.shape[:2], FILLS[name], dtype=torch.long)
    return prompt.tokens[name]


def _require_all(name: str, prompts: Sequence[Prompt]) -> None:
    """Raises `PromptError` where one prompt lacks an input of the others that has no neutral value."""
    lacking = [prompt.number for prompt in prompts if name not in prompt.tokens]
    if lacking and name not in ("labels", "token_type_ids"):
        raise PromptError(
            f"Invoke {lacking[0]} has no {name}, which another invoke of the batch has.",
            remedy="Give the same kinds of inputs to all invokes.",
        )


def _starts_late(prompts: Sequence[Prompt]) -> bool:
    """Whether a user's mask leaves out first columns."""
    return any(
        "attention_mask" in prompt.tokens and not bool(prompt.tokens["attention_mask"][:, 0].all())
        for prompt in prompts
    )


def _positions(prompt: Prompt, first: int) -> Tensor:
    """Position ids `[row, position]` from each row's first token on; what a mask leaves out later still counts."""
    mask = prompt.tokens.get("attention_mask")
    columns = torch.arange(prompt.width)
    if mask is None:
        return (columns + first).expand(prompt.count, -1)
    begin = (mask != 0).to(torch.uint8).argmax(dim=1, keepdim=True).to(columns.device)
    return (columns - begin).clamp_min(0) + first


def _merge_decoder(
    kwargs: dict[str, Any], prompts: Sequence[Prompt], rules: TextRules, taken: set[int], *, generating: bool
) -> int | None:
    """Adds the decoder's inputs to `kwargs`; returns the padded decoder length where lengths are unequal."""
    names = {name: None for prompt in prompts for name in prompt.decoder}
    if not names:
        if rules.encoder_decoder and rules.decoder_start is not None and not generating:
            kwargs["decoder_input_ids"] = torch.full((sum(prompt.count for prompt in prompts), 1), rules.decoder_start)
        return None
    lacking = [prompt.number for prompt in prompts if prompt.decoder.keys() != names.keys()]
    if lacking:
        raise PromptError(
            f"Invoke {lacking[0]} does not have all of {', '.join(names)}, which another invoke of the batch has.",
            remedy="Give the same decoder inputs to all invokes.",
        )
    widths = {prompt.decoder_width for prompt in prompts}
    if generating and len(widths) > 1:  # a generation goes on after the last position, which would be padding
        raise PromptError(
            f"Decoder prompts of unequal lengths ({', '.join(map(str, sorted(widths)))}) cannot be one generation.",
            remedy="Generate prompt by prompt, or give decoder prompts of one length.",
        )
    length = max(widths) if len(widths) == 1 else _free_length(max(widths), taken)
    for name in names:
        parts = [pad(prompt.decoder[name], length, 1, FILLS[name], left=False) for prompt in prompts]
        kwargs[name] = _concatenate(name, parts, prompts)
    return length if len(widths) > 1 else None


# -- rows and options -------------------------------------------------------------------------------------------------
def _concatenate(name: str, parts: Sequence[Tensor], prompts: Sequence[Prompt]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1:] for part in parts}) > 1:
        raise _unfitting(name, [(prompt.number, part) for prompt, part in zip(prompts, parts, strict=True)])
    return torch.cat([part.to(parts[0].device) for part in parts])


def _merge_rows(prompts: Sequence[Prompt], total: int) -> dict[str, Tensor]:
    """Inputs with one entry a row."""
    merged = {}
    for name in {name: None for prompt in prompts for name in prompt.by_row}:
        parts = [prompt.by_row[name] for prompt in prompts if name in prompt.by_row]
        if len(parts) < len(prompts):
            raise PromptError(
                f"{name} has one entry a row, and not every invoke gives it.", remedy="Give it to all invokes."
            )
        merged[name] = _concatenate(name, parts, prompts)
        assert merged[name].shape[0] == total
    return merged


def _merge_shared(inputs: Sequence[Inputs], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Options of the one call, which invokes cannot set differently."""
    by_number = {prompt.number: prompt.shared for prompt in prompts}
    merged: dict[str, Any] = {}
    for number, given in enumerate(inputs, start=1):
        options = by_number.get(number)
        if options is None:
            options = {name: value for name, value in given.kwargs.items() if name != "add_special_tokens"}
        for name, value in options.items():
            if name in merged and not _same(merged[name], value):
                raise PromptError(
                    f"Invoke {number} sets {name} otherwise than an invoke before it, but they run as one call.",
                    remedy="Give all invokes the same options, or trace them one by one.",
                )
            merged[name] = value
    return merged


def _unfitting(name: str, parts: Sequence[tuple[int, Tensor]]) -> PromptError:
    shapes = ", ".join(f"invoke {number} {list(part.shape)}" for number, part in parts)
    return PromptError(
        f"{name} of these invokes cannot be one batch: {shapes}.",
        remedy="All sizes but the first must be equal; trace them one by one otherwise.",
        where={"shapes": {number: list(part.shape) for number, part in parts}},
    )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left is right or (left.shape == right.shape and bool((left == right).all()))
    return left is right or (type(left) is type(right) and bool(left == right))


# -- any module -------------------------------------------------------------------------------------------------------
def batch_tensors(inputs: Sequence[Inputs], *, device: torch.device | None = None) -> Batch:
    """The one call of a module that takes tensors: those of the invokes, concatenated along dimension 0.

    Tensors may lie in lists, tuples and dicts. Whatever has no rows (numbers, options, 0-dimensional tensors, tensors
    with another first size than the invoke's first tensor) must be equal in all invokes.
    Raises `PromptError` naming invokes and shapes that do not fit together.
    """
    given = [(number, one) for number, one in enumerate(inputs, start=1) if one.args or one.kwargs]
    if not given:
        raise PromptError("No input was given.", remedy="Give what the module takes: model.trace(tensor).")
    trees = [({"args": one.args, "kwargs": dict(one.kwargs)}) for _, one in given]
    numbers = [number for number, _ in given]
    counts = [_count(tree) for tree in trees]
    merged = _merge("input", trees, numbers, counts, device)
    total, start, rows = sum(counts), 0, []
    owned = dict(zip(numbers, counts, strict=True))
    for number in range(1, len(inputs) + 1):
        count = owned.get(number)
        rows.append(Rows(0, total) if count is None else Rows(start, start + count))
        start += count or 0
    return Batch(tuple(merged["args"]), merged["kwargs"], tuple(rows), total)


def _count(tree: Any) -> int:
    """Rows of an invoke: the first size of its first tensor; 1 where it has none."""
    return next((int(tensor.shape[0]) for tensor in tensors_in(tree) if tensor.dim()), 1)


def _merge(
    name: str, parts: Sequence[Any], numbers: Sequence[int], counts: Sequence[int], device: torch.device | None
) -> Any:
    """One value of as many as there are invokes."""
    first = parts[0]
    if isinstance(first, Tensor):
        return _merge_tensors(name, parts, numbers, counts, device)
    kinds = {type(part) for part in parts}
    if len(kinds) == 1 and isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):
            raise _different(name, numbers)
        return {key: _merge(str(key), [part[key] for part in parts], numbers, counts, device) for key in first}
    if len(kinds) == 1 and isinstance(first, list | tuple):
        if any(len(part) != len(first) for part in parts):
            raise _different(name, numbers)
        merged = [
            _merge(f"{name} {n}", [part[n] for part in parts], numbers, counts, device) for n in range(len(first))
        ]
        return type(first)(*merged) if hasattr(first, "_fields") else type(first)(merged)
    if any(not _same(first, part) for part in parts):
        raise _different(name, numbers)
    return first


def _merge_tensors(
    name: str, parts: Sequence[Any], numbers: Sequence[int], counts: Sequence[int], device: torch.device | None
) -> Tensor:
    if not all(isinstance(part, Tensor) for part in parts):
        raise _different(name, numbers)
    tensors: list[Tensor] = [part if device is None else part.to(device) for part in parts]
    if len(tensors) == 1:
        return tensors[0]
    by_row = all(tensor.dim() and tensor.shape[0] == count for tensor, count in zip(tensors, counts, strict=True))
    if by_row and len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(tensors)
    if all(_same(tensors[0], tensor) for tensor in tensors) and not by_row:
        return tensors[0]
    raise _unfitting(name, list(zip(numbers, tensors, strict=True)))


def _different(name: str, numbers: Sequence[int]) -> PromptError:
    return PromptError(
        f"{name.capitalize()} differs between the invokes {', '.join(map(str, numbers))}, which run as one call.",
        remedy="Give all invokes the same inputs but for their tensors, or trace them one by one.",
    )
