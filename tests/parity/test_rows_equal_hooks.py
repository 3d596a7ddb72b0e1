"""Every row of the sweep engine equals one plain hooked forward of the transformers model, for every family and site.

What is patched in is random, so nothing is right by accident: it need not be anything a model computes. The reference
is tests/parity/hooks.py, which spells out the module paths and head columns of every architecture.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.parity import hooks
from tracing.models import LanguageModel
from tracing.patching.capture import Activations, capture
from tracing.patching.footprint import kept_for
from tracing.patching.plan import Optimise
from tracing.patching.rows import Rows, run_rows

FAMILIES = [name for name in zoo.ZOO if name != "gemma3"]
NEURONS = {
    "gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "llama": "mlp.down_proj", "mixtral": "", "phi": "mlp.fc2",
    "opt": "fc2", "bloom": "mlp.dense_4h_to_h", "falcon": "mlp.dense_4h_to_h", "gpt_bigcode": "mlp.c_proj",
    "gptj": "mlp.fc_out", "bert": "output.dense", "vit": "mlp.fc2", "mamba": "", "t5": "layer.2.DenseReluDense.wo",
}  # fmt: skip
LLAMAS = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2")
HEADED = ("q", "k", "v", "z", "pattern", "head_out")

# BLOOM and eager llamas take their softmax in float32, RMSNorm and GPT-J's scores are float32 throughout, and Mamba's
# scan and T5's norm too: rounding that depends on how rows are batched shows at 1e-7 there.
SINGLE = 2e-5
"""Tolerance in float64 where the module computes in float32."""


def tolerance(name: str) -> float:
    exact = ("gpt2", "gpt_neox", "phi", "opt", "falcon", "gpt_bigcode", "bert", "vit")
    return 1e-10 if name.startswith(exact) and name != "phi3" else SINGLE


@cache
def model_of(name: str) -> Any:
    module = zoo.double(zoo.model(name))
    return LanguageModel(module) if name != "vit" else _vision(module)


def _vision(module: Any) -> Any:
    from tracing.models import VisionModel

    return VisionModel(module)


def family_of(name: str) -> str:
    return (
        "llama"
        if name in LLAMAS
        else next(one for one in sorted(NEURONS, key=len, reverse=True) if name.startswith(one))
    )


def answer_of(name: str) -> int:
    return {"bert": 3, "vit": 0}.get(name, -1)


@cache
def inputs_of(name: str) -> dict[str, Tensor]:
    given = zoo.example_inputs(name)
    return {key: value.double() if value.is_floating_point() else value for key, value in given.items()}


def sites_of(name: str) -> list[str]:
    where = hooks.WHERE[name]
    more = ("pattern", "head_out") if where.q else ()
    neurons = ("neurons",) if NEURONS[family_of(name)] else ()
    return [*where.sites, *more, *neurons]


def length_of(name: str) -> int:
    return {"vit": 10, "t5": 7, "t5_gated": 7}.get(name, zoo.TOKENS)


def shape_of(name: str, site: str) -> tuple[int, ...]:
    where, length = hooks.WHERE[name], length_of(name)
    if site == "pattern":
        return zoo.ROWS, where.heads, length, length
    heads = {
        "q": (where.heads, where.d),
        "z": (where.heads, where.d),
        "k": (where.kv, where.d),
        "v": (where.kv, where.d),
    }
    tail = heads.get(site, (where.heads, zoo.WIDTH) if site == "head_out" else (zoo.WIDTH,))
    if site == "neurons":
        module = model_of(name).module.get_submodule(f"{where.blocks}.0.{NEURONS[family_of(name)]}")
        tail = (module.weight.shape[0 if type(module).__name__ == "Conv1D" else 1],)
    return zoo.ROWS, length, *tail


def layers_of(name: str) -> int:
    return len(model_of(name).block_modules)


@cache
def source_of(name: str, site: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(site))
    found = [
        torch.randn(shape_of(name, site), generator=generator, dtype=torch.float64) for _ in range(layers_of(name))
    ]
    return [one.softmax(-1) for one in found] if site == "pattern" else found


@cache
def base_of(name: str, site: str) -> Activations:
    model = model_of(name)
    return capture(model, inputs_of(name), kept_for(model.adapter, [site])[1], answer=answer_of(name))


# -- the reference ----------------------------------------------------------------------------------------------------
def reference(name: str, site: str, layer: int, positions: Tensor, unit: int | None) -> Tensor:
    """The last residual at the answer, `[pair, d_model]`, of a forward with hooks that patch one row."""
    where, given = hooks.WHERE[name], source_of(name, site)[layer]
    block = f"{where.blocks}.{layer}"
    visits: list[tuple[hooks.Place, Callable[[Tensor], Tensor | None]]] = []

    def mixed(live: Tensor, new: Tensor) -> Tensor:
        """The live part with the new one at the row's positions and unit."""
        live = live.clone()
        at = positions.nonzero()[:, 0]
        if unit is None:
            live[:, at] = new[:, at]
        else:
            live[:, at, unit] = new[:, at, unit]
        return live

    def writing(place: hooks.Place, tensor: Tensor) -> Tensor:
        rows = hooks._rows(tensor, inputs_of(name))
        return place.written(rows, mixed(place.read(rows), given)).reshape(tensor.shape)

    if site in ("pattern", "head_out"):
        z, v = where.place("z", layer), where.place("v", layer)
        live: dict[str, Tensor] = {}

        def keep_values(tensor: Tensor) -> None:
            live["v"] = v.read(tensor)

        def from_pattern(tensor: Tensor) -> Tensor:
            values = live["v"].repeat_interleave(where.heads // where.kv, 2)
            return z.written(tensor, mixed(z.read(tensor), torch.einsum("phqk,pkhd->pqhd", given, values)))

        def keep_z(tensor: Tensor) -> None:
            live["z"] = z.read(tensor)

        def from_contribution(tensor: Tensor) -> Tensor:
            out = model_of(name).module.get_submodule(f"{block}.{where.out}")
            weight = out.weight.T if isinstance(out, torch.nn.Linear) else out.weight
            own = torch.einsum("phqd,hdm->phqm", live["z"].transpose(1, 2), weight.unflatten(0, (where.heads, -1)))
            own = own.transpose(1, 2)
            return tensor + (mixed(own, given) - own).sum(2)

        if site == "pattern":
            visits = [(replace_columns(v), keep_values), (replace_columns(z), from_pattern)]
        else:
            visits = [(replace_columns(z), keep_z), (hooks.Place(f"{block}.{where.out}", "out"), from_contribution)]
    elif site == "neurons":
        place = hooks.Place(f"{block}.{NEURONS[family_of(name)]}", "in")
        visits = [(place, lambda tensor: writing(place, tensor))]
    elif site == "resid_mid":
        visits = middle(name, layer, lambda live: mixed(live, given))
    else:
        place = where.place(site, layer)
        visits = [(replace_columns(place), lambda tensor: writing(place, tensor))]
    final: list[Tensor] = []

    def keep_final(tensor: Tensor) -> None:
        final.append(tensor[:, answer_of(name)].clone())

    last = hooks.Place(f"{where.blocks}.{layers_of(name) - 1}", "out")
    with hooks.hooks(model_of(name).module, [*visits, (last, keep_final)]), torch.no_grad():
        hooks.logits(model_of(name).module, inputs_of(name))
    return final[0]


def replace_columns(place: hooks.Place) -> hooks.Place:
    """The place of the whole tensor, of which `Place.read` and `written` take the columns."""
    return place._replace(columns=())


def middle(name: str, layer: int, mixed: Callable[[Tensor], Tensor]) -> list[Any]:
    """resid_mid is the block's own tensor, which it adds to again: where it is an input it is changed itself."""
    where = hooks.WHERE[name]
    path, side = where.mid.split(":")
    place = hooks.Place(f"{where.blocks}.{layer}.{path}", side)

    def in_place(tensor: Tensor) -> None:
        rows = hooks._rows(tensor, inputs_of(name))
        tensor.copy_(mixed(rows).reshape(tensor.shape))

    return [(place, in_place if side == "in" else mixed)]


# -- rows -------------------------------------------------------------------------------------------------------------
def rows_of(name: str, site: str, layer: int, kind: str) -> Rows:
    """Rows of one kind: a position each, all positions, a head (neuron) each, or a head and a position each."""
    length = length_of(name)
    units = {"k": hooks.WHERE[name].kv, "v": hooks.WHERE[name].kv, "neurons": 3}.get(site, hooks.WHERE[name].heads)
    single = torch.eye(length, dtype=torch.bool)
    if kind == "position":
        return Rows(site, layer, single)
    if kind == "spans":
        return Rows(
            site,
            layer,
            torch.stack([single[2] | single[4], single[3] | single[-1], ~single[0], single[0] | ~single[0]]),
        )
    if kind == "unit":
        return Rows(site, layer, torch.ones(units, length, dtype=torch.bool), torch.arange(units))
    positions = [1, 4, length - 1]
    return Rows(site, layer, single[positions].repeat(units, 1), torch.arange(units).repeat_interleave(len(positions)))


def expected(name: str, entry: Rows) -> Tensor:
    """`[pair, row, d_model]`"""
    units = [None] * len(entry.positions) if entry.units is None else entry.units.tolist()
    return torch.stack(
        [reference(name, entry.site, entry.layer, at, unit) for at, unit in zip(entry.positions, units, strict=True)], 1
    )


CASES = [(name, site) for name in FAMILIES for site in sites_of(name)]


@pytest.mark.parametrize(("name", "site"), CASES, ids=[f"{name}-{site}" for name, site in CASES])
def test_every_kind_of_row_equals_a_hooked_forward(name: str, site: str) -> None:
    kinds = ["position", "spans", *(["unit", "unit and position"] if site in (*HEADED, "neurons") else [])]
    for kind in kinds:
        entries = [rows_of(name, site, layer, kind) for layer in range(layers_of(name))]
        with torch.inference_mode():
            found = run_rows(
                model_of(name), base_of(name, site), {site: source_of(name, site)}, entries, slice(None), Optimise()
            )
        for layer, entry in enumerate(entries):
            torch.testing.assert_close(
                found[layer], expected(name, entry), atol=tolerance(name), rtol=0, msg=lambda m: f"{kind}, {layer}: {m}"
            )
