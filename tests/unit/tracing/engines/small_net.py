"""A network of two blocks and a norm that is called twice, for tests of orders and schedules."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tracing.models.base import Model

WIDTH = 3


class Block(nn.Module):
    """x + tanh(linear(x))"""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.linear(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    """Two blocks and a norm that is called after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()
        self.norm = nn.LayerNorm(WIDTH)
        self.spare = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x))))  # type: ignore[no-any-return]


def net() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(Net().double().eval().requires_grad_(False))


def inputs(count: int, rows: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) for _ in range(count)]


class Calls:
    """Counts forwards of a model with numbers, in contrast to probes without."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        model.module.register_forward_pre_hook(self._hook)

    def _hook(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.count += not isinstance(args[0], FakeTensor)
