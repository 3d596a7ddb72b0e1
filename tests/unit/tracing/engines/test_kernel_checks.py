"""Calls that torch's kernels refuse are refused by a scan as well, and no others."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.unit.tracing.graph.op_examples import Call, examples_of
from tracing import Model
from tracing.engines.kernel_checks import _AXIS, _ONE_DTYPE, check_call, check_fits, check_index
from tracing.engines.rows import mapped
from tracing.graph.ops import TABLE


def variants(call: Call) -> Iterator[Call]:
    """The call, and the call with one argument of another dtype or axis."""
    args, kwargs = call
    yield call
    for number, value in enumerate(args):
        others: list[Any] = []
        if isinstance(value, Tensor) and value.is_floating_point():
            others = [value.double() if value.dtype == torch.float32 else value.float()]
        elif type(value) is int:
            others = [99, -99, -1]
        for other in others:
            yield (*args[:number], other, *args[number + 1 :]), kwargs
    if "dim" in kwargs:
        yield args, {**kwargs, "dim": 99}


def refusal(function: Any, *args: Any, **kwargs: Any) -> type[Exception] | None:
    try:
        function(*args, **kwargs)
    except (RuntimeError, IndexError) as error:
        return type(error)
    return None


@pytest.mark.parametrize("name", sorted(_AXIS | _ONE_DTYPE))
def test_a_scan_refuses_what_the_kernel_refuses(name: str) -> None:
    function = TABLE[name].function
    refused = 0
    for example in examples_of(name):
        for args, kwargs in variants(example):
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            given = mapped((tuple(args), dict(kwargs)), mode.from_tensor)

            def scanned(given: Any = given, mode: Any = mode) -> None:
                with mode:
                    check_call(name, *given)
                    function(*given[0], **given[1])

            expected = refusal(function, *args, **kwargs)
            assert refusal(scanned) is expected, (args, kwargs)
            refused += expected is not None
    assert refused


VALUE = torch.zeros(2, 9, 4)
KEYS: list[Any] = [
    (slice(None), torch.tensor([0, 8])),
    (slice(None), [0, 9]),
    torch.tensor([-2, 1]),
    torch.tensor([-3]),
    [0, 1],
    (0, slice(None), torch.tensor([4])),
    (Ellipsis, torch.tensor([3, 3])),
    (None, torch.tensor([1])),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_positions_that_are_not_there_are_refused(key: Any) -> None:
    expected = refusal(lambda: VALUE[key])
    with FakeTensorMode() as mode:
        assert refusal(check_index, mode.from_tensor(VALUE), (("index", key),)) is expected


NEW = [torch.zeros(shape) for shape in ((), (4,), (5,), (9, 4), (2, 1, 4), (1, 2, 9, 4), (2, 2, 9, 4), (1, 4), (2, 4))]
PLACES: list[Any] = [slice(None), (slice(None), -1), (slice(None), torch.tensor([0, 8])), (0, [1, 2]), Ellipsis]


@pytest.mark.parametrize("key", PLACES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("new", NEW, ids=lambda new: str(tuple(new.shape)))
def test_values_that_do_not_fit_are_refused(key: Any, new: Tensor, dtype: torch.dtype) -> None:
    new = new.to(dtype)
    expected = refusal(VALUE.clone().__setitem__, key, new)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = refusal(check_fits, mode.from_tensor(VALUE), (("index", key),), mode.from_tensor(new))
    assert (found is None) is (expected is None)


def test_an_index_write_that_does_not_fit_is_an_error_of_its_line() -> None:
    model: Any = Model(torch.nn.Linear(3, 4))
    with model.scan(torch.ones(6, 3)):
        with pytest.raises(RuntimeError, match="shape mismatch") as caught:
            model.output[torch.tensor([0, 5])] = torch.zeros(5)
        assert "test_kernel_checks.py" in "".join(caught.value.__notes__)
        with pytest.raises(IndexError):
            model.output[[6]] = 0.0
        model.output[model.output > 0] = 0.0
        assert model.output.shape == (6, 4)
