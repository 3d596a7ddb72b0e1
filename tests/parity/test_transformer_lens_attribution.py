"""Node attribution equals TransformerLens 4.3.0's (`tools.analysis.attribution_patching`), in float64.

Its bridge runs eager attention, whose softmax is in float32 in all families but GPT-2: ours is told to do so, too.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.decoders import pair
from tests.parity.peers.cases_attribution import ANSWER, FOIL
from tests.parity.peers.comparison import CLEAN_IDS, CORRUPTED_IDS, Peers, shared_folder
from tracing.patching.attribution import attribution_patching

PEER = "transformer_lens-4.3.0"
SCRIPT = Path(__file__).parent / "peers" / "cases_attribution.py"
TOLERANCE = {"gpt2": 1e-12, "llama": 1e-7, "mistral": 1e-7, "gpt_neox": 1e-7}


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("family", TOLERANCE)
def test_scores_of_heads_mlps_and_the_embedding_are_the_peers(peers: Peers, family: str) -> None:
    model = peers.model(family, None if family == "gpt_neox" else "eager")
    one = pair(CLEAN_IDS, CORRUPTED_IDS, (ANSWER,), (FOIL,))
    found = attribution_patching(model, [one], sites=["resid_pre", "mlp_out"])
    heads = attribution_patching(model, [one], sites="z", over=("layer", "head", "position"))
    expected = peers.answer(PEER, SCRIPT).of(family, "nodes")
    at = {"atol": TOLERANCE[family], "rtol": 0}
    np.testing.assert_allclose(heads.planes["score"], expected["heads"].flatten(0, 1), **at)
    np.testing.assert_allclose(found["mlp_out"].planes["score"], expected["mlps"], **at)
    np.testing.assert_allclose(found["resid_pre"].planes["score"][0], expected["embedding"], **at)
