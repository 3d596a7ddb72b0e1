"""Node attribution equals the recorded arrays of ../shared/data/parity, per example and per position, on five layouts.

They were made by a plain-torch reference in float64. Transformers runs norms and rotary tables in float32, which limits
an unmodified model to the tolerances that the arrays' README names.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.decoders import pair
from tracing.models import LanguageModel
from tracing.patching.attribution import attribution_patching
from tracing.prompts import TokenizedPair

TOLERANCE = {"gpt2": 1e-12, "gpt_neox": 1e-7, "llama": 1e-5, "llama_gqa": 1e-5, "gemma2": 1e-5}


def recorded(folder: Path, name: str) -> tuple[LanguageModel, list[TokenizedPair], Any]:
    data = np.load(folder / f"{name}.npz", allow_pickle=False)
    pairs = [
        pair(clean.tolist(), corrupted.tolist(), (int(answer),), (int(foil),), n)
        for n, (clean, corrupted, answer, foil) in enumerate(
            zip(data["clean_ids"], data["corrupted_ids"], data["answer_ids"], data["foil_ids"], strict=True), start=1
        )
    ]
    return LanguageModel(folder / name, dtype="float64"), pairs, data


def rows(sources: list[str], embedding: Any, heads: Any, mlps: Any) -> Any:
    """Our maps in the order of the recorded sources: input, heads a0.h0 …, MLPs m0 … as they are named there."""
    found = []
    for source in sources:
        if source == "input":
            found.append(embedding)
        elif source.startswith("m"):
            found.append(mlps[int(source[1:])])
        else:
            layer, head = source[1:].split(".h")
            found.append(heads[int(layer), int(head)])
    return np.stack(found)


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("batch", ["auto", 4])
def test_node_scores_equal_the_recorded_ones_per_example_and_position(parity_data: Path, name: str, batch: Any) -> None:
    model, pairs, data = recorded(parity_data, name)
    sources = [str(one) for one in data["src"]]
    by_position = attribution_patching(
        model, pairs, sites=["resid_pre", "mlp_out"], over=("layer", "position"), direction="noising", batch=batch
    )
    heads = attribution_patching(
        model, pairs, sites="head_out", over=("layer", "head", "position"), direction="noising", batch=batch
    )
    layers, n_heads = model.facts.n_layers, model.facts.n_heads
    of_heads = heads.examples.reshape(len(pairs), layers, n_heads, -1)
    parts = [
        rows(sources, residual[0], head, mlp)  # the embedding is what enters block 0
        for residual, head, mlp in zip(
            by_position["resid_pre"].examples, of_heads, by_position["mlp_out"].examples, strict=True
        )
    ]
    each = np.stack(parts)  # [pair, source, position]
    at = {"atol": TOLERANCE[name], "rtol": 0}
    np.testing.assert_allclose(each.sum(-1), data["node_atp_per_example"], **at)
    np.testing.assert_allclose(each.mean(0).T, data["node_atp_per_position"], **at)
    np.testing.assert_allclose(each.sum(-1).mean(0), data["node_atp"], **at)


@pytest.mark.parametrize("name", TOLERANCE)
def test_a_nodes_score_is_the_sum_over_its_edges(parity_data: Path, name: str) -> None:
    """Σ over readers of the recorded edge scores: what a node writes reaches the metric along its edges alone."""
    model, pairs, data = recorded(parity_data, name)
    heads = attribution_patching(model, pairs, sites="z", over=("layer", "head"), direction="noising")
    mlps = attribution_patching(model, pairs, sites="mlp_out", over=("layer", "position"), direction="noising")
    embedding = attribution_patching(model, pairs, direction="noising")
    found = rows(
        [str(one) for one in data["src"]],
        embedding.planes["score"][0].sum(),
        heads.planes["score"],
        mlps.planes["score"].sum(-1),
    )
    np.testing.assert_allclose(found, (data["eap"] * data["real"]).sum(1), atol=TOLERANCE[name], rtol=0)


@pytest.mark.parametrize("name", TOLERANCE)
def test_the_metrics_of_both_runs_are_the_recorded_ones(parity_data: Path, name: str) -> None:
    model, pairs, data = recorded(parity_data, name)
    found = attribution_patching(model, pairs)
    for values, key in ((found.clean, "metric_clean"), (found.corrupted, "metric_corrupted")):
        np.testing.assert_allclose(values, data[f"{key}_per_example"], atol=TOLERANCE[name], rtol=0)
