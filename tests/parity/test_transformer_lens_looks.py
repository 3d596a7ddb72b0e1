"""Logit lens, direct logit attribution and head detectors equal TransformerLens 4.3.0's, in float64.

To 1e-6: RMSNorm and the softmax of eager attention are float32 in transformers, entropy and the weights of its
compatibility mode in TransformerLens. The lens of GPT-2, without any of these, agrees to 1e-10.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.decoders import pair as pair_of
from tests.parity.peers.cases_looks import ANSWER, FOIL, REPEATED
from tests.parity.peers.comparison import CLEAN_IDS, CORRUPTED_IDS, Peers, shared_folder
from tracing.lenses.detectors import KINDS, detect_heads
from tracing.lenses.direct import direct_logit_attribution
from tracing.lenses.logit_lens import logit_lens

PEER = "transformer_lens-4.3.0"
SCRIPT = Path(__file__).parent / "peers" / "cases_looks.py"
FAMILIES = ("gpt2", "llama", "mistral", "gpt_neox")
ATTENTION = {"gpt2": "eager", "llama": "eager", "mistral": "eager"}
TOLERANCE = 1e-6
PAIR = pair_of(CLEAN_IDS, CORRUPTED_IDS, (ANSWER,), (FOIL,))

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


def test_the_logit_lens_agrees(peers: Peers, family: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    theirs = peers.answer(PEER, SCRIPT).of(family, "logit_lens")
    found = logit_lens(model, PAIR, lambda logits: logits[:, ANSWER] - logits[:, FOIL]).grid
    assert found is not None
    assert int(theirs["rows"]) == len(found.rows)
    expected = theirs["logits"][:, 0, :, 0] - theirs["logits"][:, 0, :, 1]
    np.testing.assert_allclose(found.raw, expected, atol=1e-10 if family == "gpt2" else TOLERANCE)
    np.testing.assert_allclose(found.planes["entropy"], theirs["entropy"][:, 0], atol=2 * TOLERANCE)
    np.testing.assert_array_equal(found.planes["rank"], theirs["ranks"][:, 0, :, 0])


@pytest.mark.parametrize("by", ["head", "component"])
def test_direct_contributions_agree(peers: Peers, family: str, by: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    theirs = peers.answer(PEER, SCRIPT).of(family, f"{by}s")["shares"]
    found = direct_logit_attribution(model, PAIR, by=by).grid  # type: ignore[arg-type]
    assert found is not None
    np.testing.assert_allclose(found.planes["clean"].flatten(), theirs, atol=TOLERANCE)


def test_head_scores_agree(peers: Peers, family: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    theirs = peers.answer(PEER, SCRIPT).of(family, "detectors")
    found = detect_heads(model, torch.tensor([REPEATED]), measure="mul")
    for kind in KINDS:
        np.testing.assert_allclose(found.grids[kind].planes["score"], theirs[kind], atol=TOLERANCE)
