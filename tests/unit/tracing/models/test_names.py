"""Submodules whose names are those of a wrapper's own attributes."""

import pytest
import torch
from torch import Tensor, nn

from tracing import Model

X = torch.ones(1, 3)


class Named(nn.Module):
    """Linear layers under names that wrapped modules use."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x


def test_a_hidden_submodule_is_named_when_the_model_is_wrapped_and_reached_otherwise() -> None:
    net = nn.Sequential(Named("skip", "inner"))
    with pytest.warns(UserWarning, match=r"submodule 0\.skip, and it comes first: .* model\.get\(\"0\.skip\"\)"):
        model = Model(net)
    with model.trace(X):
        by_path = model.get("0.skip").output.save()
        by_index = model[0]["skip"].output.save()
    assert torch.equal(by_path, by_index)
    assert torch.equal(by_path, net[0].skip(X).detach())


def test_methods_of_the_root_hide_only_at_the_root() -> None:
    with pytest.warns(UserWarning, match="submodules trace, batch"):
        Model(Named("trace", "batch", "inner"))


@pytest.mark.filterwarnings("error")
def test_usual_names_are_not_worth_a_warning() -> None:
    model = Model(Named("output", "inner"))
    with model.trace(X):
        hidden = model.inner.output.save()
    assert hidden.shape == (1, 3)
    Model(nn.Sequential(Named("trace", "batch")))
