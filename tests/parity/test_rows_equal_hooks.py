"""Every row of the sweep engine equals one plain hooked forward of the transformers model, for every family and site.

What is patched in is random, so nothing is right by accident: it need not be anything a model computes. The reference
is tests/parity/hooks.py, which spells out the module paths and head columns of every architecture.
"""

from functools import cache, partial
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


def tolerance(name: str) -> float:
    """In float64, but these take their softmax in float32, whose rounding depends on how many keys are masked."""
    return 1e-5 if name in ("bloom", "gptj", "gemma2") else 1e-10


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


# -- the reference -----------------------------------------------------------------------------------------------------
def reference(name: str, entry: Rows) -> Tensor:
    """The last residual at the answer, `[pair, row, d_model]`, of a plain forward of the rows with hooks."""
    where, rows, count = hooks.WHERE[name], repeated(name, entry), len(entry.positions)
    given = source_of(name, entry.site)[entry.layer].repeat_interleave(count, 0)
    inputs = {key: value.repeat_interleave(count, 0) for key, value in inputs_of(name).items()}
    module, block = model_of(name).module, f"{where.blocks}.{entry.layer}"

    def mixed(live: Tensor) -> Tensor:
        """The live part with the new one at each row's positions and unit."""
        return torch.where(rows.reshape(*rows.shape, *(1,) * (live.dim() - rows.dim())), given, live)

    def written(place: hooks.Place, tensor: Tensor) -> Tensor:
        live = hooks._rows(tensor, inputs)
        return place.written(live, mixed(place.read(live))).reshape(tensor.shape)

    visits = visits_of(name, entry, block, mixed, written)
    final: list[Tensor] = []

    def keep_final(tensor: Tensor) -> None:
        final.append(tensor[:, answer_of(name)].clone())

    last = hooks.Place(f"{where.blocks}.{layers_of(name) - 1}", "out")
    with hooks.hooks(module, [*visits, (last, keep_final)]), torch.no_grad():
        hooks.logits(module, inputs)
    return final[0].unflatten(0, (-1, count))


def repeated(name: str, entry: Rows) -> Tensor:
    """What is patched of each row of each pair: `[pair · row, position]`, with units `[pair · row, position, unit]`."""
    patched = entry.positions
    if entry.units is not None:
        size = shape_of(name, entry.site)[1 if entry.site == "pattern" else 2]
        patched = patched[:, :, None] & (torch.arange(size) == entry.units[:, None])[:, None, :]
    return patched.repeat(zoo.ROWS, *(1,) * (patched.dim() - 1))


def visits_of(name: str, entry: Rows, block: str, mixed: Any, written: Any) -> list[Any]:
    """Places and what is done there."""
    where, site = hooks.WHERE[name], entry.site
    if site == "neurons":
        place = hooks.Place(f"{block}.{NEURONS[family_of(name)]}", "in")
        return [(place, partial(written, place))]
    if site == "resid_mid":
        path, side = where.mid.split(":")
        place = hooks.Place(f"{block}.{path}", side)

        def in_place(tensor: Tensor) -> None:
            # The block adds to this very tensor again.
            tensor.copy_(written(place, tensor))

        return [(place, in_place if side == "in" else partial(written, place))]
    if site not in ("pattern", "head_out"):
        place = where.place(site, entry.layer)
        return [(place._replace(columns=()), partial(written, place))]
    z, v = where.place("z", entry.layer), where.place("v", entry.layer)
    live: dict[str, Tensor] = {}

    def keep(part: str, place: hooks.Place, tensor: Tensor) -> None:
        live[part] = place.read(tensor)

    def from_pattern(tensor: Tensor) -> Tensor:
        values = live["v"].repeat_interleave(where.heads // where.kv, 2)
        pattern = source_of(name, site)[entry.layer].repeat_interleave(len(entry.positions), 0)
        new = torch.einsum("phqk,pkhd->pqhd", pattern, values)
        rows = repeated(name, entry)
        rows = rows[..., None] if rows.dim() == 3 else rows[..., None, None]
        return z.written(tensor, torch.where(rows, new, z.read(tensor)))

    def from_contribution(tensor: Tensor) -> Tensor:
        out = model_of(name).module.get_submodule(f"{block}.{where.out}")
        weight = out.weight.T if isinstance(out, torch.nn.Linear) else out.weight
        own = torch.einsum("pqhd,hdm->pqhm", live["z"], weight.unflatten(0, (where.heads, -1)))
        return tensor + (mixed(own) - own).sum(2)

    whole_v, whole_z = v._replace(columns=()), z._replace(columns=())
    if site == "pattern":
        return [(whole_v, partial(keep, "v", v)), (whole_z, from_pattern)]
    return [(whole_z, partial(keep, "z", z)), (hooks.Place(f"{block}.{where.out}", "out"), from_contribution)]


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
    positions = [0, 3, length - 1]
    return Rows(site, layer, single[positions].repeat(units, 1), torch.arange(units).repeat_interleave(len(positions)))


CASES = [(name, site) for name in FAMILIES for site in sites_of(name)]


@pytest.mark.parametrize(("name", "site"), CASES, ids=[f"{name}-{site}" for name, site in CASES])
def test_every_kind_of_row_equals_a_hooked_forward(name: str, site: str) -> None:
    for kind in kinds_of(site):
        entries = [rows_of(name, site, layer, kind) for layer in range(layers_of(name))]
        found = run(name, entries)
        for layer, entry in enumerate(entries):
            plain = reference(name, entry)
            torch.testing.assert_close(found[layer], plain, atol=tolerance(name), rtol=0, msg=partial(say, kind, layer))
            moved = (plain - base_of(name, site).final[:, None]).abs().amax((0, 2))
            assert moved.max() > 1e-3, "the patches do nothing, so the test says nothing"


def kinds_of(site: str) -> list[str]:
    return ["position", "spans", *(["unit", "unit and position"] if site in (*HEADED, "neurons") else [])]


def run(name: str, entries: list[Rows], options: Optimise | None = None) -> Tensor:
    site = entries[0].site
    with torch.inference_mode():
        source = {site: source_of(name, site)}
        return run_rows(model_of(name), base_of(name, site), source, entries, slice(None), options or Optimise())


def say(kind: str, layer: int, message: str) -> str:
    return f"rows by {kind}, layer {layer}: {message}"
