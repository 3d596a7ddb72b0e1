"""One forward pass that remembers what a sweep needs: site activations, keys and values, positional arguments.

The forward is the model's own; sites are read by hooks, keys and values by a recorder that stands where transformers
expects a cache, so both are what attention really used (after rotary embedding, key-value heads not repeated).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from tracing.engines.hooks import Hooks, PostHook, PreHook, first_argument, hooks, main_output
from tracing.errors import OutOfMemoryError, Stopped
from tracing.models import LanguageModel
from tracing.patching.footprint import REMEDY, Kept
from tracing.patching.memory import free, is_out_of_memory

TOKENS_A_FORWARD: Final = 16384
"""Prompts that run together in a baseline forward have at most this many tokens."""


@dataclass(slots=True)
class Activations:
    """What one batch of equally long prompts did. Lists have one entry a layer.

    `sites[name][layer]` is `[batch, position, d_model]` (`z`: `[batch, position, head · d_head]`); `resid_pre` has
    one entry more, the residual behind the last block. `keys`/`values` are `[batch, kv_head, position, d_head]`.
    Only what was asked for is there; `final`, the last of these residuals at the last position, always is.
    """

    final: Tensor
    """`[batch, d_model]`"""
    sites: dict[str, list[Tensor]]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    positional: list[dict[str, Any]] = field(default_factory=list)

    def boundary(self, number: int) -> Tensor:
        """The residual stream at the entrance of a block (or behind the last one), `[batch, position, d_model]`."""
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
    ids: Sequence[Sequence[int]],
    kept: Kept,
    should_stop: Callable[[], bool] = lambda: False,
) -> Activations:
    """Run prompts of one length and keep what is asked for; with keys and values also the positional arguments.

    Raises `OutOfMemoryError` where it does not fit, `Stopped` between two forwards once `should_stop()`.
    """
    at_once = max(1, TOKENS_A_FORWARD // len(ids[0]))
    parts = []
    try:
        for lo in range(0, len(ids), at_once):
            if should_stop():
                raise Stopped
            parts.append(_capture(model, ids[lo : lo + at_once], kept))
        found = _joined(parts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(model, ids, kept) from error
    if "resid_post" in kept.sites:
        found.sites["resid_post"] = found.sites["resid_pre"][1:]
    return found


def _too_large(model: LanguageModel, ids: Sequence[Sequence[int]], kept: Kept) -> OutOfMemoryError:
    free(model.device)
    size = len(ids) * len(ids[0]) * kept.numbers(model.facts) * model.dtype.itemsize
    return OutOfMemoryError(
        f"The activations of {len(ids)} prompts of {len(ids[0])} tokens (about {size / 2**30:.2f} GiB) do not fit "
        f"in the memory of {model.device}.",
        remedy=REMEDY,
        where={"prompts": len(ids), "tokens": len(ids[0]), "bytes": size, "device": str(model.device)},
    )


def _capture(model: LanguageModel, ids: Sequence[Sequence[int]], kept: Kept) -> Activations:
    names = (kept.sites - {"resid_post"}) | ({"resid_pre"} if kept.residuals else set())
    seen = Activations(torch.empty(0), {site: [] for site in names})
    with hooks() as registered, torch.inference_mode():
        _watch(registered, model, seen, kept)
        batch = torch.tensor([list(row) for row in ids], device=model.device)
        model.part(model.adapter.backbone)(input_ids=batch, use_cache=False)
    return seen


def _joined(parts: list[Activations]) -> Activations:
    """Batches one after another as one. Takes the parts' tensors away, so that memory never holds all of them twice."""
    if len(parts) == 1:
        return parts[0]

    def join(lists: Iterable[list[Tensor]]) -> list[Tensor]:
        every = list(lists)
        return [torch.cat([layers.pop(0) for layers in every]) for _ in range(len(every[0]))]

    return Activations(
        torch.cat([part.final for part in parts]),
        {site: join(part.sites[site] for part in parts) for site in parts[0].sites},
        join(part.keys for part in parts),
        join(part.values for part in parts),
        parts[0].positional,
    )


def _watch(registered: Hooks, model: LanguageModel, seen: Activations, kept: Kept) -> None:
    adapter, sites = model.adapter, seen.sites
    recorder = _Recorder(seen)

    def enter(args: Any, kwargs: Any) -> None:
        if kept.residuals:
            sites["resid_pre"].append(first_argument(args, kwargs))
        if kept.key_values:
            seen.positional.append({name: kwargs[name] for name in adapter.positional})

    def leave(output: Any) -> None:
        final = main_output(output)
        if kept.residuals:
            sites["resid_pre"].append(final)
        seen.final = _own(final[:, -1])

    def record(args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "past_key_values": recorder}

    inputs = {"resid_mid": adapter.norm_mlp, "z": adapter.out_proj}
    outputs = {"attn_out": adapter.attn, "mlp_out": adapter.mlp}
    for block in model.block_modules:
        registered.before(block, enter)
        if kept.key_values:
            registered.before(block.get_submodule(adapter.attn), record)
        for site in inputs.keys() & sites:
            registered.before(block.get_submodule(inputs[site]), _keep_input(sites[site]))
        for site in outputs.keys() & sites:
            registered.after(block.get_submodule(outputs[site]), _keep_output(sites[site]))
    registered.after(model.block_modules[-1], leave)


def _keep_input(where: list[Tensor]) -> PreHook:
    def keep(args: Any, kwargs: Any) -> None:
        where.append(first_argument(args, kwargs))

    return keep


def _keep_output(where: list[Tensor]) -> PostHook:
    def keep(output: Any) -> None:
        where.append(main_output(output))

    return keep
