"""Hooks come off whatever happens, and see only their own thread."""

import threading

import pytest
import torch
from torch import nn

from tracing.engines.hooks import hooks


def hook_count(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_hooks_come_off_after_an_error() -> None:
    layer = nn.Linear(2, 2)

    def break_inside() -> None:
        with hooks() as registered:
            registered.before(layer, lambda args, kwargs: None)
            registered.after(layer, lambda output: None)
            assert hook_count(layer) == 2
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        break_inside()
    assert hook_count(layer) == 0


def test_a_hook_does_not_touch_another_threads_forward() -> None:
    layer, ones = nn.Linear(2, 2), torch.ones(1, 2)
    plain = layer(ones)
    elsewhere: list[torch.Tensor] = []
    with hooks() as registered:
        registered.after(layer, lambda output: output * 0)
        thread = threading.Thread(target=lambda: elsewhere.append(layer(ones)))
        thread.start()
        thread.join(timeout=10)
        assert layer(ones).abs().sum() == 0
    torch.testing.assert_close(elsewhere[0], plain)
