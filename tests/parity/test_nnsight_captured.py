"""Our traces equal those of nnsight 0.8.1, in float64 to 1e-12, or are right where it is silently wrong."""

from pathlib import Path

import pytest
import torch

from tests.parity.peers.comparison import FAMILIES, GIVEN, Peers, assert_equal, names, ours, plain, shared_folder
from tests.parity.peers.layout import Layout
from tests.unit.tracing.seed import support
from tracing.errors import RecordError

PEER = "nnsight-0.8.1"
FOLDER = Path(__file__).parent / "peers"
SCRIPT = FOLDER / "cases_captured.py"
FAULTS = FOLDER / "cases_captured_faults.py"

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Models and answers."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("case", names(SCRIPT))
def test_equals_nnsight(peers: Peers, family: str, case: str) -> None:
    assert_equal(ours(peers.model(family), family, SCRIPT, case), peers.answer(PEER, SCRIPT).of(family, case))


def test_block_output_0_is_the_hidden_state_and_not_row_0(peers: Peers, family: str) -> None:
    """nnsight silently gives batch row 0, `[position, d_model]`."""
    model = peers.model(family)
    with model.trace(GIVEN["clean"]):
        hidden = Layout(model, family).blocks[1].output[0].save()
    path = Layout(model, family).path(1)
    expected = plain(model._model, GIVEN["clean"], reads=[path])[1][path]
    torch.testing.assert_close(hidden.value, expected, atol=1e-12, rtol=0)
    assert peers.answer(PEER, FAULTS).of(family, "first_row")["hidden"].shape == expected.shape[1:]


def test_zeroing_output_0_zeroes_all_prompts(peers: Peers, family: str) -> None:
    """nnsight silently zeroes the first prompt only."""
    model = peers.model(family)
    with model.trace(GIVEN["both"]):
        Layout(model, family).blocks[1].output[0][:] = 0
        hidden = Layout(model, family).blocks[1].output.save()
    assert hidden.count_nonzero() == 0
    theirs = peers.answer(PEER, FAULTS).of(family, "zeroing_two_prompts")["hidden"]
    assert theirs[0].count_nonzero() == 0
    assert theirs[1].count_nonzero() > 0


def test_a_misspelt_option_is_an_error(peers: Peers, family: str) -> None:
    """nnsight silently runs `remot=True` on this machine."""
    with pytest.raises(TypeError, match="remote"):
        peers.model(family).trace(GIVEN["clean"], remot=True)
    assert "logits" in peers.answer(PEER, FAULTS).of(family, "misspelt_option")


def test_a_bare_backward_gives_the_gradient_of_a_part(peers: Peers, family: str) -> None:
    """nnsight silently gives None."""
    model = peers.model(family)
    with model.trace(GIVEN["clean"]):
        gradient = Layout(model, family).blocks[1].output[0][0].grad.save()
        model.output.logits[0, -1, 5].backward()
    path = Layout(model, family).path(1)
    with torch.enable_grad():
        module = model._model.requires_grad_(True)
        try:
            logits, found = support.run(module, GIVEN["clean"], reads=[path], grad=True)
            (expected,) = torch.autograd.grad(logits[0, -1, 5], found[path])
        finally:
            module.requires_grad_(False)
    torch.testing.assert_close(gradient.value, expected[0], atol=1e-12, rtol=0)
    assert peers.answer(PEER, FAULTS).of(family, "bare_backward")["is None"].item()


def test_reads_need_no_order(peers: Peers, family: str) -> None:
    """nnsight raises OutOfOrderError after the whole forward."""
    model = peers.model(family)
    with model.trace(GIVEN["clean"]):
        last = Layout(model, family).blocks[2].output.save()
        first = Layout(model, family).blocks[0].output.save()
    paths = [Layout(model, family).path(layer) for layer in (0, 2)]
    found = plain(model._model, GIVEN["clean"], reads=paths)[1]
    assert_equal({"first": first.value, "last": last.value}, {"first": found[paths[0]], "last": found[paths[1]]})
    assert "OutOfOrderError" in peers.answer(PEER, FAULTS).errors[f"{family}/out_of_order"]


def test_values_cross_prompts_without_a_barrier(peers: Peers, family: str) -> None:
    """nnsight needs `tracer.barrier`, else the other prompt's value is a NameError."""
    model = peers.model(family)
    with model.trace() as tracer:
        with tracer.invoke(GIVEN["clean"]):
            clean = Layout(model, family).blocks[1].output
        with tracer.invoke(GIVEN["corrupted"]):
            Layout(model, family).blocks[1].output[:] = clean
            logits = model.output.logits.save()
    expected = plain(model._model, GIVEN["clean"])[0]
    torch.testing.assert_close(logits.value, expected, atol=1e-12, rtol=0)
    assert "NameError" in peers.answer(PEER, FAULTS).errors[f"{family}/crossing_without_a_barrier"]


def test_unpacking_a_live_value_names_the_alternative(peers: Peers, family: str) -> None:
    """nnsight's values are there already; ours are recorded."""
    model = peers.model(family)
    with pytest.raises(RecordError, match=r"Index it \(proxy\[0\]"), model.trace(GIVEN["clean"]):
        _first, _second = Layout(model, family).attentions[1].output
