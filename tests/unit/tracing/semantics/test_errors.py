"""Semantics 4: errors keep their type and point at the user's line; `scan` and `validate` raise them on that line."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed.support import calls, close, line_of, outputs, rows
from tracing import LanguageModel, Model
from tracing.errors import NotSavedError

PROMPT = "The capital of France is"
FILE = Path(__file__).name


def notes(error: BaseException) -> str:
    """What was added to an error."""
    return "\n".join(getattr(error, "__notes__", []))


def test_a_shape_error_keeps_its_type_and_names_line_site_and_shapes(net: Model) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised, net.trace(rows()):
        bad = net.first.output @ torch.ones(5, 5, dtype=torch.float64)  # bad product
        bad.save()

    assert type(raised.value) is RuntimeError
    note = notes(raised.value)
    assert FILE in note
    assert str(line_of(__file__, "bad product")) in note
    assert "first" in note
    assert "(2, 6)" in note
    assert "(5, 5)" in note


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (lambda h: h[7], IndexError),
        (lambda h: h.view(5, 5), RuntimeError),
        (lambda h: h + torch.ones(3, dtype=torch.float64), RuntimeError),
        (lambda h: torch.cat([h, torch.ones(1, dtype=torch.float64)]), RuntimeError),
        (lambda h: h.mean(dim=4), IndexError),
        (lambda h: torch.nn.functional.layer_norm(h, (9,)), RuntimeError),
    ],
)
def test_what_torch_raises_keeps_its_type_and_gets_the_line(
    net: Model, operation: Callable[[Any], Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised, net.trace(rows()):
        operation(net.first.output).save()

    assert type(raised.value) is kind
    assert FILE in notes(raised.value)
    assert "first" in notes(raised.value)


def test_the_note_is_part_of_the_printed_traceback(net: Model) -> None:
    try:
        with net.trace(rows()):
            net.first.output.view(5, 5).save()  # printed
    except RuntimeError as error:
        text = "".join(traceback.format_exception(error))
    assert f'File "{__file__}", line {line_of(__file__, "printed")}' in text


def test_a_write_of_another_shape_names_line_and_site(gpt2: LanguageModel) -> None:
    with pytest.raises((RuntimeError, ValueError)) as raised, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output[:] = torch.zeros(3, 3, dtype=torch.float64)  # bad write
        gpt2.output.save()

    assert str(line_of(__file__, "bad write")) in notes(raised.value)
    assert "transformer.h.1" in notes(raised.value)


def test_a_replacement_of_another_shape_is_refused_before_the_model_meets_it(gpt2: LanguageModel) -> None:
    with pytest.raises((RuntimeError, ValueError)) as raised, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output = gpt2.transformer.h[1].output[:, :2]  # bad replacement
        gpt2.output.save()

    assert str(line_of(__file__, "bad replacement")) in notes(raised.value)
    assert "(1, 2, 32)" in str(raised.value) + notes(raised.value)
    assert "(1, 5, 32)" in str(raised.value) + notes(raised.value)


def test_a_value_of_another_precision_is_fitted_to_the_site(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output = torch.full((1, 5, 32), 0.1)  # single precision
        hidden = gpt2.transformer.h[1].output.save()
        logits = gpt2.output.save()
    assert logits.dtype == hidden.dtype == torch.float64
    assert torch.equal(hidden, torch.full((1, 5, 32), 0.1).double())


def test_a_condition_of_many_values_is_refused_at_its_line(gpt2: LanguageModel) -> None:
    with pytest.raises(RuntimeError) as raised, gpt2.trace(PROMPT) as tracer:
        with tracer.cond(gpt2.transformer.h[0].output > 0):  # many values
            gpt2.transformer.h[1].output[:] = 0
        gpt2.output.save()
    assert str(line_of(__file__, "many values")) in notes(raised.value) + str(raised.value)


def test_an_error_in_an_applied_function_is_the_users_own(net: Model) -> None:
    class MineError(Exception):
        pass

    def fail(value: Tensor) -> Tensor:
        raise MineError("no")

    with pytest.raises(MineError, match="no") as raised, net.trace(rows()) as tracer:
        tracer.apply(fail, net.first.output).save()  # applied
    assert str(line_of(__file__, "applied")) in notes(raised.value)


class Swallowing(nn.Module):
    """Goes on when its layer fails."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        try:
            found: Tensor = self.layer(x)
        except Exception:
            return x * 0
        return found


def test_a_module_that_catches_errors_does_not_swallow_those_of_the_trace() -> None:
    net: Any = Model(Swallowing())
    with pytest.raises(RuntimeError, match="shape"), net.trace(rows()):
        net.layer.output.view(99).save()
        net.output.save()


def test_an_error_in_executed_text_names_its_line(net: Model) -> None:
    text = "with net.trace(x):\n    h = net.first.output\n    h.view(5, 5).save()\n"
    with pytest.raises(RuntimeError) as raised:
        exec(compile(text, "<notebook cell 3>", "exec"), {"net": net, "x": rows()})
    assert "<notebook cell 3>" in notes(raised.value)
    assert "line 3" in notes(raised.value)


def test_a_helper_function_of_the_user_is_the_line(net: Model) -> None:
    def helper(value: Any) -> Any:
        return value.view(5, 5)  # in the helper

    with pytest.raises(RuntimeError) as raised, net.trace(rows()):
        helper(net.first.output).save()
    assert str(line_of(__file__, "in the helper")) in notes(raised.value)
    assert "helper" in notes(raised.value)


def test_an_exception_of_the_block_itself_passes_and_nothing_runs(net: Model) -> None:
    called, stack = calls(net._model)
    with stack, pytest.raises(KeyError, match="mine"), net.trace(rows()):
        net.first.output.save()
        raise KeyError("mine")
    assert not called


def test_an_error_of_the_model_itself_passes(net: Model) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), net.trace(torch.ones(2, 9, dtype=torch.float64)):
        net.first.output.save()


def test_the_model_works_after_every_kind_of_error(net: Model) -> None:
    for operation in (lambda: net.first.output.view(5, 5), lambda: net.nowhere, lambda: 1 / 0):
        with pytest.raises((RuntimeError, AttributeError, ZeroDivisionError)), net.trace(rows()):
            operation().save()  # type: ignore[attr-defined]
    with net.trace(rows()):
        out = net.output.save()
    close(out, outputs(net._model, rows())[""])


# -- scan and validate ------------------------------------------------------------------------------------------------
def test_scan_knows_shapes_dtypes_and_devices_while_recording(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.scan(PROMPT):
        hidden = gpt2.transformer.h[1].output
        logits = gpt2.output[0, -1]
        assert tuple(hidden.shape) == (1, 5, 32)
        assert hidden.shape[-1] == 32
        assert hidden.dtype == torch.float64
        assert hidden.device == torch.device("cpu")
        assert hidden.ndim == 3
        assert logits.softmax(-1).shape[0] == gpt2._model.config.vocab_size
    assert not called


def test_scan_raises_on_the_line_that_is_wrong(net: Model) -> None:
    reached = []
    with pytest.raises(RuntimeError, match="shape"), net.scan(rows()):
        h = net.first.output
        reached.append("before")
        h = h.view(5, 5)
        reached.append("after")
    assert reached == ["before"]


def test_validate_raises_on_the_line_that_is_wrong(net: Model) -> None:
    reached = []
    called, stack = calls(net._model)
    with stack, pytest.raises(RuntimeError), net.trace(rows(), validate=True):
        h = net.first.output
        reached.append("before")
        h = h @ torch.ones(5, 5, dtype=torch.float64)
        reached.append("after")
    assert reached == ["before"]
    assert not called


def test_validate_raises_on_the_line_of_a_bad_write(net: Model) -> None:
    reached = []
    with pytest.raises((RuntimeError, ValueError)), net.trace(rows(), validate=True):
        reached.append("before")
        net.first.output[:] = torch.zeros(9, dtype=torch.float64)
        reached.append("after")
    assert reached == ["before"]


def test_a_valid_trace_gives_the_same_values_with_validation(net: Model) -> None:
    found = []
    for validate in (False, True):
        with net.trace(rows(), validate=validate):
            net.first.output[:, :2] *= 2
            found.append(net.output.save())
    assert torch.equal(found[0].value, found[1].value)


def test_a_python_if_on_a_shape_works_under_validation(net: Model) -> None:
    with net.trace(rows(), validate=True):
        if net.first.output.shape[0] == 2:
            kept = net.first.output.save()
    close(kept, outputs(net._model, rows())["first"])


def test_scan_gives_no_values_afterwards(net: Model) -> None:
    with net.scan(rows()):
        h = net.first.output
    with pytest.raises(NotSavedError):
        h.sum()
