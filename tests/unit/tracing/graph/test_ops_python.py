"""Our own operations: numbers are bounded, memory out of nothing too, and nothing but values can be indexed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tracing.graph.ops import TABLE


def run(name: str, *args: Any, **kwargs: Any) -> Any:
    return TABLE[name].function(*args, **kwargs)


def test_a_number_stays_within_64_bits() -> None:
    value: Any = 3
    with pytest.raises(OverflowError, match="64 bits"):
        for _ in range(100):
            value = run("mul", value, value)
    assert value.bit_length() <= 64


def test_a_power_of_numbers_is_refused_before_it_is_computed() -> None:
    with pytest.raises(OverflowError, match="64 bits"):
        run("pow", 10, 10**12)
    assert run("pow", 2, 10) == 1024
    assert run("pow", 1, 10**12) == 1


@pytest.mark.parametrize(("left", "right"), [([0], 10**9), ((0,), 10**9), ("a", 10**9), ([1], [2]), ({}, 1)])
def test_sequences_cannot_be_multiplied(left: Any, right: Any) -> None:
    for pair in ((left, right), (right, left)):
        with pytest.raises(TypeError, match="tensors and numbers"):
            run("mul", *pair)


def test_shapes_can_be_joined_up_to_a_limit() -> None:
    assert run("add", torch.ones(2, 3).shape, (4,)) == (2, 3, 4)
    with pytest.raises(OverflowError, match="entries"):
        run("add", (0,) * 4000, (0,) * 4000)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("zeros", (10**6, 10**6)),
        ("ones", ((10**6, 10**6),)),
        ("full", ((10**6, 10**6), 1.0)),
        ("new_zeros", (torch.ones(1), 10**6, 10**6)),
        ("new_ones", (torch.ones(1), (10**12,))),
        ("new_full", (torch.ones(1), (10**12,), 1.0)),
        ("arange", (10**12,)),
        ("arange", (0, 1, 1e-12)),
        ("eye", (10**6,)),
        ("eye", (10**6, 10**6)),
        ("linspace", (0, 1, 10**12)),
    ],
)
def test_sizes_that_were_computed_are_bounded_too(name: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="a trace makes at most"):
        run(name, *args)


@pytest.mark.parametrize("value", ["text", b"bytes", 3, object(), int, torch.float32, torch.nn.Linear(2, 2), len])
def test_only_values_can_be_indexed(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be indexed"):
        run("getitem", value, 0)


@pytest.mark.parametrize("value", ["text", object(), torch.nn.Linear(2, 2), len, [1]])
def test_only_plain_values_can_be_compared(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be compared"):
        run("eq", value, value)


def test_dtypes_devices_and_shapes_can_be_compared() -> None:
    x = torch.ones(2, 3)
    assert run("eq", run("dtype", x), torch.float32) is True
    assert run("ne", run("device", x), torch.device("cpu")) is False
    assert run("eq", run("shape", x), (2, 3)) is True


def test_an_in_place_operation_leaves_its_tensor_and_can_be_differentiated() -> None:
    x = torch.ones(3, requires_grad=True)
    y = run("mul_", x * 1, torch.full((3,), 2.0))
    y.sum().backward()
    assert isinstance(x.grad, Tensor)
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_in_place_arithmetic_replaces_numbers() -> None:
    assert run("add_", 3, 4) == 7
    assert run("div_", 3, 4) == 0.75
