"""EAP equals that of TransformerLens 4.3.0 on the families whose edges it takes, edge by edge and position by position.

It takes gradients in the corrupted run towards the clean one, which is our denoising. Its bridge runs eager attention:
ours is told to, too, in GPT-2; in GPT-NeoX its softmax is in float32.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.decoders import pair
from tests.parity.peers.cases_edges import ANSWER, FOIL
from tests.parity.peers.comparison import CLEAN_IDS, CORRUPTED_IDS, Peers, shared_folder
from tracing.circuits.attribution import edge_attribution

PEER = "transformer_lens-4.3.0"
SCRIPT = Path(__file__).parent / "peers" / "cases_edges.py"
TOLERANCE = {"gpt2": 1e-12, "gpt_neox": 1e-7}


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("family", TOLERANCE)
def test_scores_of_every_edge_at_every_position_are_the_peers(peers: Peers, family: str) -> None:
    model = peers.model(family, "eager" if family == "gpt2" else None)
    one = pair(CLEAN_IDS, CORRUPTED_IDS, (ANSWER,), (FOIL,))
    found = edge_attribution(model, one, direction="denoising", spans="position")
    expected = peers.answer(PEER, SCRIPT).of(family, "edges")["scores"]
    np.testing.assert_allclose(found.span_scores, expected, atol=TOLERANCE[family], rtol=0)
    assert np.abs(found.scores).max() > 1e-3
