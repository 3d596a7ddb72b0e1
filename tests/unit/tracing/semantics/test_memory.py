"""A value is what it was at its line: models that work in place change no value, and no value changes a model."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.graph.op_examples import examples_of
from tracing import Model
from tracing.engines.memory import MAY_SHARE
from tracing.graph.ops import TABLE

X = torch.tensor([[1.0, -2.0, 3.0]])
V = torch.tensor([[-1.0, -1.0, -1.0]])


class InPlace(nn.Module):
    """Adds to what `a` gives in the same memory, as falcon does."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.b = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x * 1)
        y += 10
        return self.b(self.relu(y))  # type: ignore[no-any-return]


@pytest.fixture
def in_place() -> Model:
    return Model(InPlace())


ALIASES: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda h: h.contiguous(),
    "float": lambda h: h.float(),
    "to": lambda h: h.to(torch.float32),
    "type_as": lambda h: h.type_as(h),
    "expand_as": lambda h: h.expand_as(h),
    "broadcast_to": lambda h: torch.broadcast_to(h, (1, 3)),
    "atleast_2d": lambda h: torch.atleast_2d(h),  # type: ignore[no-untyped-call]
    "broadcast_tensors": lambda h: torch.broadcast_tensors(h, h)[0],  # type: ignore[no-untyped-call]
    "tensor_split": lambda h: torch.tensor_split(h, 1, 0)[0],
    "einsum": lambda h: torch.einsum("ij->ji", h).T,
    "positive": lambda h: +h,
    "of an alias": lambda h: h.contiguous()[0:1].float().view(1, 3),
}


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
def test_what_may_be_the_models_memory_is_copied_before_the_model_goes_on(in_place: Model, alias: Any) -> None:
    with in_place.trace(X):
        value = alias(in_place.a.output)
        later = (value + in_place.output.sum() * 0).save()
    torch.testing.assert_close(later.value, X)


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
def test_what_may_be_the_models_memory_is_copied_before_a_second_write(in_place: Model, alias: Any) -> None:
    with in_place.trace(X):
        hidden = in_place.a.output
        hidden += 1
        value = alias(hidden)
        hidden += 1
        later = (value * 1).save()
    torch.testing.assert_close(later.value, X + 1)


@pytest.mark.parametrize("call", ["list", "append", "apply", "module"])
def test_what_takes_a_value_for_longer_copies_it(in_place: Model, call: str) -> None:
    with in_place.trace(X) as tracer:
        hidden, values = in_place.a.output, tracer.list()
        value: Any
        if call == "list":
            value = tracer.list([hidden])[0]
        elif call == "append":
            values.append(hidden)
            value = values[0]
        else:
            value = tracer.apply(lambda value: value, hidden) if call == "apply" else in_place.b(hidden)
        later = (value + in_place.output.sum() * 0).save()
    torch.testing.assert_close(later.value, X)


def test_a_write_that_was_passed_over_is_copied(in_place: Model) -> None:
    with in_place.trace(X) as tracer:
        value = in_place.a.output.contiguous()
        with tracer.cond(value.sum() > 100):
            value[:] = 0
        value[:, :1] = 7
        end = in_place.output.save()
        later = (value + in_place.output.sum() * 0).save()
    torch.testing.assert_close(later.value, torch.tensor([[7.0, -2.0, 3.0]]))
    torch.testing.assert_close(end.value, X + 10)


def test_an_alias_of_a_written_value_keeps_its_version(in_place: Model) -> None:
    with in_place.trace(X):
        value = in_place.a.output * 1
        value[:, 0] = 5
        before = value.contiguous()
        value[:, 1] = 6
        before, after = (before * 1).save(), value.save()
    assert before.tolist() == [[5, -2, 3]]
    assert after.tolist() == [[5, 6, 3]]


def test_a_second_write_may_take_from_where_it_writes_to() -> None:
    model, x = Model(nn.Identity()), torch.arange(9.0).view(1, 3, 3)
    with model.trace(x):
        hidden = model.output
        hidden += 1
        hidden[:, 1:] = hidden[:, :-1]
        hidden[...] = hidden.transpose(1, 2)
        out = hidden.save()
    expected = x + 1
    expected[:, 1:] = expected[:, :-1].clone()
    torch.testing.assert_close(out.value, expected.mT)


# -- what is written --------------------------------------------------------------------------------------------------
def written(model: Model, how: str, value: Any) -> None:
    if how == "output":
        model.a.output = value
    elif how == "skip":
        model.a.skip(value)
    else:
        model.relu.input = value


@pytest.mark.parametrize("how", ["output", "input", "skip"])
def test_a_constant_that_is_written_is_the_same_in_every_trace(in_place: Model, how: str) -> None:
    with in_place.edit() as edited:
        written(edited, how, V)
    found = []
    for _ in range(3):
        with edited.trace(X):
            found.append(edited.output.save())
    expected = V.relu() if how == "input" else V + 10
    assert all(torch.equal(one.value, expected) for one in found)


@pytest.mark.parametrize("how", ["output", "input", "skip"])
def test_what_is_written_keeps_its_own_value(in_place: Model, how: str) -> None:
    with in_place.trace(X):
        value = V * 2
        written(in_place, how, value)
        later = (value + in_place.output.sum() * 0).save()
    torch.testing.assert_close(later.value, V * 2)


def test_an_alias_of_what_is_written_keeps_its_value(in_place: Model) -> None:
    with in_place.trace(X):
        value = in_place.a.output * 2
        alias = value.contiguous()
        in_place.a.output = value
        later = (alias + in_place.output.sum() * 0).save()
    torch.testing.assert_close(later.value, X * 2)


# -- the table --------------------------------------------------------------------------------------------------------
def storages(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        yield value.untyped_storage()._cdata
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from storages(item)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inference", [False, True])
def test_every_operation_that_may_hand_on_memory_is_known(inference: bool) -> None:
    with torch.inference_mode(inference):
        sharing = {
            name
            for name, operation in TABLE.items()
            for args, kwargs in examples_of(name)
            if {*storages(operation.function(*args, **kwargs))} & {*storages(args), *storages(kwargs)}
        }
    assert sharing <= MAY_SHARE
    assert not MAY_SHARE - TABLE.keys()
