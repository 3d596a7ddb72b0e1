"""The words of nnsight 0.4.11 run unchanged on our tracer and give its numbers, in float64 to 1e-12.

Where it is silently wrong (row 0, positions of padded prompts), plain hooks say what is right.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity.peers.cases_deferred import CLEAN, SHORT
from tests.parity.peers.comparison import FAMILIES, GIVEN, Peers, assert_equal, names, ours, plain, shared_folder
from tests.parity.peers.layout import Layout
from tests.unit.tracing.seed import support

PEER = "nnsight-0.4.11"
FOLDER = Path(__file__).parent / "peers"
SCRIPT = FOLDER / "cases_deferred.py"
OWN_WORDS = FOLDER / "cases_deferred_peer.py"
WRONG = ("unequal_invokes", "gradients_of_invokes")
"""Cases that the peer gets wrong or refuses; tests of their own say what is right."""

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("case", [name for name in names(SCRIPT) if name not in WRONG])
def test_its_words_give_its_numbers(peers: Peers, family: str, case: str) -> None:
    assert_equal(ours(peers.model(family), family, SCRIPT, case), peers.answer(PEER, SCRIPT).of(family, case))


@pytest.mark.parametrize("case", ["list", "steps", "edit", "apply"])
def test_the_same_in_our_words(peers: Peers, family: str, case: str) -> None:
    assert_equal(ours(peers.model(family), family, OWN_WORDS, case), peers.answer(PEER, OWN_WORDS).of(family, case))


def test_a_condition_decides_as_there(peers: Peers, family: str) -> None:
    model = peers.model(family)
    with model.trace(GIVEN["clean"]) as tracer:
        large = Layout(model, family).blocks[0].output.norm() > 0
        with tracer.cond(large):
            Layout(model, family).blocks[1].output[:, 1] = 0
        logits = model.output.logits.save()
    assert_equal({"logits": logits.value}, peers.answer(PEER, OWN_WORDS).of(family, "condition"))


def test_prompts_of_unequal_lengths_are_as_each_alone(peers: Peers, family: str) -> None:
    """nnsight 0.4.11 counts positions from the padding: GPT-2 mispredicts every shorter prompt."""
    model = peers.model(family)
    found = ours(model, family, SCRIPT, "unequal_invokes")
    for name, text in (("first", CLEAN), ("second", SHORT)):
        alone = plain(model._model, support.ids(text))[0][:, -2:]
        torch.testing.assert_close(found[name], alone, atol=1e-12, rtol=1e-12)
    theirs = peers.answer(PEER, SCRIPT).of(family, "unequal_invokes")
    off = (theirs["second"] - found["second"]).abs().max()
    assert (off > 1e-3) == (family == "gpt2")


def test_gradients_of_a_loss_over_two_prompts(peers: Peers, family: str) -> None:
    """nnsight 0.4.11 raises `Accessing value before it's been set`."""
    model = peers.model(family)
    found = ours(model, family, SCRIPT, "gradients_of_invokes")
    expected = {
        "first": _gradient(model._model, GIVEN["clean"], Layout(model, family).path(1), 5, 1.0),
        "second": _gradient(model._model, GIVEN["corrupted"], Layout(model, family).path(1), 7, 2.0),
    }
    assert_equal(found, expected)
    assert "before it's been set" in peers.answer(PEER, SCRIPT).errors[f"{family}/gradients_of_invokes"]


def test_block_output_0_is_the_hidden_state_and_not_row_0(peers: Peers, family: str) -> None:
    """nnsight 0.4.11 silently gives batch row 0, as 0.8.1 does."""
    model = peers.model(family)
    with model.trace(GIVEN["clean"]):
        hidden = Layout(model, family).blocks[1].output[0].save()
    theirs = peers.answer(PEER, OWN_WORDS).of(family, "first_row")["hidden"]
    torch.testing.assert_close(hidden.value[0], theirs, atol=1e-12, rtol=0)
    assert hidden.shape == (1, *theirs.shape)


def _gradient(module: torch.nn.Module, ids: Tensor, path: str, token: int, factor: float) -> Tensor:
    """By torch alone: of `factor` × a last logit, with respect to a module's output."""
    module.requires_grad_(True)
    try:
        logits, found = support.run(module, ids, reads=[path], grad=True)
        return torch.autograd.grad(factor * logits[0, -1, token], found[path])[0]
    finally:
        module.requires_grad_(False)
