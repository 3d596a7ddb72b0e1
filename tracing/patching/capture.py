"""One forward pass that remembers what a sweep needs: site activations, keys and values, the blocks' arguments.

The forward is the model's own; sites are read by hooks at the places the adapter names, keys and values by a recorder
that stands where transformers expects a cache, so both are what attention really used (after rotary embedding,
key-value heads not repeated). Patterns are read inside attention (`tracing.engines.attention`).
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from tracing.engines.attention import Taps, tapped
from tracing.engines.hooks import Hooks, first_argument, hooks, main_output
from tracing.errors import OutOfMemoryError, Stopped
from tracing.families.identities import head_writes
from tracing.families.reading import follow
from tracing.models import LanguageModel
from tracing.patching.footprint import REMEDY, Kept
from tracing.patching.memory import free, is_out_of_memory

TOKENS_A_FORWARD: Final = 16384
"""Prompts that run together in a baseline forward have at most this many tokens."""

PATCHES: Final = 256
"""As how many tokens an image counts where batches are cut."""

CACHE_NAMES: Final = ("past_key_values", "layer_past")
"""How attention modules call the cache that they are given."""


@dataclass(slots=True)
class Activations:
    """What one batch of equally long prompts did. Lists have one entry a layer.

    `sites[name][layer]` has the site's shape as in `model.sites` (`[pair, position, d_model]`, with heads
    `[pair, position, head, d_head]`, pattern `[pair, head, query, key]`), and neurons `[pair, position, d_mlp]`;
    `resid_pre` has one entry more, the residual behind the last block. `keys`/`values` are
    `[pair, kv_head, position, d_head]`. Only what was asked for is there; `final` always is.
    """

    final: Tensor
    """The residual behind the last block at the answer position, `[pair, d_model]`."""
    sites: dict[str, list[Tensor]]
    answer: int = -1
    """The position whose logits are read; −1 is the last."""
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    arguments: list[dict[str, Any]] = field(default_factory=list)
    """With what each block was called besides the residual stream, by the names of its forward."""

    def boundary(self, number: int) -> Tensor:
        """The residual stream at the entrance of a block (or behind the last one), `[pair, position, d_model]`."""
        return self.sites["resid_pre"][number]


class _Recorder:
    """Stands in for a transformers cache: keeps what attention hands it, and hands it back."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self._activations.keys.append(_own(keys))
        self._activations.values.append(_own(values))
        return keys, values


def _own(values: Tensor) -> Tensor:
    """The tensor with memory of its own: a view into queries, keys and values together would keep all three."""
    if values.untyped_storage().nbytes() == values.numel() * values.itemsize:
        return values
    return values.clone(memory_format=torch.contiguous_format)


def capture(
    model: LanguageModel,
    inputs: Mapping[str, Tensor] | Sequence[Sequence[int]],
    kept: Kept,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    answer: int = -1,
) -> Activations:
    """Run prompts of one length and keep what is asked for.

    `inputs` are the forward's arguments by name, each with an entry for every pair, or rows of ids. `answer` is the
    position that the metric reads.
    Raises `OutOfMemoryError` where it does not fit, `Stopped` between two forwards once `should_stop()`.
    """
    given = _inputs(model, inputs)
    pairs, tokens = _size(given)
    at_once = max(1, TOKENS_A_FORWARD // tokens)
    parts = []
    try:
        for lo in range(0, pairs, at_once):
            if should_stop():
                raise Stopped
            batch = {name: value[lo : lo + at_once].to(model.device) for name, value in given.items()}
            parts.append(_capture(model, batch, kept, answer))
        found = _joined(parts, at_once)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(model, pairs, tokens, kept) from error
    if "resid_post" in kept.sites:
        found.sites["resid_post"] = found.sites["resid_pre"][1:]
    return found


def _inputs(model: LanguageModel, inputs: Mapping[str, Tensor] | Sequence[Sequence[int]]) -> Mapping[str, Tensor]:
    if isinstance(inputs, Mapping):
        return inputs
    return {model.adapter.input_name: torch.tensor([list(row) for row in inputs])}


def _size(given: Mapping[str, Tensor]) -> tuple[int, int]:
    """Pairs, and tokens a pair; images count as `PATCHES`."""
    tokens = [value[0].numel() for value in given.values() if not value.is_floating_point()]
    return len(next(iter(given.values()))), max(tokens, default=PATCHES)


def _too_large(model: LanguageModel, pairs: int, tokens: int, kept: Kept) -> OutOfMemoryError:
    free(model.device)
    size = pairs * tokens * kept.numbers(model.facts, tokens) * model.dtype.itemsize
    return OutOfMemoryError(
        f"The activations of {pairs} prompts of {tokens} tokens (about {size / 2**30:.2f} GiB) do not fit "
        f"in the memory of {model.device}.",
        remedy=REMEDY,
        where={"prompts": pairs, "tokens": tokens, "bytes": size, "device": str(model.device)},
    )


def _capture(model: LanguageModel, batch: Mapping[str, Tensor], kept: Kept, answer: int) -> Activations:
    names = (kept.sites - {"resid_post"}) | ({"resid_pre"} if kept.residuals else set())
    seen = Activations(torch.empty(0), {site: [] for site in names}, answer)
    backbone: Any = model.part(model.adapter.backbone)
    switch = {"use_cache": False} if getattr(getattr(model.module, "config", None), "use_cache", None) else {}
    with hooks() as registered, torch.inference_mode(), ExitStack() as stack:
        _watch(registered, model, seen, kept, len(next(iter(batch.values()))))
        if "pattern" in names and model.adapter.pattern_item is None:
            stack.enter_context(tapped(model.module, _taps(model, seen.sites["pattern"])))
        if model.adapter.input_name:
            backbone(**batch, **switch)
        else:
            backbone(*batch.values())
    return seen


def _taps(model: LanguageModel, patterns: list[Tensor]) -> dict[nn.Module, Taps]:
    def keep(kind: str, value: Tensor) -> Tensor:
        if kind == "pattern":
            patterns.append(value.clone())
        return value

    taps = Taps(keep, reads=frozenset({"pattern"}), writes=frozenset())
    return {block.get_submodule(model.adapter.attn): taps for block in model.block_modules}


def _joined(parts: list[Activations], at_once: int) -> Activations:
    """Batches one after another as one. Takes the parts' tensors away, so that memory never holds all of them twice."""
    if len(parts) == 1:
        return parts[0]

    def join(lists: Iterable[list[Tensor]]) -> list[Tensor]:
        every = list(lists)
        return [torch.cat([layers.pop(0) for layers in every]) for _ in range(len(every[0]))]

    arguments = [
        {name: _join_argument([part.arguments[layer][name] for part in parts], at_once) for name in one}
        for layer, one in enumerate(parts[0].arguments)
    ]
    return Activations(
        torch.cat([part.final for part in parts]),
        {site: join(part.sites[site] for part in parts) for site in parts[0].sites},
        parts[0].answer,
        join(part.keys for part in parts),
        join(part.values for part in parts),
        arguments,
    )


def _join_argument(values: list[Any], at_once: int) -> Any:
    """An argument of all batches: those with entries for pairs one after another, the others as the first batch's."""
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_join_argument(list(several), at_once) for several in zip(*values, strict=True))
    if isinstance(first, Tensor) and first.dim() > 1 and first.shape[0] > 1 and first.shape[0] % at_once == 0:
        return torch.cat(values)
    return first


def named_arguments(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the signature, without the first."""
    names = list(inspect.signature(forward).parameters)
    return {**dict(zip(names[1:], args[1:], strict=False)), **{n: v for n, v in kwargs.items() if n != names[0]}}


def cache_name(module: nn.Module) -> str:
    """The name of the argument that a block or an attention module takes its cache by."""
    names = inspect.signature(module.forward).parameters
    return next((name for name in CACHE_NAMES if name in names), CACHE_NAMES[0])


def _watch(registered: Hooks, model: LanguageModel, seen: Activations, kept: Kept, rows: int) -> None:
    adapter, sites, blocks = model.adapter, seen.sites, model.block_modules
    recorder = _Recorder(seen)

    def enter(block: nn.Module, args: Any, kwargs: Any) -> None:
        if kept.residuals:
            sites["resid_pre"].append(first_argument(args, kwargs))
            seen.arguments.append(named_arguments(block.forward, args, kwargs))

    def leave(output: Any) -> None:
        final = main_output(output)
        if kept.residuals:
            sites["resid_pre"].append(final)
        seen.final = final[:, seen.answer].clone()

    def record(name: str, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, name: recorder}

    for layer, block in enumerate(blocks):
        registered.before(block, partial(enter, block))
        if kept.key_values:
            attention = block.get_submodule(adapter.attn)
            registered.before(attention, partial(record, cache_name(attention)))
        for site in sites.keys() - {"resid_pre"}:
            _watch_site(registered, model, block, site, layer, sites[site], rows)
    registered.after(blocks[-1], leave)


def _watch_site(
    registered: Hooks, model: LanguageModel, block: nn.Module, site: str, layer: int, where: list[Tensor], rows: int
) -> None:
    if site == "neurons":
        registered.before(block.get_submodule(model.adapter.neurons), partial(_keep_neurons, where, rows))
        return
    path = model.adapter.site(site, layer, model.facts)
    module = model.module.get_submodule(path.path)

    def keep(value: Any) -> None:
        # Some blocks change what a module returned afterwards (Falcon adds attention's output to the MLP's).
        where.append(follow(value, path.steps, rows).clone(memory_format=torch.contiguous_format))

    def keep_heads(args: Any, kwargs: Any) -> None:
        where.append(head_writes(module, follow(first_argument(args, kwargs), path.steps, rows)))

    def keep_input(args: Any, kwargs: Any) -> None:
        keep((args, kwargs))

    if path.kind == "head_out":
        registered.before(module, keep_heads)
    elif path.kind == "inputs":
        registered.before(module, keep_input)
    elif path.kind == "output":
        registered.after(module, keep)


def _keep_neurons(where: list[Tensor], rows: int, args: Any, kwargs: Any) -> None:
    neurons = first_argument(args, kwargs)
    # OPT calls its MLP on tokens side by side.
    where.append(torch.unflatten(neurons, 0, (rows, -1)) if neurons.dim() == 2 else neurons)
