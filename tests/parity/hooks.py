"""What a trace has to give, written the plain way: PyTorch hooks on a transformers model, one function a visit.

Independent of `tracing`: every module path and every column of a fused projection is spelled out here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Visit = Callable[[Tensor], Tensor | None]


class Place(NamedTuple):
    """A side of a module: "in" is its first argument, "out" the tensor (or first tensor) that it returns."""

    path: str
    side: str
    columns: tuple[slice, ...] = ()
    """The columns of each head in the last dimension; empty where the whole tensor is meant."""

    def read(self, tensor: Tensor) -> Tensor:
        """The part that the place means, `[…, head, d_head]` or the whole."""
        if not self.columns:
            return tensor.clone()
        return torch.stack([tensor[..., one] for one in self.columns], -2)

    def written(self, tensor: Tensor, part: Tensor) -> Tensor:
        """A copy of the tensor with that part replaced."""
        if not self.columns:
            return part
        tensor = tensor.clone()
        for head, one in enumerate(self.columns):
            tensor[..., one] = part[..., head, :]
        return tensor


@dataclass(frozen=True)
class Where:
    """Where one architecture keeps its parts: `blocks` from the model, the others from a block."""

    blocks: str
    attn_out: str
    mlp_out: str
    mid: str = ""
    """Path and side, "ln_2:in"; "" where there is no such place."""
    q: str = ""
    k: str = ""
    v: str = ""
    out: str = ""
    layout: str = "separate"
    heads: int = 4
    kv: int = 4
    d: int = 8
    others: tuple[tuple[str, str], ...] = ()

    def place(self, site: str, layer: int | None) -> Place:
        """The place of a standard site."""
        if site == "logits":
            return Place("", "out")
        if site == "embed":
            return Place(f"{self.blocks}.0", "in")
        block = f"{self.blocks}.{layer}"
        if site in ("resid_pre", "resid_post"):
            return Place(block, "in" if site == "resid_pre" else "out")
        if site == "resid_mid":
            path, side = self.mid.split(":")
            return Place(f"{block}.{path}", side)
        if site == "z":
            return Place(f"{block}.{self.out}", "in", _columns("separate", "q", self.heads, self.kv, self.d))
        if site in ("q", "k", "v"):
            columns = _columns(self.layout, site, self.heads, self.kv, self.d)
            return Place(f"{block}.{getattr(self, site)}", "out", columns)
        named = {"attn_out": self.attn_out, "mlp_out": self.mlp_out, **dict(self.others)}
        return Place(f"{block}.{named[site]}", "out")

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of a block that hooks reach."""
        own = [name for name, path in (("attn_out", self.attn_out), ("mlp_out", self.mlp_out)) if path]
        heads = ("q", "k", "v", "z") if self.q else ()
        middle = ("resid_mid",) if self.mid else ()
        return ("resid_pre", *middle, "resid_post", *own, *(name for name, _ in self.others), *heads)


def _columns(layout: str, part: str, heads: int, kv: int, d: int) -> tuple[slice, ...]:
    """Where each head of q, k or v begins, written out for each layout."""
    number, count = "qkv".index(part), heads if part == "q" else kv
    group = heads // kv
    starts = {
        "separate": lambda h: h * d,
        "parts": lambda h: (number * heads + h) * d,
        "interleaved": lambda h: (3 * h + number) * d,
        "unequal": lambda h: ((0, heads, heads + kv)[number] + h) * d,
        "grouped": lambda h: (
            ((h // group) * (group + 2) + h % group) * d if part == "q" else (h * (group + 2) + group + number - 1) * d
        ),
    }[layout]
    return tuple(slice(starts(head), starts(head) + d) for head in range(count))


def _separate(attn: str) -> dict[str, str]:
    return {"q": f"{attn}.q_proj", "k": f"{attn}.k_proj", "v": f"{attn}.v_proj"}


def _fused(path: str, layout: str) -> dict[str, str]:
    return {"q": path, "k": path, "v": path, "layout": layout}


LLAMA = Where(
    "model.layers", "self_attn", "mlp", "post_attention_layernorm:in", **_separate("self_attn"), out="self_attn.o_proj",
    kv=2, d=12,
)  # fmt: skip
GPT2 = Where("transformer.h", "attn", "mlp", "ln_2:in", **_fused("attn.c_attn", "parts"), out="attn.c_proj")
NEOX = Where(
    "gpt_neox.layers", "attention", "mlp", **_fused("attention.query_key_value", "interleaved"), out="attention.dense"
)
FALCON = Where(
    "transformer.h", "self_attention", "mlp", **_fused("self_attention.query_key_value", "unequal"),
    out="self_attention.dense", kv=1,
)  # fmt: skip
GEMMA = replace(
    LLAMA, attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm", mid="pre_feedforward_layernorm:in"
)
PHI = Where("model.layers", "self_attn", "mlp", **_separate("self_attn"), out="self_attn.dense")
T5 = Where(
    "decoder.block",
    "layer.0.SelfAttention.o",
    "layer.2.DenseReluDense",
    others=(("cross_out", "layer.1.EncDecAttention.o"),),
)
T5_ENCODER = Where("encoder.block", "layer.0.SelfAttention.o", "layer.1.DenseReluDense")

WHERE: dict[str, Where] = {
    "gpt2": GPT2,
    "gpt_neox": NEOX,
    "gpt_neox_sequential": replace(NEOX, mid="post_attention_layernorm:in"),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": replace(LLAMA, d=8),
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gemma3": replace(GEMMA, blocks="model.language_model.layers"),
    "phi": PHI,
    "phi_normed": PHI,
    "phi3": replace(LLAMA, **_fused("self_attn.qkv_proj", "unequal"), d=8),
    "opt": Where(
        "model.decoder.layers", "self_attn", "fc2", "final_layer_norm:in", **_separate("self_attn"),
        out="self_attn.out_proj",
    ),
    "olmo2": replace(GEMMA, mid="mlp:in", d=8),
    "mixtral": LLAMA,
    "bloom": Where(
        "transformer.h", "self_attention.dense", "mlp.dense_4h_to_h", "self_attention:out",
        **_fused("self_attention.query_key_value", "interleaved"), out="self_attention.dense",
    ),
    "falcon": FALCON,
    "falcon_new": replace(FALCON, layout="grouped", kv=2),
    "falcon_sequential": replace(FALCON, layout="interleaved", kv=4, mid="post_attention_layernorm:in"),
    "gpt_bigcode": replace(GPT2, layout="unequal", kv=1),
    "gpt_bigcode_heads": replace(GPT2, layout="interleaved"),
    "gptj": Where("transformer.h", "attn", "mlp", **_separate("attn"), out="attn.out_proj"),
    "bert": Where(
        "bert.encoder.layer", "attention.output.dense", "output.dense", "attention.output.LayerNorm:out",
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    ),
    "vit": Where(
        "vit.layers", "attention", "mlp", "layernorm_after:in", **_separate("attention"), out="attention.o_proj"
    ),
    "mamba": Where("backbone.layers", "", "", others=(("mixer_out", "mixer"),)),
    "t5": T5,
    "t5_gated": T5,
    "tracr": Where("blocks", "attn", "mlp", "mlp:in", "attn.q", "attn.k", "attn.v", "attn.o"),
}  # fmt: skip
"""One entry a model of tests/zoo.py, and the Tracr models."""


# -- hooks ------------------------------------------------------------------------------------------------------------
def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str | None, Tensor]:
    if args:
        return None, args[0]
    name = next(name for name in ("hidden_states", "input_ids", "pixel_values") if name in kwargs)
    return name, kwargs[name]


def _main(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    found: Tensor = output["logits"] if isinstance(output, dict) else output[0]
    return found


def _before(visit: Visit, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, tensor = _first(args, kwargs)
    new = visit(tensor)
    if new is None:
        return None
    return ((new, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: new})


def _after(visit: Visit, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    new = visit(_main(output))
    if new is None or isinstance(output, Tensor):
        return new
    if isinstance(output, dict):
        output["logits"] = new
        return output
    return (new, *output[1:])


@contextmanager
def hooks(module: nn.Module, visits: Sequence[tuple[Place, Visit]]) -> Iterator[None]:
    """Hooks that call each visit with its place's whole tensor, and let the model go on with what it returns."""
    with ExitStack() as stack:
        for place, visit in visits:
            owner = module.get_submodule(place.path)
            if place.side == "in":
                stack.enter_context(owner.register_forward_pre_hook(partial(_before, visit), with_kwargs=True))
            else:
                stack.enter_context(owner.register_forward_hook(partial(_after, visit)))
        yield


def logits(module: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The logits of a plain call."""
    if list(inputs) == ["ids"]:  # a module of one's own
        return _main(module(inputs["ids"]))
    return _main(module(**inputs))


@torch.no_grad()
def reads(module: nn.Module, inputs: Mapping[str, Any], places: Sequence[Place]) -> tuple[list[Tensor], Tensor]:
    """The parts at the places, as they are when the model passes them for the first time, and the logits."""
    seen: dict[int, Tensor] = {}

    def reading(number: int, tensor: Tensor) -> None:
        if number not in seen:
            seen[number] = places[number].read(_rows(tensor, inputs)).clone()

    with hooks(module, [(place, partial(reading, number)) for number, place in enumerate(places)]):
        result = logits(module, inputs)
    return [seen[number] for number in range(len(places))], result.clone()


@torch.no_grad()
def writes(
    module: nn.Module, inputs: Mapping[str, Any], edits: Sequence[tuple[Place, Visit]], read: Sequence[Place] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and parts at places, of a forward in which each edit changes a copy of its part in place."""
    seen: list[Tensor] = []

    def writing(place: Place, edit: Visit, tensor: Tensor) -> Tensor:
        rows = _rows(tensor, inputs)
        part = place.read(rows)
        changed = edit(part)
        return place.written(rows, part if changed is None else changed).reshape(tensor.shape)

    def reading(place: Place, tensor: Tensor) -> None:
        seen.append(place.read(_rows(tensor, inputs)).clone())

    visits: list[tuple[Place, Visit]] = [(place, partial(writing, place, edit)) for place, edit in edits]
    with hooks(module, [*visits, *((place, partial(reading, place)) for place in read)]):
        return logits(module, inputs).clone(), seen


def _rows(tensor: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """`[row · position, …]`, as OPT calls its MLP, as `[row, position, …]`."""
    ids = inputs.get("input_ids")
    if tensor.dim() == 2 and ids is not None and tensor.shape[0] == ids.numel() and tensor.is_floating_point():
        return tensor.unflatten(0, tuple(ids.shape))
    return tensor


def gradients(
    module: nn.Module,
    inputs: Mapping[str, Any],
    places: Sequence[Place],
    losses: Sequence[Callable[[Tensor], Tensor]],
    starts: Sequence[Place],
    edits: Sequence[tuple[Place, Visit]] = (),
) -> list[list[Tensor]]:
    """For each loss, its gradient with respect to each place's part, by torch autograd.

    Weights need no gradient, so the values at `starts`, the embeddings, are made to. The gradient at an "in" is that of
    the tensor itself, which the residual stream may use elsewhere. `edits` change gradients as they flow.
    """
    seen: dict[int, Tensor] = {}

    def starting(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_()

    def keeping(number: int, tensor: Tensor) -> Tensor | None:
        if number in seen:
            return None
        new = None
        if places[number].side == "out":  # the model may change what it gets in place
            tensor = tensor.clone()
            new = tensor.clone()
        seen[number] = tensor
        for place, edit in edits:
            if place == places[number]:
                tensor.register_hook(partial(_edited, place, edit, inputs))
        return new

    visits: list[tuple[Place, Visit]] = [(place, starting) for place in starts]
    with torch.enable_grad():
        with hooks(module, [*visits, *((place, partial(keeping, number)) for number, place in enumerate(places))]):
            output = logits(module, inputs)
        tensors = [seen[number] for number in range(len(places))]
        found = [torch.autograd.grad(loss(output), tensors, retain_graph=True, allow_unused=True) for loss in losses]
    return [
        [
            place.read(_rows(_known(one, tensor), inputs))
            for place, one, tensor in zip(places, each, tensors, strict=True)
        ]
        for each in found
    ]


def _known(gradient: Tensor | None, tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if gradient is None else gradient


def _edited(place: Place, edit: Visit, inputs: Mapping[str, Any], gradient: Tensor) -> Tensor:
    rows = _rows(gradient, inputs)
    part = place.read(rows)
    changed = edit(part)
    return place.written(rows, part if changed is None else changed).reshape(gradient.shape)


# -- generation -------------------------------------------------------------------------------------------------------
def generates(
    module: Any,
    inputs: Mapping[str, Any],
    places: Sequence[Place] = (),
    edits: Sequence[tuple[Place, Callable[[int, Tensor], None]]] = (),
    **options: Any,
) -> tuple[Tensor, dict[int, list[Tensor]]]:
    """Ids, and the parts at the places at each step. `edits` get the step and a copy of the part, changed in place."""
    step = -1
    seen: dict[int, list[Tensor]] = {number: [] for number in range(len(places))}

    def count(*_: Any) -> None:
        nonlocal step
        step += 1

    def reading(number: int, tensor: Tensor) -> None:
        seen[number].append(places[number].read(_steps(tensor, inputs, step)).clone())

    def writing(place: Place, edit: Callable[[int, Tensor], None], tensor: Tensor) -> Tensor:
        rows = _steps(tensor, inputs, step)
        part = place.read(rows)
        edit(step, part)
        return place.written(rows, part).reshape(tensor.shape)

    visits: list[tuple[Place, Visit]] = [(place, partial(writing, place, edit)) for place, edit in edits]
    visits += [(place, partial(reading, number)) for number, place in enumerate(places)]
    with module.register_forward_pre_hook(count), hooks(module, visits):
        ids: Tensor = module.generate(**inputs, **options)
    return ids, seen


def _steps(tensor: Tensor, inputs: Mapping[str, Any], step: int) -> Tensor:
    if tensor.dim() == 2 and tensor.is_floating_point():
        return tensor.unflatten(0, (inputs["input_ids"].shape[0], -1))
    return tensor
