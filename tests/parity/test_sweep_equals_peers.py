"""Sweeps give the grids of nnsight 0.8.1 (one trace a cell) and TransformerLens 4.3.0 (one hooked run a cell).

Tiny GPT-2 and grouped-query LLaMA, float64. nnsight runs the attention we run: 1e-10. TransformerLens runs
transformers' eager attention, whose softmax LLaMA takes in float32; ours does, too, there, so that what differs is only
how many masked keys a softmax has: 1e-6 for LLaMA, 1e-10 for GPT-2.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.decoders import pair
from tests.parity.peers.comparison import CLEAN_IDS, CORRUPTED_IDS, Peers, shared_folder
from tracing.patching import sweep

FOLDER = Path(__file__).parent / "peers"
LENS, NNSIGHT = "transformer_lens-4.3.0", "nnsight-0.8.1"
FAMILIES = ("gpt2", "llama")
PAIR = pair(CLEAN_IDS, CORRUPTED_IDS, (5,), (6,))
LAYERS = [0, 1, 2]
"""The scripts' layers."""
TOLERANCE = {"gpt2": 1e-10, "llama": 1e-6}

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_positions_are_those_of_nnsight(peers: Peers, family: str, site: str) -> None:
    theirs = peers.answer(NNSIGHT, FOLDER / "cases_sweeps_captured.py", FAMILIES).of(family, site)[site]
    ours = sweep(peers.model(family), PAIR, sites=site, layers=LAYERS)
    np.testing.assert_allclose(ours.raw, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "attn_out"])
def test_positions_are_those_of_transformer_lens(peers: Peers, family: str, site: str) -> None:
    theirs = peers.answer(LENS, FOLDER / "cases_sweeps_lens.py", FAMILIES).of(family, "positions")[site]
    ours = sweep(peers.model(family, "eager"), PAIR, sites=site, layers=LAYERS)
    np.testing.assert_allclose(ours.raw, theirs, atol=TOLERANCE[family], rtol=0)


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_heads_are_those_of_transformer_lens(peers: Peers, family: str, site: str) -> None:
    theirs = peers.answer(LENS, FOLDER / "cases_sweeps_lens.py", FAMILIES).of(family, "heads")[site]
    ours = sweep(peers.model(family, "eager"), PAIR, sites=site, over=("layer", "head"), layers=LAYERS)
    np.testing.assert_allclose(ours.raw, theirs, atol=TOLERANCE[family], rtol=0)


def test_zeroed_heads_are_those_of_transformer_lens(peers: Peers, family: str) -> None:
    theirs = peers.answer(LENS, FOLDER / "cases_sweeps_lens.py", FAMILIES).of(family, "zeroed_heads")["z"]
    options = {"direction": "noising", "source": "zero", "layers": LAYERS}
    ours = sweep(peers.model(family, "eager"), PAIR, sites="z", over=("layer", "head"), **options)
    np.testing.assert_allclose(ours.raw, theirs, atol=TOLERANCE[family], rtol=0)
    assert torch.tensor(ours.clean).isfinite().all()
