"""Wrappers of one module: names that are set on them, edited copies, what sessions make of those."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from tests import zoo
from tests.unit.tracing.seed import support
from tracing import LanguageModel, Model
from tracing.errors import NotSavedError, PathError, RecordError, SiteError

IDS = zoo.ids(1, 5)


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    """Three layers, width 32."""
    return LanguageModel(zoo.model("gpt2"))


# -- names on the root -------------------------------------------------------------------------------------------------
def test_a_misspelt_output_of_the_model_is_refused_in_a_trace(tiny: LanguageModel) -> None:
    with pytest.raises(PathError, match=r"no submodule 'ouput' .*output"), tiny.trace(IDS):
        tiny.ouput = torch.zeros(1, 5, 97)
    assert "ouput" not in tiny.__dict__


def test_a_module_of_the_model_is_not_replaced_by_a_value(tiny: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"^transformer is a module"):
        tiny.transformer = torch.zeros(1)


def test_the_weight_of_a_root_is_written_outside_of_a_trace_and_refused_within() -> None:
    net = Model(nn.Linear(2, 2))
    net.weight = nn.Parameter(torch.zeros(2, 2))
    assert not net._model.weight.any()
    with pytest.raises(SiteError, match="read as a copy"), net.trace(torch.ones(1, 2)):
        net.weight = torch.ones(2, 2)


def test_a_wrapper_takes_attributes_of_ones_own_outside_of_a_trace() -> None:
    class Named(Model):
        def __init__(self, module: nn.Module) -> None:
            self.before = 1
            super().__init__(module)
            self.name = "mine"

    net = Named(support.Net())
    net.note = 3
    assert (net.before, net.name, net.note) == (1, "mine", 3)


# -- edited copies -----------------------------------------------------------------------------------------------------
def test_a_session_of_an_edited_model_runs_its_traces_together(tiny: LanguageModel) -> None:
    with tiny.edit() as edited:
        edited.transformer.h[0].mlp.output[...] = 0
    with edited.trace(IDS):
        hidden = edited.transformer.h[1].output[0].save()
    with edited.trace(IDS):
        edited.transformer.h[1].output[0][:] = hidden * 2
        expected = edited.output.save()
    with edited.session():
        with edited.trace(IDS):
            flowing = edited.transformer.h[1].output[0]
        with edited.trace(IDS):
            edited.transformer.h[1].output[0][:] = flowing * 2
            found = edited.output.save()
    assert torch.equal(found, expected)


def test_each_trace_of_a_session_has_the_edits_of_its_own_wrapper(tiny: LanguageModel) -> None:
    with tiny.edit() as edited:
        edited.lm_head.output[...] = 0
    with tiny.session():
        with tiny.trace(IDS):
            intact = tiny.output.save()
        with edited.trace(IDS):
            zeroed = edited.output.save()
    assert intact.abs().max() > 0
    assert zeroed.abs().max() == 0


def test_what_must_not_nest_does_not_whichever_wrapper_opens_it(tiny: LanguageModel) -> None:
    with tiny.edit() as edited:
        edited.lm_head.output[...] = 0
    for outer in (tiny, edited):
        for inner in (tiny, edited):
            with pytest.raises(RecordError, match="open already"), outer.session(), outer.trace(IDS), inner.trace(IDS):
                pass
            with pytest.raises(RecordError, match="inside a trace"), outer.trace(IDS), inner.edit():
                pass
            with pytest.raises(RecordError, match="inside a trace"), outer.trace(IDS), inner.session():
                pass
    with tiny.trace(IDS):
        found = tiny.output.save()  # nothing of the refused ones is left
    assert found.shape == (1, 5, 97)


def test_a_trace_inside_a_trace_of_another_wrapper_is_a_trace_of_its_own(tiny: LanguageModel) -> None:
    with tiny.edit() as edited:
        edited.lm_head.output[...] = 0
    with edited.trace(IDS):
        with tiny.trace(IDS):
            inner = tiny.output.save()
        outer = edited.output.save()
    assert inner.abs().max() > 0
    assert outer.abs().max() == 0


def test_attached_modules_are_there_in_an_edited_model() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    model.transformer.h[0].extra = nn.Linear(32, 32)
    with model.edit() as edited:
        block = edited.transformer.h[0]
        block.output = block.extra(block.output)
    with edited.trace(IDS):
        found, inside = edited.output.save(), edited.get("transformer.h.0.extra").output.save()
    with model.trace(IDS):
        block = model.transformer.h[0]
        block.output = block.extra(block.output)
        expected = model.output.save()
    assert torch.equal(found, expected)
    assert inside.shape == (1, 5, 32)


def test_a_session_refuses_a_trace_with_modules_that_it_does_not_have() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    edited = model.copy()
    edited.transformer.h[0].extra = nn.Linear(32, 32)
    with (
        pytest.raises(RecordError, match=r"attached to it alone: transformer\.h\.0\.extra"),
        model.session(),
        edited.trace(IDS),
    ):
        pass


# -- sessions ----------------------------------------------------------------------------------------------------------
def test_a_trace_whose_error_is_caught_is_no_part_of_the_session(tiny: LanguageModel) -> None:
    with tiny.trace(IDS):
        intact = tiny.output.save()
        logits = tiny.lm_head.output
        logits.sum().backward()
        slope = tiny.transformer.h[1].output.grad.save()
    with tiny.session() as session:
        with tiny.trace(IDS):
            before = tiny.transformer.h[0].output.save()
        with pytest.raises(ValueError, match="mine"), tiny.trace(IDS):
            tiny.transformer.h[0].output[:] = 0
            failed = tiny.output.save()
            tiny.transformer.h[1].output.retain_grad()
            tiny.output.sum().backward()
            raise ValueError("mine")
        with tiny.trace(IDS):
            found = tiny.output.save()
            hidden = tiny.transformer.h[1].output
            tiny.output.sum().backward()
            gradient = hidden.grad.save()
    assert [stage.index for stage in session.graph.stages] == [0, 1]
    assert torch.allclose(found, intact)
    assert torch.allclose(gradient, slope)
    assert before.shape == (1, 5, 32)
    with pytest.raises(NotSavedError, match="did not run to its end"):
        failed.sum()


def test_a_value_of_a_failed_trace_is_refused_by_the_session(tiny: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"whose block ended with an error"), tiny.session():
        with suppress(ValueError), tiny.trace(IDS):
            hidden = tiny.transformer.h[0].output
            raise ValueError
        with tiny.trace(IDS):
            tiny.transformer.h[1].output[:] = hidden
            tiny.output.save()


def test_a_value_changed_in_a_failed_trace_is_refused_by_the_session(tiny: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"whose block ended with an error"), tiny.session():
        with tiny.trace(IDS):
            hidden = tiny.transformer.h[0].output * 2
        with suppress(ValueError), tiny.trace(IDS):
            hidden += 1
            raise ValueError
        with tiny.trace(IDS):
            tiny.transformer.h[1].output[:] = hidden
            tiny.output.save()
