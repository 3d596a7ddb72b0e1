"""Wrappers of one module: names that are set on them, edited copies, what sessions make of those."""

import copy
import pickle  # noqa: TID251 (what users do with their own models)
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from tests import zoo
from tests.unit.tracing.seed import support
from tracing import LanguageModel, Model
from tracing.errors import GraphFormatError, NotSavedError, PathError, RecordError, SiteError, SiteNotReachedError

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


# -- edits in generations ----------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({"max_new_tokens": 4}, 4),
        ({"max_length": 9}, 4),
        ({"generation_config": GenerationConfig(max_length=9, pad_token_id=2)}, 4),
        ({}, 20),
    ],
    ids=["max_new_tokens", "max_length", "generation_config", "default"],
)
def test_an_edit_holds_however_the_length_of_a_generation_is_said(
    tiny: LanguageModel, asked: dict[str, Any], tokens: int
) -> None:
    with tiny.edit() as edited:
        edited.lm_head.output[..., 7] = 1e6
    with edited.generate(IDS, **asked) as tracer:
        found = tracer.result.save()
    assert found[0, 5:].tolist() == [7] * tokens


def test_a_generation_of_unknown_length_with_edits_is_refused() -> None:
    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(x)

        def generate(self, x: torch.Tensor) -> Any:
            return self(self(x))

    with Model(Generator()).edit() as edited:
        edited.layer.output[...] = 0
    with pytest.raises(RecordError, match=r"not known .*Give max_new_tokens"), edited.generate(torch.ones(1, 2)):
        pass


@pytest.fixture(scope="module")
def t5() -> LanguageModel:
    """An encoder-decoder that transformers can generate with: as many layers in its encoder as in its decoder."""
    return LanguageModel(zoo.model("t5", num_layers=3))


def _inside(model: LanguageModel) -> Any:
    return model._model


def _generated(module: nn.Module, steps: int = 3) -> torch.Tensor:
    found: torch.Tensor = module.generate(IDS, max_new_tokens=steps, min_new_tokens=steps)  # type: ignore[operator]
    return found


def test_an_edit_of_an_encoder_holds_in_a_generation(t5: LanguageModel) -> None:
    layer = _inside(t5).encoder.block[1]
    with layer.register_forward_hook(lambda _, __, out: (out[0] * -3, *out[1:])):
        expected = _generated(t5._model)
    with t5.edit() as edited:
        edited.encoder.block[1].output[0][:] *= -3
    with edited.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer:
        found = tracer.result.save()
    assert torch.equal(found, expected)
    assert not torch.equal(found, _generated(t5._model))


def test_an_edit_of_keys_that_are_computed_once_holds_in_a_generation(t5: LanguageModel) -> None:
    keys = _inside(t5).decoder.block[0].layer[1].EncDecAttention.k
    with keys.register_forward_hook(lambda _, __, out: out * -3):
        expected = _generated(t5._model)
    with t5.edit() as edited:
        edited.decoder.block[0].layer[1].EncDecAttention.k.output[...] *= -3
    with edited.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer:
        found = tracer.result.save()
    assert torch.equal(found, expected)


def test_an_edit_between_layers_of_an_encoder_holds_in_a_generation(t5: LanguageModel) -> None:
    with t5.edit() as edited:
        edited.encoder.block[1].output = edited.encoder.block[0].output * -3
    seen: list[torch.Tensor] = []
    with (
        _inside(t5).encoder.block[0].register_forward_hook(lambda _, __, out: seen.append(out[0].clone())),
        _inside(t5).encoder.block[1].register_forward_hook(lambda _, __, out: (seen[-1] * -3, *out[1:])),
    ):
        expected = _generated(t5._model)
    with edited.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer:
        found = tracer.result.save()
    assert torch.equal(found, expected)


def test_an_edit_that_skips_a_part_of_an_encoder_holds_in_a_generation(t5: LanguageModel) -> None:
    with _inside(t5).encoder.block[1].layer[1].register_forward_hook(lambda _, args, out: args[0] * 0):
        expected = _generated(t5._model)
    with t5.edit() as edited:
        edited.encoder.block[1].layer[1].skip(torch.zeros(1, 5, 32))
    with edited.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer:
        found = tracer.result.save()
    assert torch.equal(found, expected)


def test_an_edited_model_generates_beside_writes_and_reads_of_a_trace(t5: LanguageModel) -> None:
    with t5.edit() as edited:
        edited.encoder.block[1].output[0][:] *= -3
    with t5.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer:
        t5.encoder.block[1].output[0][:] *= -6
        expected = tracer.result.save()
        wanted = t5.encoder.block[1].output[0].save()
    with edited.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer:
        edited.encoder.block[1].output[0][:] *= 2
        found = tracer.result.save()
        seen = edited.encoder.block[1].output[0].save()
    assert torch.equal(found, expected)
    assert torch.equal(seen, wanted)


def test_an_edit_that_needs_at_each_step_what_only_the_first_has_is_an_error(t5: LanguageModel) -> None:
    with t5.edit() as edited:
        edited.decoder.block[1].output[0][:] += edited.encoder.block[0].output[0].mean()
    with (
        pytest.raises(SiteNotReachedError, match=r"encoder\.block\.0\.output, step 1"),
        edited.generate(IDS, max_new_tokens=3, min_new_tokens=3) as tracer,
    ):
        tracer.result.save()


def test_an_edit_that_no_step_reaches_is_an_error(t5: LanguageModel) -> None:
    with t5.edit() as edited:
        edited.get("encoder.block").output[...] = 0
    with pytest.raises(SiteNotReachedError, match="container"), edited.generate(IDS, max_new_tokens=3) as tracer:
        tracer.result.save()


# -- stored edits ------------------------------------------------------------------------------------------------------
def _stored(edited: LanguageModel, path: Path, old: str, new: str) -> Path:
    """The edits in a file in which a path is another."""
    edited.save_edits(path)
    file = path.with_suffix(".json")
    file.write_text(file.read_text().replace(old, new))
    return path


@pytest.mark.parametrize("what", ["site", "module", "parameter", "skip"])
def test_edits_of_another_model_are_refused_by_file_and_path(what: str, tmp_path: Path) -> None:
    model = LanguageModel(zoo.model("gpt2"))
    with model.edit() as edited:
        if what == "site":
            edited.transformer.h[1].mlp.output[...] = 0
        elif what == "module":
            edited.lm_head.output = edited.lm_head(edited.transformer.h[1].mlp(edited.transformer.ln_f.output))
        elif what == "parameter":
            edited.lm_head.output = edited.lm_head.output * edited.transformer.h[1].mlp.c_fc.weight.sum()
        else:
            edited.transformer.h[1].mlp.skip(torch.zeros(1, 5, 32))
    stored = _stored(edited, tmp_path / "edit", "transformer.h.1.mlp", "transformer.h.1.nlp")
    with pytest.raises(
        GraphFormatError, match=r"edit is of another model: it names 'transformer\.h\.1\.nlp.*GPT2LMHead"
    ):
        model.load_edits(stored)
    assert not model.edits


def test_an_edited_model_is_pickled_and_copied_with_its_edits(tiny: LanguageModel) -> None:
    with tiny.edit() as edited:
        edited.transformer.h[0].mlp.output[...] = 0
    with edited.trace(IDS):
        expected = edited.output.save()
    for other in (pickle.loads(pickle.dumps(edited)), copy.deepcopy(edited)):
        assert other.module is not edited.module
        with other.trace(IDS):
            found = other.output.save()
        assert torch.equal(found, expected)
