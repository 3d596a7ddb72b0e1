"""`module.skip(value)` takes effect or is an error, and afterwards the module is as it was."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tracing import LanguageModel, Model
from tracing.errors import RecordError, SiteNotReachedError

X, VALUE = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 6.0]])


class Twice(nn.Module):
    """Calls `a` twice, the second time on what the first gave, and never calls `unused`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.unused, self.end = nn.ReLU(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x)
        first += 1
        return self.end(self.a(first))  # type: ignore[no-any-return]


@pytest.fixture
def twice() -> Model:
    return Model(Twice())


def test_a_forward_of_the_instance_is_called_and_restored(twice: Model) -> None:
    module: Any = twice._model.a
    calls: list[str] = []

    def own(x: Tensor) -> Tensor:
        calls.append("own")
        return x * 10

    module.forward = own
    with twice.trace(X) as tracer:
        with tracer.cond(twice.a.input.sum() > 100):
            twice.a.skip(VALUE)
        kept = twice.output.save()
    with twice.trace(X):
        twice.a.skip(VALUE)
        skipped = twice.output.save()
    assert module.__dict__["forward"] is own
    assert calls
    assert torch.equal(kept.value, (X * 10 + 1) * 10)
    assert torch.equal(skipped.value, VALUE)


def test_a_module_that_the_forward_never_calls_cannot_be_skipped(gpt2: LanguageModel, twice: Model) -> None:
    said = r"never called unused, so the skip at .* has no effect"
    with pytest.raises(SiteNotReachedError, match=said), twice.trace(X):
        twice.unused.skip(VALUE)
        twice.output.save()
    with pytest.raises(SiteNotReachedError, match="a container that is never called itself"), gpt2.trace([5, 6]):
        gpt2.transformer.h.skip(torch.zeros(1, 2, 32))
        gpt2.output.save()


def test_one_call_of_several_cannot_be_skipped(twice: Model) -> None:
    with pytest.raises(RecordError, match="a is skipped in a whole forward"), twice.trace(X):
        twice.a.next().skip(VALUE)


def test_a_call_beside_the_forward_is_not_skipped(twice: Model) -> None:
    with twice.trace(X):
        twice.a.skip(VALUE)
        beside = twice.a(-X).save()
        out = twice.output.save()
    assert beside.tolist() == [[0, 0]]
    assert torch.equal(out.value, VALUE)


def test_a_skip_whose_value_is_absent_does_not_hold(twice: Model) -> None:
    with twice.trace(X) as tracer:
        with tracer.cond(twice.input.sum() > 100):
            value = twice.input * 2
        twice.a.skip(value)
        out = twice.output.save()
    assert torch.equal(out.value, X + 1)


def test_a_copy_of_a_module_that_is_just_skipped_is_not(twice: Model) -> None:
    copies: list[nn.Module] = []

    def take(value: Tensor) -> Tensor:
        copies.append(copy.deepcopy(twice._model))
        return value

    with twice.trace(X) as tracer:
        twice.a.skip(VALUE)
        tracer.apply(take, twice.end.output).save()
    assert torch.equal(copies[0](X), X + 1)


def test_two_threads_skip_one_module(twice: Model) -> None:
    found: dict[int, Tensor] = {}

    def trace(number: int) -> None:
        for _ in range(20):
            with twice.trace(X):
                twice.a.skip(torch.full_like(X, number))
                out = twice.output.save()
            found[number] = out.value
            assert torch.equal(out.value, torch.full_like(X, number))

    threads = [threading.Thread(target=trace, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == {1, 2}
    assert "forward" not in twice._model.a.__dict__
    assert torch.equal(twice._model(X), X + 1)
