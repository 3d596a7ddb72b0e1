"""Semantics 2: a saved proxy stands for its tensor everywhere; an unsaved one says where it was made."""

import copy
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unit.tracing.seed.support import close, line_of, outputs, rows
from tracing import LanguageModel, Model
from tracing.errors import NotSavedError, RecordError, UnusedValueWarning


@pytest.fixture
def saved(net: Model) -> Any:
    """The saved output of the first layer, `[2, 6]`."""
    with net.trace(rows()):
        saved = net.first.output.save()
        assert saved is not None
    return saved


@pytest.fixture
def tensor(net: Model) -> Tensor:
    """The same without the library."""
    return outputs(net._model, rows())["first"]  # type: ignore[no-any-return]


USES: dict[str, Callable[[Any], Any]] = {
    "attributes": lambda x: (x.shape, x.dtype, x.device, x.ndim, x.requires_grad, x.is_leaf, x.T.shape),
    "isinstance": lambda x: (isinstance(x, Tensor), isinstance(x, nn.Parameter), torch.is_tensor(x)),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0] * 100),
    "bool": lambda x: bool((x > 1e9).any()),
    "len": len,
    "iteration": lambda x: [row.sum().item() for row in x],
    "unpacking": lambda x: [*x][1].tolist(),
    "membership": lambda x: 1e9 in x,
    "array": lambda x: np.asarray(x).tolist(),
    "array of dtype": lambda x: np.asarray(x, dtype=np.float32).tolist(),
    "numpy function": lambda x: np.linalg.norm(x).item(),
    "operators with arrays": lambda x: (np.ones((2, 6)) + np.asarray(x)).tolist(),
    "numpy method": lambda x: x.numpy().tolist(),
    "repr": repr,
    "str": str,
    "format": lambda x: f"{x[0, 0]:.3f} {x.sum():.1e} {x.shape}",
    "operators": lambda x: (1 - x * 2 + x**2 / 3 - (x @ x.T).sum()).tolist(),
    "operators with tensors": lambda x: (torch.ones(2, 6, dtype=torch.float64) - x).tolist(),
    "comparison": lambda x: (x > 0).tolist(),
    "equality": lambda x: (x == x).all().item(),
    "index": lambda x: x[0, 1:3].tolist(),
    "index by mask": lambda x: x[x > 0].tolist(),
    "index into a tensor": lambda x: torch.arange(10.0)[x.argmax(-1)].tolist(),
    "index into a list": lambda x: ["a", "b"][x.argmax() * 0],
    "torch function": lambda x: torch.softmax(x, -1).tolist(),
    "torch function of many": lambda x: torch.cat([x, torch.zeros(1, 6, dtype=torch.float64), x]).tolist(),
    "stack": lambda x: torch.stack([x, x]).shape,
    "keyword argument": lambda x: torch.sum(input=x).item(),
    "allclose": lambda x: torch.allclose(x, x + 1e-15),
    "functional": lambda x: functional.cosine_similarity(x[0], x[1], dim=0).item(),
    "module": lambda x: nn.Identity()(x).sum().item(),
    "linear": lambda x: nn.functional.linear(x, torch.ones(2, 6, dtype=torch.float64)).tolist(),
    "math": lambda x: math.exp(x[0, 0]),
    "range": lambda x: list(range(x.argmax() * 0 + 2)),
    "to": lambda x: x.to(torch.float32).dtype,
    "out of a dict": lambda x: {"x": x}["x"].sum().item(),
    "sorted": lambda x: [v.item() for v in sorted(x[0])],
    "sum": lambda x: sum(x).tolist(),
    "deepcopy": lambda x: copy.deepcopy(x).tolist(),
    "testing": lambda x: torch.testing.assert_close(x, x),
    "into a tensor": lambda x: torch.zeros(3, 6, dtype=torch.float64).index_put((x.argmax(-1) * 0,), x).tolist(),
    "copy": lambda x: torch.zeros(2, 6, dtype=torch.float64).copy_(x).tolist(),
    "collate": lambda x: torch.utils.data.default_collate([x, x]).shape,
    "cross entropy": lambda x: functional.cross_entropy(x, torch.tensor([0, 1])).item(),
}


@pytest.mark.parametrize("use", USES)
def test_a_saved_proxy_is_used_like_its_tensor(saved: Any, tensor: Tensor, use: str) -> None:
    assert USES[use](saved) == USES[use](tensor)


def _assigned(x: Any) -> Tensor:
    into = torch.zeros(2, 6, dtype=torch.float64)
    into[:] = x
    into[0, 1:3] = x[1, :2]
    into[x > 1] = x[0, 0]
    return into


def test_a_saved_proxy_is_written_into_a_tensor(saved: Any, tensor: Tensor) -> None:
    assert torch.equal(_assigned(saved), _assigned(tensor))


def test_functions_that_read_a_tensors_memory_take_a_saved_value() -> None:
    """In a process of its own: an object that only says that it is a tensor makes torch read what is not there."""
    source = """
import torch
from torch import nn
from tests.unit.tracing.seed.support import Net, rows
from tracing import Model
net = Model(Net())
with net.trace(rows()):
    x = net.first.output.save()
    s = net.first.output[0, 0].save()

def attribute(name, value):
    parameter = nn.Parameter(torch.zeros(2, 6, dtype=torch.float64))
    setattr(parameter, name, value)
    return getattr(parameter, name)

uses = {
    "as_tensor": lambda x, s: torch.as_tensor(x),
    "tensor": lambda x, s: torch.tensor(x),
    "list": lambda x, s: torch.tensor([s, s]),
    "Tensor": lambda x, s: torch.Tensor(x),
    "new_tensor": lambda x, s: torch.zeros(2).new_tensor(x),
    "asarray": lambda x, s: torch.asarray(x),
    "full": lambda x, s: torch.full((2,), s),
    "Parameter": lambda x, s: nn.Parameter(x.detach().clone()),
    "data": lambda x, s: attribute("data", x),
    "grad": lambda x, s: attribute("grad", x),
    "vmap": lambda x, s: torch.func.vmap(lambda row: row.sum())(x),
}
for name, use in uses.items():
    print(name, flush=True)
    assert torch.equal(use(x, s), use(x.value, s.value)), name
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source],
        capture_output=True, text=True, timeout=100, check=False, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert done.stdout.endswith("done\n"), f"ended with {done.returncode} at {done.stdout.split()[-1:]}: {done.stderr}"


def test_value_is_an_ordinary_tensor(saved: Any, tensor: Tensor) -> None:
    assert type(saved.value) is Tensor
    assert torch.equal(saved.value, tensor)
    assert not saved.value.is_inference()
    assert not saved.value.requires_grad
    (saved.value.requires_grad_() * 2).sum().backward()
    assert (saved.value.grad == 2).all()


def test_save_returns_the_proxy_and_may_be_called_twice(net: Model, tensor: Tensor) -> None:
    with net.trace(rows()):
        h = net.first.output
        again = h.save()
        h.save()
    close(h, tensor)
    close(again, tensor)


def test_a_saved_value_is_what_it_was_at_its_line(net: Model, tensor: Tensor) -> None:
    with net.trace(rows()):
        h = net.first.output
        before = net.first.output.save()
        h[:, 0] = 9
        middle = net.first.output.save()
        h *= 2
        after = net.first.output.save()

    assert torch.equal(before.value, tensor)
    edited = tensor.clone()
    edited[:, 0] = 9
    assert torch.equal(middle.value, edited)
    assert torch.equal(after.value, edited * 2)


def test_saved_values_own_their_memory(net: Model, tensor: Tensor) -> None:
    with net.trace(rows()):
        one = net.first.output.save()
        same = net.first.output.save()
        row = net.first.output[0].save()
        weight = net.third.output.save()

    one[:] = 0
    assert torch.equal(same.value, tensor) or same.value is one.value
    assert torch.equal(row.value, tensor[0])
    assert row.value.untyped_storage().nbytes() == 6 * 8
    weight.value.zero_()
    assert torch.equal(outputs(net._model, rows())["first"], tensor)


def test_a_module_that_changes_its_input_in_place_does_not_change_what_was_saved() -> None:
    net = Model(nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double())
    with net.trace(rows()):
        before = net[0].output.save()
        given = net[1].input.save()

    expected = net._model[0](rows()).detach()
    assert (expected < 0).any()
    close(before, expected)
    close(given, expected)


def test_saves_in_lists_dicts_and_attributes(net: Model, tensor: Tensor) -> None:
    box = SimpleNamespace()
    with net.trace(rows()):
        many = [net.first.output.save(), (net.first.output * 2).save()]
        named = {"a": {"b": net.first.output[0].save()}}
        box.value = net.first.output.sum().save()

    close(many[0], tensor)
    close(many[1], tensor * 2)
    close(named["a"]["b"], tensor[0])
    close(box.value, tensor.sum())


def test_a_saved_structure_is_the_structure(gpt2: LanguageModel) -> None:
    with gpt2.trace("Hello world"):
        attention = gpt2.transformer.h[0].attn.output.save()
        inputs = gpt2.transformer.h[0].mlp.inputs.save()
        shape = gpt2.output.shape.save()

    assert isinstance(attention.value, tuple)
    assert tuple(attention[0].shape) == (1, 2, 32)
    args, kwargs = inputs
    assert tuple(args[0].shape) == (1, 2, 32)
    assert kwargs == {}
    assert tuple(shape.value) == (1, 2, gpt2._model.config.vocab_size)


def test_named_results_keep_their_names(net: Model, tensor: Tensor) -> None:
    with net.trace(rows()):
        best = net.first.output.topk(2).save()
        largest = net.first.output.max(dim=-1).save()
        inside = net.first.output.topk(2).values.save()

    assert torch.equal(best.values, tensor.topk(2).values)
    assert torch.equal(largest.indices, tensor.max(dim=-1).indices)
    assert torch.equal(inside.value, best.values)


def test_saved_numbers_are_used_like_numbers(net: Model, tensor: Tensor) -> None:
    with net.trace(rows()):
        width = net.first.output.shape[1].save()
        total = net.first.output.sum().item().save()
        positive = (net.first.output.sum() > 0).save()

    assert width == 6
    assert list(range(width)) == list(range(6))
    assert torch.zeros(width).shape == (6,)
    assert round(total, 2) == round(tensor.sum().item(), 2)
    assert f"{total:.3f}" == f"{tensor.sum().item():.3f}"
    assert total + 1 == tensor.sum().item() + 1
    assert bool(positive) is bool(tensor.sum() > 0)


def test_a_saved_value_goes_into_a_later_trace(net: Model, saved: Any, tensor: Tensor) -> None:
    with net.trace(rows(seed=3)):
        net.first.output = saved
        difference = (net.first.output - saved).abs().max().save()
        out = net.output.save()

    assert float(difference) == 0
    close(out, outputs(net._model, rows())[""])


def test_a_saved_value_can_be_written_after_the_trace(saved: Any, tensor: Tensor) -> None:
    saved[0, 0] = 5
    assert float(saved[0, 0]) == 5
    assert torch.equal(saved.value[1], tensor[1])


def test_saving_x_and_using_a_product_of_it_saves_only_x(net: Model, tensor: Tensor) -> None:
    with pytest.warns(UnusedValueWarning), net.trace(rows()):
        product = net.first.output.save() * 2
    with pytest.raises(NotSavedError):
        product.sum()


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.shape, lambda x: x.value, lambda x: x + 1, lambda x: 1 + x, lambda x: x[0], torch.sum, float, len,
        bool, list, np.asarray, lambda x: x.mean(), lambda x: torch.cat([x, x]), lambda x: f"{x:.3f}",
    ],
)  # fmt: skip
def test_an_unsaved_proxy_names_its_line_whatever_is_asked_of_it(net: Model, use: Callable[[Any], Any]) -> None:
    with net.trace(rows()):
        lost = net.first.output  # made here
        net.output.save()
    with pytest.raises(NotSavedError, match=rf"{Path(__file__).name}:{line_of(__file__, 'made here')}\b.*\.save\(\)"):
        use(lost)


def test_an_unsaved_proxy_can_be_printed(net: Model) -> None:
    with net.trace(rows()):
        lost = net.first.output
        net.output.save()
    assert "not saved" in repr(lost)
    assert "not saved" in f"{lost}"


def test_a_proxy_can_be_printed_while_recording(net: Model) -> None:
    with net.trace(rows()):
        h = net.first.output.save()
        assert "first" in repr(h)
        assert "first" in f"{h}"


def test_reading_the_value_inside_the_trace_says_that_it_comes_later(net: Model) -> None:
    with pytest.raises(NotSavedError, match="after"), net.trace(rows()):
        net.first.output.save().value.sum()


def test_a_value_saved_in_a_trace_that_failed_says_so(net: Model) -> None:
    with pytest.raises(KeyError), net.trace(rows()):
        h = net.first.output.save()
        raise KeyError("mine")
    with pytest.raises(NotSavedError):
        h.sum()


def test_writing_to_a_proxy_after_its_trace_is_an_error(net: Model) -> None:
    with net.trace(rows()):
        h = net.first.output
        net.output.save()
    with pytest.raises((RecordError, NotSavedError)):
        h[:] = 0


def test_a_trace_that_only_reads_and_saves_does_not_warn(net: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with net.trace(rows()):
            net.first.output.save()
            hidden = net.third.output
            hidden.mean().save()
