"""`scan` and `validate=True`: shapes are known, and shape errors raised, on the line that records the operation."""

import inspect
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tracing import LanguageModel, Model
from tracing.errors import CausalityError, OperationError, RecordError, SiteNotReachedError, TraceError


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return LanguageModel(zoo.model("gpt2"), verify=False)


@pytest.fixture
def ids() -> Tensor:
    return zoo.ids()


def runs(model: Model) -> list[bool]:
    """A list that grows with each forward of the model: whether it had numbers."""
    found: list[bool] = []

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        found.append(all(type(value) is Tensor for value in tensors))

    model.module.register_forward_pre_hook(hook, with_kwargs=True)
    return found


def failing_line(error: BaseException) -> str:
    """The last line of this file in the traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
    return str(frames[-1].line)


def test_shapes_are_real_numbers_while_recording(gpt2: LanguageModel, ids: Tensor) -> None:
    with gpt2.scan(ids):
        hidden = gpt2.transformer.h[0].output
        assert hidden.shape == torch.Size([2, 9, 32])
        assert (hidden.ndim, hidden.dtype, hidden.device) == (3, torch.float32, torch.device("cpu"))
        assert (len(hidden), hidden.size(-1), hidden.dim(), hidden.numel()) == (2, 32, 3, 2 * 9 * 32)
        assert hidden[:, -1].shape == (2, 32)
        assert (hidden @ torch.ones(32, 5)).shape == (2, 9, 5)
        total = [hidden[:, position].sum() for position in range(hidden.shape[1])]
        assert len(total) == 9


@pytest.mark.parametrize("name", ["q", "k", "v", "z", "pattern", "head_out", "resid_mid", "mlp_out", "attn_out"])
def test_standard_sites_have_the_shapes_of_a_run(gpt2: LanguageModel, ids: Tensor, name: str) -> None:
    with gpt2.trace(ids):
        expected = getattr(gpt2.sites, name)[1].save()
    with gpt2.scan(ids):
        assert getattr(gpt2.sites, name)[1].shape == expected.value.shape


def test_prompts_see_their_own_rows_and_positions(gpt2: LanguageModel) -> None:
    with gpt2.trace(validate=True) as tracer:
        with tracer.invoke([3, 4, 5]):
            short = gpt2.transformer.h[0].output
            assert short.shape == (1, 3, 32)
        with tracer.invoke(zoo.ids(2, 7)):
            long = gpt2.transformer.h[0].output
            assert long.shape == (2, 7, 32)
            crossed = (long.mean((0, 1)) + short).save()
    assert crossed.shape == (1, 3, 32)


def test_errors_are_raised_on_the_offending_line_with_torchs_type(gpt2: LanguageModel, ids: Tensor) -> None:
    with pytest.raises(RuntimeError) as caught, gpt2.scan(ids):
        hidden = gpt2.transformer.h[0].output
        hidden @ torch.ones(5, 5)  # the offending line
        hidden.sum()
    assert "the offending line" in failing_line(caught.value)
    assert not isinstance(caught.value, TraceError)
    notes = "\n".join(caught.value.__notes__)
    assert Path(__file__).name in notes
    assert "(2, 9, 32)" in notes


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda h: h + torch.ones(7), RuntimeError),
        (lambda h: h[:, 40], IndexError),
        (lambda h: h.view(3, 5), RuntimeError),
        (lambda h: h.softmax(9), IndexError),
        (lambda h: torch.matmul(h, torch.ones(32, 2, dtype=torch.float64)), RuntimeError),
        (lambda h: torch.cat([h, h[0][0]]), RuntimeError),
        (lambda h: h[:, torch.tensor([1, 40])], IndexError),
        (lambda h: h[[0, 2]], IndexError),
        (lambda h: torch.nn.functional.linear(h, torch.ones(2, 32, dtype=torch.float64)), RuntimeError),
    ],
)
def test_torchs_complaints_come_while_recording(
    gpt2: LanguageModel, ids: Tensor, operation: Any, error: type[Exception]
) -> None:
    with gpt2.scan(ids):
        hidden = gpt2.transformer.h[0].output
        with pytest.raises(error):
            _ = operation(hidden).shape
        assert hidden.shape == (2, 9, 32)


def test_a_refused_shape_is_raised_and_not_logged_beside_it(gpt2: LanguageModel, ids: Tensor) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(handler)
    try:
        with gpt2.scan(ids), pytest.raises(RuntimeError):
            gpt2.output @ torch.ones(5, 5)
        log.warning("what others say")
    finally:
        log.removeHandler(handler)
    assert [record.getMessage() for record in records] == ["what others say"]


def test_writes_of_the_wrong_shape_are_errors_and_not_recorded(gpt2: LanguageModel, ids: Tensor) -> None:
    with gpt2.trace(ids, validate=True):
        with pytest.raises((RuntimeError, ValueError)):
            gpt2.transformer.h[0].output = torch.zeros(3)
        with pytest.raises(RuntimeError):
            gpt2.transformer.h[0].output[:, 0] = torch.zeros(5)
        found = gpt2.output.save()
    with gpt2.trace(ids):
        expected = gpt2.output.save()
    assert torch.equal(found.value, expected.value)


def test_a_scan_runs_nothing_and_saves_shapes(gpt2: LanguageModel, ids: Tensor) -> None:
    numbers = runs(gpt2)
    with gpt2.scan(ids):
        hidden = gpt2.transformer.h[1].output.save()
        both = {"logits": gpt2.output.save()}
    assert not any(numbers)
    assert hidden.value.device.type == "meta"
    assert hidden.value.shape == (2, 9, 32)
    assert both["logits"].value.shape == (2, 9, zoo.VOCABULARY)


def test_validate_checks_and_then_runs(gpt2: LanguageModel, ids: Tensor) -> None:
    with gpt2.trace(ids, validate=True):
        hidden = gpt2.transformer.h[1].output
        scaled = (hidden / hidden.shape[-1] ** 0.5 if hidden.shape[-1] == 32 else hidden * 0).save()
    with gpt2.trace(ids):
        expected = gpt2.transformer.h[1].output.save()
    torch.testing.assert_close(scaled.value, expected.value / 32**0.5)


def test_a_model_without_weights_can_be_scanned() -> None:
    with torch.device("meta"):
        module = zoo.model("llama")
    model = LanguageModel(module)
    with model.scan(zoo.ids()):
        assert model.sites.pattern[0].shape == (2, 4, 9, 9)
        assert model.sites.k[0].shape == (2, 9, 2, 12)
        assert (model.sites.resid_post[1] + torch.ones(32)).shape == (2, 9, 32)
        with pytest.raises(RuntimeError):
            _ = model.sites.resid_post[1] + torch.ones(31)
    assert all(parameter.is_meta for parameter in module.parameters())


def test_a_forward_that_looks_at_numbers_is_named(ids: Tensor) -> None:
    model = LanguageModel(zoo.model("mixtral"), verify=False)
    with pytest.raises(TraceError, match=r"model\.layers\.0\.mlp.*without validate"), model.scan(ids):
        _ = model.sites.resid_post[0].shape
    with model.trace(ids):
        assert model.sites.resid_post[0].save() is not None


def test_what_depends_on_numbers_stays_unknown(gpt2: LanguageModel, ids: Tensor) -> None:
    with gpt2.scan(ids):
        best = gpt2.output.argmax().item()
        scaled = (gpt2.transformer.h[0].output * best).save()
    with pytest.raises(TraceError, match="depends on numbers"):
        _ = scaled.value


def test_apply_is_not_called_by_a_scan(gpt2: LanguageModel, ids: Tensor) -> None:
    called = []
    with gpt2.scan(ids) as tracer:
        tracer.apply(called.append, gpt2.transformer.h[0].output)
    assert not called


def test_causality_is_checked_too(gpt2: LanguageModel, ids: Tensor) -> None:
    with pytest.raises(CausalityError), gpt2.scan(ids):
        gpt2.transformer.h[0].output = gpt2.transformer.h[1].output


def test_sites_that_never_come_are_reported_on_their_line() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    model = Model(Net())
    with pytest.raises(SiteNotReachedError, match="spare") as caught, model.scan(torch.ones(2, 3)):
        model.spare.output.sum()  # never comes
    assert "never comes" in failing_line(caught.value)


def test_the_whole_batch_and_called_modules_have_shapes(gpt2: LanguageModel) -> None:
    with gpt2.scan() as tracer:
        with tracer.invoke([3, 4, 5]):
            lens = gpt2.lm_head(gpt2.transformer.ln_f(gpt2.transformer.h[0].output))
            assert lens.shape == (1, 3, zoo.VOCABULARY)
        with tracer.invoke([3, 4, 5]):
            pass
        with tracer.invoke():
            assert gpt2.output.shape == (2, 3, zoo.VOCABULARY)


def test_gradients_have_the_shape_of_their_value(gpt2: LanguageModel, ids: Tensor) -> None:
    with gpt2.trace(ids, validate=True):
        hidden = gpt2.transformer.h[0].output
        gradient = hidden.grad.save()
        assert gradient.shape == hidden.shape
        with pytest.raises(RuntimeError, match="scalar"):
            gpt2.output.backward()
        gpt2.output.sum().backward()
    assert gradient.shape == (2, 9, 32)


def test_misuse_stays_an_error(gpt2: LanguageModel, ids: Tensor) -> None:
    with gpt2.scan(ids):
        hidden = gpt2.transformer.h[0].output
        with pytest.raises(RecordError):
            bool(hidden.sum() > 0)
        with pytest.raises(OperationError):
            _ = hidden.shap


def test_scan_takes_what_trace_takes(gpt2: LanguageModel) -> None:
    assert set(inspect.signature(gpt2.scan).parameters) == set(inspect.signature(gpt2.trace).parameters)
    with pytest.raises(TypeError):
        gpt2.scan(zoo.ids(), remot=True)
