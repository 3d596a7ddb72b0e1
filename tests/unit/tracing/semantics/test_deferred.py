"""Semantics 1: operations on proxies are recorded and run when the block ends, wherever the block stands."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unit.tracing.seed.support import calls, close, outputs, rows
from tracing import Model

MASK = torch.tensor([True, False, True, False, True, False])
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda h: (h + 1) * 2 - h / 3,
    "reflected": lambda h: 1 - (2 * h) + 3 / (h + 10),
    "powers": lambda h: h**2 + 2 ** (h * 0.1),
    "floor and modulo": lambda h: h // 0.5 + h % 0.3,
    "negation": lambda h: -h + +h - abs(h),
    "comparison": lambda h: (h > 0) & (h <= 1) | ~(h != h),
    "matmul": lambda h: h @ h.T,
    "tensor on the left": lambda h: torch.ones(2, 2, dtype=torch.float64) @ h,
    "index": lambda h: h[0, 1:3],
    "negative index": lambda h: h[..., -1],
    "new axis": lambda h: h[:, None],
    "mask": lambda h: h[:, MASK],
    "list index": lambda h: h[:, [0, 2]],
    "index by a proxy": lambda h: h[:, h.sum(0).argmax()],
    "mask by a proxy": lambda h: h[h > 0],
    "method chain": lambda h: h.relu().mean(dim=-1, keepdim=True).clamp(min=0.1),
    "norm": lambda h: h.norm(dim=-1),
    "views": lambda h: h.view(2, 3, 2).transpose(0, 1).flatten(1).unsqueeze(0).squeeze(0),
    "reshape with a proxy's size": lambda h: h.reshape(h.shape[0], -1),
    "properties": lambda h: h.T + h.mT,
    "torch function": lambda h: torch.softmax(h, dim=-1),
    "torch function of several": lambda h: torch.cat([h, h * 2, torch.zeros(1, 6, dtype=torch.float64)]),
    "stack": lambda h: torch.stack([h, h], dim=1),
    "where": lambda h: torch.where(h > 0, h, 0.0),
    "einsum": lambda h: torch.einsum("bi,bj->bij", h, h),
    "functional": lambda h: functional.layer_norm(functional.gelu(h), (6,)),
    "functional softmax": lambda h: functional.log_softmax(h, dim=-1),
    "zeros_like": lambda h: torch.zeros_like(h) + torch.ones_like(h),
    "several results": lambda h: h.topk(2)[0],
    "named result": lambda h: h.max(dim=-1)[1],
    "dtype": lambda h: h.float().to(torch.float64),
    "in place": lambda h: h.clone().mul_(2).add_(1),
    "item": lambda h: h * h.sum().item(),
    "arange of a size": lambda h: h + torch.arange(6),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_torch_gives(net: Model, name: str) -> None:
    with net.trace(rows()):
        found = OPERATIONS[name](net.first.output).save()

    expected = OPERATIONS[name](outputs(net._model, rows())["first"])
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.dtype.is_floating_point:
        close(found, expected)
    else:
        assert torch.equal(found.value, expected)


def _assign_slice(h: Any) -> None:
    h[:, 1:3] = 5.0


def _assign_element(h: Any) -> None:
    h[0, 0] = h[0, 1] * 3


def _assign_mask(h: Any) -> None:
    h[h < 0] = 1.0


def _assign_list(h: Any) -> None:
    h[:, [0, 2]] = torch.ones(2, 2, dtype=torch.float64)


def _add_to_part(h: Any) -> None:
    h[:, 2] += 1


def _through_a_view(h: Any) -> None:
    h.T[3] = 0


def _through_a_reshape(h: Any) -> None:
    h.view(2, 3, 2)[:, 1] = 7


def _methods(h: Any) -> None:
    h.mul_(2)
    h[0].zero_()


def _part_of_a_part(h: Any) -> None:
    h[0][1:][:2] = -1


WRITES = [
    _assign_slice, _assign_element, _assign_mask, _assign_list, _add_to_part, _through_a_view, _through_a_reshape,
    _methods, _part_of_a_part,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("site", [True, False])
def test_an_in_place_write_does_what_it_does_to_a_tensor(net: Model, write: Callable[[Any], None], site: bool) -> None:
    with net.trace(rows()):
        value = net.first.output if site else net.first.output * 1
        write(value)
        found = value.save()
        out = net.output.save()

    plain = outputs(net._model, rows())["first"].clone()
    write(plain)
    close(found, plain)
    with net._model.first.register_forward_hook(lambda *_: plain), torch.no_grad():
        edited = net._model(rows())
    close(out, edited if site else outputs(net._model, rows())[""])


def test_every_proxy_of_a_site_sees_a_write_and_what_was_computed_before_does_not(net: Model) -> None:
    with net.trace(rows()):
        early, part = net.first.output, net.first.output[:, 0]
        before = (early * 1).save()
        net.first.output[:] = 3
        after, part_after = (early * 1).save(), (part * 1).save()

    close(before, outputs(net._model, rows())["first"])
    assert (after == 3).all()
    assert (part_after == 3).all()


def test_nothing_runs_before_the_block_ends(net: Model) -> None:
    called, stack = calls(net._model)
    with stack:
        with net.trace(rows()):
            h = net.first.output.save()
            assert not called
            assert type(h) is not Tensor
            assert not isinstance(net.third.output, Tensor)
        assert called.count("first") == 1


# -- where a block may stand ------------------------------------------------------------------------------------------
@pytest.fixture
def zeroed_first(net: Model) -> Tensor:
    """The output of `net` with its first layer's output set to zero."""
    with net._model.first.register_forward_hook(lambda _, __, out: torch.zeros_like(out)), torch.no_grad():
        return net._model(rows())  # type: ignore[no-any-return]


def edit(net: Model) -> Any:
    """The body of the blocks below."""
    net.first.output[:] = 0
    return net.output.save()


def test_in_executed_text_without_a_file(net: Model, zeroed_first: Tensor) -> None:
    names = {"net": net, "rows": rows}
    text = "with net.trace(rows()):\n    net.first.output[:] = 0\n    out = net.output.save()"
    exec(compile(text, "<nowhere>", "exec"), names)
    close(names["out"], zeroed_first)


def test_in_a_one_line_body(net: Model, zeroed_first: Tensor) -> None:
    with net.trace(rows()): out = edit(net)  # fmt: skip  # noqa: E701
    close(out, zeroed_first)


def test_in_an_exit_stack(net: Model, zeroed_first: Tensor) -> None:
    with ExitStack() as stack:
        stack.enter_context(net.trace(rows()))
        out = edit(net)
    close(out, zeroed_first)


def test_with_a_return_inside(net: Model, zeroed_first: Tensor) -> None:
    def function() -> Any:
        with net.trace(rows()):
            return edit(net)

    close(function(), zeroed_first)


def test_with_continue_and_break_in_a_loop_around_it(net: Model, zeroed_first: Tensor) -> None:
    found = []
    for n in range(3):
        with net.trace(rows()):
            found.append(edit(net))
            if n == 1:
                break
            continue
    assert len(found) == 2
    for out in found:
        close(out, zeroed_first)


def test_in_one_with_statement_among_others(net: Model, zeroed_first: Tensor) -> None:
    with torch.no_grad(), net.trace(rows()) as tracer, ExitStack():
        assert tracer is not None
        out = edit(net)
    close(out, zeroed_first)


def test_in_a_lambda_a_comprehension_and_a_helper(net: Model, zeroed_first: Tensor) -> None:
    with net.trace(rows()):
        found = [(lambda: edit(net))() for _ in range(1)]
    close(found[0], zeroed_first)


def test_in_a_context_manager_of_the_users_own(net: Model, zeroed_first: Tensor) -> None:
    @contextmanager
    def first_ablated() -> Iterator[dict[str, Any]]:
        found: dict[str, Any] = {}
        with net.trace(rows()):
            found["out"] = edit(net)
            yield found

    with first_ablated() as found:
        found["again"] = net.output.save()
    close(found["out"], zeroed_first)
    close(found["again"], zeroed_first)


def test_in_a_coroutine_that_waits_inside_the_block(net: Model, zeroed_first: Tensor) -> None:
    async def one(seed: int) -> Any:
        with net.trace(rows(seed=seed)):
            net.first.output[:] = 0
            await asyncio.sleep(0)
            return net.output.save()

    async def both() -> list[Any]:
        return list(await asyncio.gather(one(0), one(1)))

    found = asyncio.run(both())
    close(found[0], zeroed_first)
    assert tuple(found[1].shape) == (2, 3)


def test_under_a_debugger_that_traces_every_line(net: Model, zeroed_first: Tensor) -> None:
    lines: list[int] = []

    def debugger(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_code.co_filename == __file__:
            lines.append(frame.f_lineno)
        return debugger

    before = sys.gettrace()
    sys.settrace(debugger)
    try:
        with net.trace(rows()):
            out = edit(net)
        still = sys.gettrace()
    finally:
        sys.settrace(before)
    close(out, zeroed_first)
    assert still is debugger
    assert len(lines) == 2


def test_torch_and_builtins_are_untouched_by_import_and_trace() -> None:
    source = """
import builtins, sys, torch, types
from torch import nn
import torch.nn.functional, torch.autograd, torch.utils.hooks, torch._dynamo
places = [builtins, torch, torch.nn.functional, torch.autograd, torch.utils.hooks, torch.Tensor, nn.Module, nn.Linear,
          nn.Parameter, types, sys, list, dict, object]
look = lambda: {(n, name): id(vars(place)[name]) for n, place in enumerate(places) for name in vars(place)
                if name not in ("last_value", "last_type", "last_traceback", "last_exc", "_")}
net = nn.Linear(3, 3)
x = torch.ones(1, 3)
net(x).sum().backward()
before, trace = look(), sys.gettrace()
from tracing import Model
model = Model(net)
for _ in range(2):
    with model.trace(x):
        h = model.output.save()
        h[:] = h * 2
        h.sum().backward()
        g = h.grad.save()
after = look()
changed = sorted(key for key in before if before[key] != after.get(key))
assert not changed, [(places[n], name) for n, name in changed]
added = [(places[n], name) for n, name in after if (n, name) not in before and places[n] is not torch
         and not isinstance(vars(places[n])[name], types.ModuleType)]
assert not added, added
assert sys.gettrace() is trace and not hasattr(object(), "save") and not hasattr(3, "save")
assert g.shape == (1, 3)
print("untouched")
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, text=True, timeout=100, check=False, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert done.stdout == "untouched\n", done.stderr
