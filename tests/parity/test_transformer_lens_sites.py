"""Our standard sites hold what TransformerLens 4.3.0 calls by the same names, in float64 to 1e-12.

It runs the eager attention of transformers, whose softmax is in float32, in most families: ours does here, too."""

from pathlib import Path

import pytest
import torch

from tests.parity.peers.comparison import GIVEN, Peers, shared_folder

PEER = "transformer_lens-4.3.0"
SCRIPT = Path(__file__).parent / "peers" / "cases_lens.py"
FAMILIES = ("gpt2", "llama", "mistral", "gpt_neox")
ATTENTION = {"gpt2": "eager", "llama": "eager", "mistral": "eager"}
SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern")

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_the_hook_of_the_same_name(peers: Peers, family: str, site: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    with model.trace(GIVEN["clean"]):
        value = getattr(model.sites, site)[1].save()
    expected = peers.answer(PEER, SCRIPT).of(family, "sites")[site]
    rounding = 1e-6 if (site, family) == ("pattern", "gpt_neox") else 1e-12  # of its softmax, in float32 there, too
    torch.testing.assert_close(value.value, expected, atol=rounding, rtol=0)


def test_logits_agree(peers: Peers, family: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    with model.trace(GIVEN["clean"]):
        logits = model.output.save()
    expected = peers.answer(PEER, SCRIPT).of(family, "sites")["logits"]
    torch.testing.assert_close(logits.value, expected, atol=1e-12, rtol=0)


def test_zeroing_a_head_has_the_same_effect(peers: Peers, family: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    with model.trace(GIVEN["clean"]):
        model.sites.z[1][:, :, 2] = 0
        logits = model.output.save()
    expected = peers.answer(PEER, SCRIPT).of(family, "zeroed_head")["logits"]
    torch.testing.assert_close(logits.value, expected, atol=1e-12, rtol=0)


def test_patching_the_residual_stream_has_the_same_effect(peers: Peers, family: str) -> None:
    model = peers.model(family, ATTENTION.get(family))
    with model.trace(GIVEN["clean"]):
        clean = model.sites.resid_post[1].save()
    with model.trace(GIVEN["corrupted"]):
        model.sites.resid_post[1][:, 3] = clean[:, 3]
        logits = model.output.save()
    expected = peers.answer(PEER, SCRIPT).of(family, "patched_residual")["logits"]
    torch.testing.assert_close(logits.value, expected, atol=1e-12, rtol=0)
