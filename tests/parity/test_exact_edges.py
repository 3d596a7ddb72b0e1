"""Exact edge patching: the recorded arrays of five layouts, and brute force by hooks on every decoder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import decoders, zoo
from tests.float64 import widen
from tests.parity import hooks, surgery
from tracing.circuits.exact import circuit_metric, edge_effects
from tracing.circuits.layout import Layout
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

RECORDED = {"gpt2": 1e-12, "gpt_neox": 1e-7, "llama": 1e-5, "llama_gqa": 1e-5, "gemma2": 1e-5}
"""Absolute tolerances of unmodified float64 models, some of whose pieces compute in float32."""


def recorded(folder: Path, name: str) -> tuple[LanguageModel, list[TokenizedPair], Any]:
    """The model, its pairs and its arrays."""
    arrays = np.load(folder / f"{name}.npz")
    pairs = [
        decoders.pair(clean, corrupted, (answer,), (foil,), number)
        for number, (clean, corrupted, answer, foil) in enumerate(
            zip(
                *(arrays[key].tolist() for key in ("clean_ids", "corrupted_ids", "answer_ids", "foil_ids")), strict=True
            ),
            start=1,
        )
    ]
    return LanguageModel(folder / name, dtype="float64"), pairs, arrays


@pytest.mark.parametrize("wide", [False, True], ids=["unmodified", "float64 throughout"])
@pytest.mark.parametrize("name", RECORDED)
def test_every_edge_and_every_circuit_equals_the_recorded_arrays(
    name: str, wide: bool, parity_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs, arrays = recorded(parity_data, name)
    if wide:
        widen(model.module, monkeypatch)
    tolerance = 1e-12 if wide else RECORDED[name]
    found = edge_effects(model, pairs)
    assert (found.sources, found.readers) == (tuple(arrays["src"]), tuple(arrays["dst"]))
    np.testing.assert_array_equal(found.real, arrays["real"])
    np.testing.assert_allclose(found.scores, arrays["exact"], atol=tolerance, rtol=0)
    for kind in ("circuit", "sparse"):
        values = circuit_metric(model, pairs, "logit_diff", arrays[f"{kind}_keep"])
        np.testing.assert_allclose(values.mean(1), arrays[f"{kind}_metric"], atol=tolerance, rtol=0)
    if "sparse_pruned_keep" in arrays:
        values = circuit_metric(model, pairs, "logit_diff", arrays["sparse_pruned_keep"])
        np.testing.assert_allclose(values.mean(1), arrays["sparse_metric"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", RECORDED)
def test_a_float32_model_is_near_the_recorded_arrays(name: str, parity_data: Path) -> None:
    _, pairs, arrays = recorded(parity_data, name)
    model = LanguageModel(parity_data / name)
    np.testing.assert_allclose(edge_effects(model, pairs).scores, arrays["exact"], atol=1e-4, rtol=0)
    values = circuit_metric(model, pairs, "logit_diff", arrays["circuit_keep"])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.mean(1), arrays["circuit_metric"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", RECORDED)
def test_keeping_all_edges_is_the_base_run_and_keeping_none_the_other_run(name: str, parity_data: Path) -> None:
    model, pairs, arrays = recorded(parity_data, name)
    keep = np.stack([arrays["real"], np.zeros_like(arrays["real"])])
    full, empty = circuit_metric(model, pairs, "logit_diff", keep)
    np.testing.assert_allclose(full, arrays["metric_clean_per_example"], atol=RECORDED[name], rtol=0)
    np.testing.assert_allclose(empty, arrays["metric_corrupted_per_example"], atol=RECORDED[name], rtol=0)
    back = circuit_metric(model, pairs, "logit_diff", keep, direction="denoising")
    np.testing.assert_allclose(back, np.stack([empty, full]), atol=RECORDED[name], rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_circuit_written_by_the_eap_ig_library_has_the_metric_of_its_edges(name: str, parity_data: Path) -> None:
    model, pairs, arrays = recorded(parity_data, name)
    graph = json.loads((parity_data / f"{name}_eapig_top40.json").read_text(encoding="utf-8"))
    layout = Layout.of(model.facts, model.adapter)
    keep = np.zeros_like(layout.real)
    for edge, facts in graph["edges"].items():
        source, reader = edge.split("->")
        np.testing.assert_allclose(arrays["eap"][layout.edge(source, reader)], facts["score"], atol=1e-12, rtol=0)
        if facts["in_graph"]:
            keep[layout.edge(source, reader)] = True
    found = circuit_metric(model, pairs, "logit_diff", keep)
    ablated = readers_of(layout, layout.real & ~keep)
    where = {"gpt2": hooks.GPT2, "llama": replace(hooks.LLAMA, kv=4, d=8)}[name]
    logits = surgery.circuit_logits(
        model.module, where, 3, torch.tensor(arrays["clean_ids"]), torch.tensor(arrays["corrupted_ids"]), ablated
    )
    rows = torch.arange(len(pairs))
    last = logits[:, -1]
    expected = last[rows, torch.tensor(arrays["answer_ids"])] - last[rows, torch.tensor(arrays["foil_ids"])]
    np.testing.assert_allclose(found, expected, atol=1e-10 if name == "gpt2" else 1e-6, rtol=0)


# -- brute force on every decoder --------------------------------------------------------------------------------------
ROUNDED = 2e-6
"""Both sides run the same float32 pieces, on numbers that differ in the last bit of float64."""
EXACT = 1e-10
EXACT_FAMILIES = ("gpt2", "gpt_bigcode", "gpt_bigcode_heads", "opt")


@pytest.fixture(scope="module")
def zoo_pairs() -> list[TokenizedPair]:
    ids = zoo.ids(2, 7)
    other = ids.clone()
    other[0, 2], other[0, 6], other[1, 4], other[1, 1] = 11, 31, 17, 23
    return [
        decoders.pair(clean, corrupted, (n + 3,), (n + 50,), n + 1)
        for n, (clean, corrupted) in enumerate(zip(ids.tolist(), other.tolist(), strict=True))
    ]


def brute(
    name: str, model: LanguageModel, pairs: list[TokenizedPair], ablated: dict[str, list[str]], changed: Any = None
) -> np.ndarray:
    base, source = (torch.tensor([getattr(p, f"{key}_ids") for p in pairs]) for key in ("clean", "corrupted"))
    logits = surgery.circuit_logits(
        model.module, hooks.WHERE[name], model.facts.n_layers, base, source, ablated, changed
    )[:, -1]
    return np.array([float(row[p.answer_ids[0]] - row[p.foil_ids[0]]) for row, p in zip(logits, pairs, strict=True)])


def readers_of(layout: Layout, ablated: np.ndarray) -> dict[str, list[str]]:
    return {
        reader: [source for s, source in enumerate(layout.sources) if ablated[s, r]]
        for r, reader in enumerate(layout.readers)
        if ablated[:, r].any()
    }


@pytest.mark.parametrize("name", zoo.decoders())
def test_single_edges_of_every_kind_equal_brute_force(name: str, zoo_pairs: list[TokenizedPair]) -> None:
    model = LanguageModel(zoo.double(zoo.model(name)))
    layout = Layout.of(model.facts, model.adapter)
    last = model.facts.n_layers - 1
    key = [reader for reader in layout.readers if reader.startswith(f"a{last}.") and reader.endswith("<k>")][-1]
    value = key.replace("<k>", "<v>")
    edges = [
        ("input", "a0.h2<q>"), ("a0.h1", f"a{last}.h3<q>"), ("m0", key), (f"a{last - 1}.h2", value), ("input", "m1"),
        ("m0", f"m{last}"), ("a0.h3", "m1"), ("a1.h0", "logits"), (f"m{last}", "logits"), ("input", "logits"),
    ]  # fmt: skip
    if model.adapter.residual != "parallel":
        edges.append(("a1.h2", "m1"))
    found = edge_effects(model, zoo_pairs, edges=edges)
    base, effects = brute(name, model, zoo_pairs, {}), []
    tolerance = EXACT if name in EXACT_FAMILIES else ROUNDED
    for source, reader in edges:
        expected = float((brute(name, model, zoo_pairs, {reader: [source]}) - base).mean())
        effects.append(abs(expected))
        assert found.score(source, reader) == pytest.approx(expected, abs=tolerance), (source, reader)
    assert np.median(effects) > 100 * tolerance, "the edges chosen have hardly an effect"


@pytest.mark.parametrize("name", zoo.decoders())
def test_a_random_circuit_equals_brute_force(name: str, zoo_pairs: list[TokenizedPair]) -> None:
    model = LanguageModel(zoo.double(zoo.model(name)))
    layout = Layout.of(model.facts, model.adapter)
    rng = np.random.default_rng(3)
    ablated = layout.real & (rng.random(layout.real.shape) < 0.3)
    found = circuit_metric(model, zoo_pairs, "logit_diff", ~ablated)
    expected = brute(name, model, zoo_pairs, readers_of(layout, ablated))
    tolerance = EXACT if name in EXACT_FAMILIES else ROUNDED
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


ABLATED = {
    "zero": torch.zeros_like,
    "mean": lambda value: value.mean(0, keepdim=True).expand_as(value),
    "resample": lambda value: value.flip(0),  # of two pairs, the other one
}


@pytest.mark.parametrize("ablation", ABLATED)
@pytest.mark.parametrize("name", ["llama", "gemma2", "falcon"])
def test_other_ablations_equal_brute_force(name: str, ablation: str, zoo_pairs: list[TokenizedPair]) -> None:
    model = LanguageModel(zoo.double(zoo.model(name)))
    layout = Layout.of(model.facts, model.adapter)
    ablated = layout.real & (np.random.default_rng(4).random(layout.real.shape) < 0.3)
    found = circuit_metric(model, zoo_pairs, "logit_diff", ~ablated, ablation=ablation)
    expected = brute(name, model, zoo_pairs, readers_of(layout, ablated), ABLATED[ablation])
    np.testing.assert_allclose(found, expected, atol=ROUNDED, rtol=0)
