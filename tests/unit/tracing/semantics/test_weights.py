"""Weights are read without being copied, and nothing that a trace does changes them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tracing import Model
from tracing.errors import SiteError

X = torch.arange(9.0).reshape(3, 3).sub(4)


class InPlace(nn.Module):
    """A module that works in place on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.relu(self.first(x)))
        return out


def _write_output(model: Any, tracer: Any) -> Any:
    model.first.output = model.first.weight


def _write_input(model: Any, tracer: Any) -> Any:
    model.relu.input = model.first.weight.T


def _skip(model: Any, tracer: Any) -> Any:
    model.first.skip(model.first.weight)


def _call(model: Any, tracer: Any) -> Any:
    return model.relu(model.first.weight)


def _apply(model: Any, tracer: Any) -> Any:
    return tracer.apply(Tensor.zero_, model.first.weight)


def _write_alias(model: Any, tracer: Any) -> Any:
    alias = model.first.weight.float()
    alias[:] = 0
    return alias


def _zero_result(model: Any, tracer: Any) -> Any:
    return torch.relu(model.first.weight.T.contiguous()).zero_()


@pytest.mark.parametrize("use", [_write_output, _write_input, _skip, _call, _apply, _write_alias, _zero_result])
def test_no_use_of_a_weight_changes_the_model(use: Callable[[Any, Any], Any]) -> None:
    net = InPlace()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = Model(net)
    with model.trace(X) as tracer:
        used = use(model, tracer)
        if used is not None:
            used = used.save()
        weight = model.first.weight.save()
        model.output.save()
    weight.value.zero_()
    if used is not None:
        used.value.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("view", [lambda weight: weight, lambda weight: weight.T, lambda weight: weight[0]])
def test_a_write_to_a_weight_or_its_view_is_refused(view: Callable[[Any], Any]) -> None:
    model = Model(InPlace())
    with model.trace(X):
        model.output.save()
        part = view(model.first.weight)
        with pytest.raises(SiteError, match=r"first\.weight is read as a copy"):
            part[...] = 0
