"""`Pretrained`: a transformers model from a folder, the hub or memory, with its adapter and sizes.

`LanguageModel` and `VisionModel` add what their inputs need.
"""

import importlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tracing.errors import ModelError
from tracing.families import Adapter, ModelFacts, adapter_for, check, config_of, model_facts
from tracing.families.registry import families
from tracing.models.base import Model
from tracing.models.envoy import Envoy
from tracing.models.given import require_module
from tracing.models.hub import Source, find
from tracing.models.inputs import FILLS, tensors_in
from tracing.models.loading import (
    DTYPES,
    DeviceMap,
    build_module,
    device_of,
    dtype_of,
    load_module,
    refuse_disk,
    require_accelerate,
    unknown_keywords,
)
from tracing.models.rules import accepted_keywords, generation_names
from tracing.models.sites import Sites

META = torch.device("meta")

PATTERN_DROPOUTS = frozenset({"attn_dropout", "attention_dropout"})
"""Names of modules that the eager path of attention calls on its pattern, and other paths do not."""

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Names of ways to spread a model over the devices of a machine."""

KEYWORDS = (
    "dtype", "device", "device_map", "revision", "attn_implementation", "verify", "engine", "rename",
)  # fmt: skip


class Pretrained(Model):
    """A model of the transformers library: evaluation mode, gradients of weights off, certified adapter.

    That holds of a module given in memory as well: `module.eval().requires_grad_(False)` is called on it, for good.
    Weights without gradients are what lets a backward start at the first value asked for. Before training the module
    further, undo it with `module.train().requires_grad_(True)`; traces run with that too.
    """

    keywords: ClassVar[tuple[str, ...]] = KEYWORDS
    public = (
        *Model.public, "sites", "adapter", "facts", "family", "config", "dtype", "attention", "blocks", "block_modules",
        "has_weights",
    )  # fmt: skip

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
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
        if unknown:
            raise unknown_keywords(type(self).__name__, unknown, self.keywords)
        if engine != "local":
            raise ModelError(f"There is no engine {engine!r}.", remedy='Engines: "local".')
        if not isinstance(model, str | Path):
            require_module(type(self), model)
        device, device_map = _one_place(device, device_map)
        if isinstance(model, nn.Module):
            if revision is not None:
                raise ModelError("A module in memory has no revisions.", remedy="Leave revision out.")
            source, module = None, _uncompiled(model)
            _place(module, dtype, device, device_map, attn_implementation)
        else:
            source = find(model, revision=revision, weights=device != META)
            if device == META:
                module = build_module(source, dtype=_wanted(dtype), attn_implementation=attn_implementation)
            else:
                module = load_module(
                    source,
                    dtype=_wanted(dtype),
                    device=device or (torch.device("cpu") if device_map is None else None),
                    device_map=device_map,
                    attn_implementation=attn_implementation,
                )
        super().__init__(module.eval().requires_grad_(False), rename=rename)
        self.source: Source | None = source
        self.engine = engine
        if verify and self._all_here() and self.family in families() and self.dtype in DTYPES.values():
            check(self)

    # -- what the model is --------------------------------------------------------------------------------------------
    @cached_property
    def family(self) -> str:
        """The model type of its config; "" where it has none."""
        return str(config_of(self.module).get("model_type", ""))

    @cached_property
    def adapter(self) -> Adapter:
        """Where the standard sites are. Raises `ModelError` for a family that has no adapter."""
        return adapter_for(self.module)

    @cached_property
    def facts(self) -> ModelFacts:
        """Sizes of the model. Raises `ModelError` for a family that has no adapter."""
        return model_facts(config_of(self.module))

    @property
    def sites(self) -> Sites:
        """The standard sites, `model.sites.resid_post[5]`."""
        return Sites(self)  # type: ignore[arg-type]

    @property
    def config(self) -> Any:
        """The transformers config of the wrapped module."""
        return getattr(self.module, "config", None)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the module's first parameter."""
        return next((parameter.dtype for parameter in self.module.parameters()), torch.get_default_dtype())

    @property
    def attention(self) -> str:
        """Which attention implementation transformers runs, e.g. "sdpa"."""
        return str(getattr(self.config, "_attn_implementation", ""))

    @property
    def blocks(self) -> list[Envoy]:
        """The residual blocks, first to last, as `model.transformer.h` has them: `model.blocks[3].output`."""
        paths = {id(part): path for path, part in self.module.named_modules()}
        return [self.get(paths[id(block)]) for block in self.block_modules]

    @property
    def block_modules(self) -> list[nn.Module]:
        """The residual blocks, first to last, as torch modules."""
        return self.adapter.block_list(self.module)

    def part(self, path: str) -> nn.Module:
        """A submodule by an adapter's path, e.g. `model.part(model.adapter.final_norm)`."""
        return self.adapter.part(self.module, path)

    @cached_property
    def block_paths(self) -> frozenset[str]:
        """Paths of all residual blocks: those of the adapter; without one, what transformers builds as layers."""
        if self.family in families():
            blocks: Any = self.adapter.residual_blocks(self.module)
        else:
            blocks = [part for part in self.module.modules() if isinstance(part, GradientCheckpointingLayer)]
        known = {id(block) for block in blocks}
        return frozenset(path for path, part in self.module.named_modules() if id(part) in known)

    def site_notes(self) -> dict[str, str]:
        """Which standard sites lie at which module of the first layer, for the printed tree."""
        if self.family not in families():
            return {}
        notes: dict[str, list[str]] = {}
        for name in self.adapter.all_sites:
            site = self.adapter.site(name, 0 if self.adapter.layers_of(name, self.facts) else None, self.facts)
            where = {"inputs": "in", "output": "out"}.get(site.kind, "inside")
            notes.setdefault(site.path, []).append(f"{name} ({where})")
        return {path: ", ".join(names) for path, names in notes.items()}

    def is_block(self, path: str) -> bool:
        """Whether the module is a residual block, whose `output[0]` is the whole hidden state."""
        return path in self.block_paths

    def returns_tuple(self, path: str) -> bool:
        """Whether a module returns more than its main tensor, which later modules may need; True where unknown."""
        if self.is_block(path):
            return self.family not in families() or self.adapter.block_returns_tuple
        return "Attention" in type(self.submodule(path)).__name__

    def returns_tensor(self, path: str) -> bool:
        """Whether a module is known to return one tensor and nothing else."""
        return (self.is_block(path) and not self.returns_tuple(path)) or super().returns_tensor(path)

    def needs_eager(self, path: str) -> bool:
        """Whether the module is called only by the eager path of attention: the dropout of the pattern."""
        return path.rpartition(".")[2] in PATTERN_DROPOUTS

    def asks_eager(self, options: Mapping[str, Any]) -> bool:
        """Whether attention patterns are to be returned, which other implementations than the eager one leave out."""
        asked = options.get("output_attentions")
        asked = getattr(self.config, "output_attentions", False) if asked is None else asked
        return bool(asked) and self.attention not in ("", "eager")

    def why_not_reached(self, path: str) -> str:
        """A sentence for a site that the forward did not pass."""
        dropout = isinstance(self.submodule(path), nn.Dropout) and "attention" in path
        if dropout and self.family in families() and "pattern" in self.adapter.all_sites:
            return (
                "This model drops out its attention pattern by a function, so the module is never called. The pattern "
                "is model.sites.pattern[layer], [batch, head, query, key]."
            )
        return super().why_not_reached(path)

    # -- what tracers ask ---------------------------------------------------------------------------------------------
    def input_names(self) -> frozenset[str]:
        """Keyword arguments that are a prompt's own, with one row for each of its sequences."""
        return frozenset(FILLS) | {"pixel_values"}

    def option_names(self, mode: str) -> frozenset[str] | None:
        """Keyword arguments that a forward (or a generation) takes besides."""
        accepted = self.accepted
        if mode == "forward" or accepted is None:
            return accepted
        return accepted | generation_names()

    # -- running ------------------------------------------------------------------------------------------------------
    @cached_property
    def has_weights(self) -> bool:
        """False for a model that was built on the "meta" device."""
        spread = getattr(self.module, "hf_device_map", None)  # accelerate keeps what it moved away there
        return spread is not None or self._all_here()

    def _all_here(self) -> bool:
        """Whether every weight can be read: none is only a shape, and accelerate keeps none on disk or elsewhere."""
        return not any(parameter.is_meta for parameter in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """The device of the first parameter; where accelerate keeps that elsewhere, the one it is computed on."""
        found = super().device
        if found == META and self.has_weights:
            for part in self.module.modules():
                place = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
                if place is not None:
                    return torch.device(place)
        return found

    def require_weights(self) -> None:
        """Raises `ModelError` where the model has only shapes."""
        if not self.has_weights:
            raise ModelError(
                'This model was built without weights (device="meta"), so it cannot be run here.',
                remedy='Load it with device="cpu" or device_map="auto", or run the trace with remote=True; model.scan '
                "works without weights.",
            )

    @cached_property
    def accepted(self) -> frozenset[str] | None:
        """Keyword arguments that the forward understands; None where it takes any."""
        return accepted_keywords(self.module)

    def require_input(self, name: str, wrapper: str) -> None:
        """Raises `ModelError` where the module is one that another wrapper reads for."""
        if self.accepted is not None and name not in self.accepted:
            raise ModelError(
                f"{type(self.module).__name__} takes no {name}, so {type(self).__name__} cannot run it.",
                remedy=f"Wrap it as {wrapper}.",
            )

    def refuse_unknown(self, given: Mapping[str, Any], mode: str = "forward") -> None:
        """Raises `TypeError`, with a suggestion, for keyword arguments that the model does not understand."""
        known = self.option_names(mode)
        if known is not None and (unknown := given.keys() - known - self.input_names()):
            called = "forward" if mode == "forward" else "generate"
            raise unknown_keywords(f"{type(self.module).__name__}.{called}", unknown, known | self.input_names())

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module. Raises `ModelError` where it has no weights, unless only shapes are asked for."""
        if not self.has_weights and not any(isinstance(value, FakeTensor) for value in tensors_in((args, kwargs))):
            self.require_weights()
        return self.module(*args, **kwargs)

    @staticmethod
    def logits_of(output: Any) -> Any:
        """The logits of what the module returned; what it returned where it has none."""
        logits = getattr(output, "logits", None)
        return output if logits is None else logits

    def __repr__(self) -> str:
        name = type(self).__name__
        where = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        if self.family not in families():
            count = sum(parameter.numel() for parameter in self.module.parameters())
            return f"{name}({type(self.module).__name__}, {count / 1e6:.1f}M parameters, {where}{self.edits_note()})"
        facts = self.facts
        heads = f" × {facts.n_heads} heads" if facts.n_heads else ""
        return (
            f"{name}({facts.family}, {facts.n_layers} layers{heads}, d_model {facts.d_model}, "
            f"{facts.n_params / 1e6:.1f}M parameters, {where}{self.edits_note()})"
        )

    def __str__(self) -> str:
        return self.tree()


def _wanted(dtype: str | torch.dtype | None) -> torch.dtype | str:
    """The precision asked for: 32 bits unless said otherwise, whatever the weights are stored in ("auto")."""
    return torch.float32 if dtype is None else "auto" if dtype == "auto" else dtype_of(dtype)


def _one_place(
    device: str | torch.device | None, device_map: DeviceMap | None
) -> tuple[torch.device | None, str | Mapping[str, Any] | None]:
    """The one device asked for, or the map over several."""
    if device is not None and device_map is not None:
        raise TypeError('Give either device (one for all of the model) or device_map ("auto" or a dict), not both.')
    if device_map is None:
        return (None if device is None else device_of(device)), None
    if isinstance(device_map, Mapping) or device_map in SPREADS:
        return None, device_map
    return device_of(device_map), None


def _place(
    module: nn.Module,
    dtype: str | torch.dtype | None,
    device: torch.device | None,
    device_map: str | Mapping[str, Any] | None,
    attn_implementation: str | None,
) -> None:
    """A module in memory, moved where it is wanted, in the precision and with the attention asked for."""
    if device == META and not any(parameter.is_meta for parameter in module.parameters()):
        raise ModelError(
            'device="meta" would throw the weights of this module away.',
            remedy='Give a folder or hub id instead; a module without weights is built under torch.device("meta").',
        )
    if dtype is not None and dtype != "auto":
        module.to(dtype_of(dtype))
    if attn_implementation is not None:
        try:
            module.set_attn_implementation(attn_implementation)  # type: ignore[operator]
        except (AttributeError, ValueError, ImportError) as error:
            raise ModelError(
                f"{type(module).__name__} cannot run attention as {attn_implementation!r}: {str(error).rstrip('.')}.",
                remedy='Use "sdpa" or "eager".',
            ) from error
        ran = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if ran != attn_implementation:  # some models keep what they were built with, and only a log line says so
            raise ModelError(
                f"{type(module).__name__} was built for {ran!r} attention and does not change to "
                f"{attn_implementation!r}.",
                remedy=f"Build it so: {type(module).__name__}._from_config(config, attn_implementation="
                f'"{attn_implementation}"), or give the folder or hub id.',
            )
    if device is not None:
        module.to(device)
    if device_map is not None:
        _spread(module, device_map)


def _uncompiled(module: nn.Module) -> nn.Module:
    """The module that torch.compile was given. Raises `ModelError` for one that was compiled in place."""
    if type(module).__name__ == "OptimizedModule":
        module = module._orig_mod  # type: ignore[assignment]
    if hasattr(module.forward, "_torchdynamo_orig_callable") or module._compiled_call_impl is not None:
        raise ModelError(
            "The forward of this module is compiled in place, and compiled code passes the insides of attention by.",
            remedy="Wrap the module before it is compiled, or compile a copy: torch.compile(module) is fine.",
        )
    return module


def _spread(module: nn.Module, device_map: str | Mapping[str, Any]) -> None:
    """Lay a module in memory over devices."""
    require_accelerate(device_map)
    accelerate: Any = importlib.import_module("accelerate")  # optional, and slow to import
    if isinstance(device_map, str):
        whole = {"no_split_module_classes": list(getattr(module, "_no_split_modules", None) or [])}
        limits = None
        if device_map != "sequential":
            low_zero = device_map == "balanced_low_0"
            limits = accelerate.utils.get_balanced_memory(module, low_zero=low_zero, **whole)
        device_map = accelerate.infer_auto_device_map(module, max_memory=limits, **whole)
    places = dict(cast("Mapping[str, Any]", device_map))
    refuse_disk(places)
    try:
        accelerate.dispatch_model(module, device_map=places)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"The model cannot be laid out as {places}: {str(error).rstrip('.')}.",
            remedy='Give every module a place, or device_map="auto".',
        ) from error
