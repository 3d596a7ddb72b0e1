"""One forward pass that remembers what a sweep needs: site activations, keys and values, positional arguments.

The forward is the model's own; sites are read by hooks, keys and values by a recorder that stands where transformers
expects a cache, so both are what attention really used (after rotary embedding, key-value heads not repeated).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from tracing.errors import OutOfMemoryError
from tracing.models import LanguageModel
from tracing.patching.hooks import Hooks, PostHook, PreHook, first_argument, hooks, main_output

TOKENS_A_FORWARD: Final = 16384
"""Prompts that run together in a baseline forward have at most this many tokens."""


@dataclass(slots=True)
class Activations:
    """What one batch of equally long prompts did. Lists have one entry a layer.

    `sites[name][layer]` is `[batch, position, d_model]` (`z`: `[batch, position, head · d_head]`); `resid_pre` has
    one entry more, the residual behind the last block. `keys`/`values` are `[batch, kv_head, position, d_head]`.
    """

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
        self._activations.keys.append(keys)
        self._activations.values.append(values)
        return keys, values


def capture(
    model: LanguageModel, ids: Sequence[Sequence[int]], sites: Collection[str], *, key_values: bool = False
) -> Activations:
    """Run prompts of one length and keep `sites` (block-level ones and `z`), always with `resid_pre`.

    With `key_values`, also every layer's keys, values and positional arguments.
    Raises `OutOfMemoryError` where they do not fit.
    """
    at_once = max(1, TOKENS_A_FORWARD // len(ids[0]))
    try:
        parts = [_capture(model, ids[lo : lo + at_once], sites, key_values) for lo in range(0, len(ids), at_once)]
        return parts[0] if len(parts) == 1 else _joined(parts)
    except torch.OutOfMemoryError as error:
        layers, width = model.facts.n_layers, model.facts.d_model
        size = len(ids) * len(ids[0]) * layers * width * (1 + len(sites) + 2 * key_values) * model.dtype.itemsize
        raise OutOfMemoryError(
            f"The activations of {len(ids)} prompts of {len(ids[0])} tokens (about {size / 2**30:.2f} GiB) do not fit "
            f"in the memory of {model.device}.",
            remedy="Use fewer or shorter prompts, a smaller precision, or a device with more memory.",
            where={"prompts": len(ids), "tokens": len(ids[0]), "bytes": size, "device": str(model.device)},
        ) from error


def _capture(
    model: LanguageModel, ids: Sequence[Sequence[int]], sites: Collection[str], key_values: bool
) -> Activations:
    seen = Activations({"resid_pre": [], **{site: [] for site in sites}})
    with hooks() as registered, torch.inference_mode():
        _watch(registered, model, seen, key_values)
        batch = torch.tensor([list(row) for row in ids], device=model.device)
        model.part(model.adapter.backbone)(input_ids=batch, use_cache=False)
    if "resid_post" in seen.sites:
        seen.sites["resid_post"] = seen.sites["resid_pre"][1:]
    return seen


def _joined(parts: Sequence[Activations]) -> Activations:
    """Batches one after another as one."""

    def join(lists: Iterable[list[Tensor]]) -> list[Tensor]:
        return [torch.cat(layer) for layer in zip(*lists, strict=True)]

    return Activations(
        {site: join(part.sites[site] for part in parts) for site in parts[0].sites},
        join(part.keys for part in parts),
        join(part.values for part in parts),
        parts[0].positional,
    )


def _watch(registered: Hooks, model: LanguageModel, seen: Activations, key_values: bool) -> None:
    adapter, sites = model.adapter, seen.sites
    recorder = _Recorder(seen)

    def enter(args: Any, kwargs: Any) -> None:
        sites["resid_pre"].append(first_argument(args, kwargs))
        seen.positional.append({name: kwargs[name] for name in adapter.positional})

    def record(args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "past_key_values": recorder}

    inputs = {"resid_mid": adapter.norm_mlp, "z": adapter.out_proj}
    outputs = {"attn_out": adapter.attn, "mlp_out": adapter.mlp}
    for block in model.blocks:
        registered.before(block, enter)
        if key_values:
            registered.before(block.get_submodule(adapter.attn), record)
        for site in inputs.keys() & sites:
            registered.before(block.get_submodule(inputs[site]), _keep_input(sites[site]))
        for site in outputs.keys() & sites:
            registered.after(block.get_submodule(outputs[site]), _keep_output(sites[site]))
    registered.after(model.blocks[-1], _keep_output(sites["resid_pre"]))


def _keep_input(where: list[Tensor]) -> PreHook:
    def keep(args: Any, kwargs: Any) -> None:
        where.append(first_argument(args, kwargs))

    return keep


def _keep_output(where: list[Tensor]) -> PostHook:
    def keep(output: Any) -> None:
        where.append(main_output(output))

    return keep
