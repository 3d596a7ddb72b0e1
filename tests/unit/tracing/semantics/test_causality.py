"""Semantics 3: reads in any order; writes that would need the future, and sites never reached, are errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed.support import calls, close, ids, line_of, outputs, rows, run
from tracing import LanguageModel, Model
from tracing.errors import CausalityError, SiteNotReachedError

PROMPT = "The capital of France is"
FILE = Path(__file__).name


def both_lines(error: BaseException, later: str, earlier: str) -> None:
    """The message names the line of the write and the line of the value it depends on."""
    for marker in (later, earlier):
        assert f"{FILE}:{line_of(__file__, marker)}" in str(error)


def test_reads_may_be_written_in_any_order(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        logits = gpt2.output.save()
        found = {n: gpt2.transformer.h[n].output.save() for n in (2, 0, 3, 1)}
        embedded = gpt2.transformer.wte.output.save()

    expected, values = run(
        gpt2._model, ids(PROMPT), reads=["transformer.wte", *(f"transformer.h.{n}" for n in range(4))]
    )
    close(logits, expected)
    close(embedded, values["transformer.wte"])
    for n, value in found.items():
        close(value, values[f"transformer.h.{n}"])


def test_a_write_that_depends_on_a_later_site_names_both_lines(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, pytest.raises(CausalityError) as raised, gpt2.trace(PROMPT):
        later = gpt2.transformer.h[2].output  # later site
        gpt2.transformer.h[0].output[:] = later  # early write
        gpt2.output.save()

    both_lines(raised.value, "early write", "later site")
    assert "transformer.h.2" in str(raised.value)
    assert "transformer.h.0" in str(raised.value)
    assert not called


def test_a_dependence_through_computed_values_names_the_site_at_its_root(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError) as raised, gpt2.trace(PROMPT):
        later = gpt2.transformer.h[2].output.mean(-1)  # root
        scaled = torch.softmax(later * 2, dim=-1)
        gpt2.transformer.h[1].output[:, :, 0] += scaled  # computed write
        gpt2.output.save()

    both_lines(raised.value, "computed write", "root")


def test_a_write_to_an_input_that_depends_on_the_same_modules_output_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError) as raised, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].input = gpt2.transformer.h[1].output  # own input
        gpt2.output.save()
    assert f"{FILE}:{line_of(__file__, 'own input')}" in str(raised.value)


def test_a_write_inside_a_block_that_depends_on_the_blocks_output_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError), gpt2.trace(PROMPT):
        gpt2.transformer.h[1].mlp.output[:] = gpt2.transformer.h[1].output
        gpt2.output.save()


def test_a_write_that_depends_on_the_logits_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError), gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output[:] = gpt2.output.sum()


def test_a_write_that_nothing_reads_is_checked_as_well(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError), gpt2.trace(PROMPT):
        gpt2.transformer.h[0].output[:] = gpt2.transformer.h[3].output


def test_the_check_catches_plain_modules_too(net: Model) -> None:
    called, stack = calls(net._model)
    with stack, pytest.raises(CausalityError), net.trace(rows()):
        net.first.output = net.third.output
        net.output.save()
    assert "last" not in called


class Reversed(nn.Module):
    """Runs its layers in the order opposite to that of their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 4).double()
        self.early = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.late(self.early(x))
        return found


def test_the_order_of_execution_counts_and_not_that_of_registration() -> None:
    net = Model(Reversed())
    with net.trace(rows()):
        net.late.output = net.early.output * 2
        out = net.output.save()
    close(out, net._model.early(rows()).detach() * 2)

    with pytest.raises(CausalityError), net.trace(rows()):
        net.early.output = net.late.output
        net.output.save()


def test_a_value_computed_from_earlier_sites_may_be_written_later(net: Model) -> None:
    with net.trace(rows()):
        first, inner = net.first.output, net.second[0].output
        net.third.output = first + inner * 2
        out = net.output.save()

    values = outputs(net._model, rows())
    close(out, net._model.last(values["first"] + values["second.0"] * 2).detach())


def test_a_site_may_be_written_with_its_own_value(net: Model) -> None:
    with net.trace(rows()):
        net.first.output = net.first.output * 2 - net.first.input.sum()
        out = net.first.output.save()
    close(out, outputs(net._model, rows())["first"] * 2 - rows().sum())


def test_writes_happen_in_the_order_of_their_lines(net: Model) -> None:
    with net.trace(rows()):
        net.first.output[:] = 1
        net.first.output += 1
        net.first.output[:, 0] = net.first.output[:, 1] * 5
        net.first.output[0] *= 3
        found = net.first.output.save()

    expected = torch.full((2, 6), 2.0, dtype=torch.float64)
    expected[:, 0] = 10
    expected[0] *= 3
    close(found, expected)


def test_a_value_of_before_a_write_stays_when_it_is_used_after_the_write(net: Model) -> None:
    with net.trace(rows()):
        before = net.first.output * 1
        net.first.output[:] = 0
        net.third.output = net.third.output + before
        out = net.output.save()

    values = outputs(net._model, rows())
    with net._model.first.register_forward_hook(lambda _, __, o: torch.zeros_like(o)):
        third = outputs(net._model, rows())["third"]
    close(out, net._model.last(third + values["first"]).detach())


def test_a_module_that_the_forward_never_calls_is_an_error_with_its_line(net: Model) -> None:
    with pytest.raises(SiteNotReachedError, match="unused") as raised, net.trace(rows()):
        net.unused.output.save()  # never called
    assert f"{FILE}:{line_of(__file__, 'never called')}" in str(raised.value)
    assert "print(model)" in str(raised.value)


def test_a_write_to_a_module_that_is_never_called_is_no_silent_no_op(net: Model) -> None:
    with pytest.raises(SiteNotReachedError, match="unused"), net.trace(rows()):
        net.unused.output[:] = 0
        net.output.save()


def test_a_container_that_is_never_called_points_to_its_items(gpt2: LanguageModel) -> None:
    with pytest.raises(SiteNotReachedError, match=r"h\[0\]"), gpt2.trace(PROMPT):
        gpt2.transformer.h.output.save()


def test_a_second_call_that_never_comes_is_an_error(net: Model) -> None:
    with pytest.raises(SiteNotReachedError), net.trace(rows()):
        net.first.next().output.save()


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(self.layer(x))
        return found


def test_next_is_the_second_call_of_a_module() -> None:
    net: Any = Model(Twice())
    with net.trace(rows()):
        one = net.layer.output.save()
        two = net.layer.next().output.save()

    layer = net._model.layer
    close(one, layer(rows()).detach())
    close(two, layer(layer(rows())).detach())


class Recurrent(nn.Module):
    """Calls one cell a position, and another layer for long inputs only."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4).double()
        self.long = nn.Linear(4, 4).double()
        self.out = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros_like(x[:, 0])
        for position in range(x.shape[1]):
            hidden = torch.tanh(self.cell(x[:, position] + hidden))
        found: Tensor = self.out(self.long(hidden) if x.shape[1] > 3 else hidden)
        return found


def test_what_is_known_of_a_short_input_is_not_held_against_a_long_one() -> None:
    net: Any = Model(Recurrent())
    short, long = torch.ones(1, 2, 4, dtype=torch.float64), torch.ones(1, 6, 4, dtype=torch.float64)
    with net.trace(short):
        net.out.output = net.cell.output * 2
        net.output.save()

    with net.trace(long):
        net.out.output = net.long.output * 2
        out = net.output.save()
    close(out, outputs(net._model, long)["long"] * 2)
    with net.trace(long):
        cell = net.cell
        for _ in range(5):
            cell = cell.next()
        net.out.output = cell.output * 2
        out = net.output.save()
    close(out, outputs(net._model, long)["cell"] * 2)
    with pytest.raises(SiteNotReachedError, match="long"), net.trace(short):
        net.out.output = net.long.output * 2
        net.output.save()


class Either(nn.Module):
    """Runs two layers in an order that depends on the numbers of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4).double()
        self.b = nn.Linear(4, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.a(x)) if x.sum() > 0 else self.a(self.b(x))
        return found


def test_an_order_that_depends_on_numbers_is_that_of_this_input() -> None:
    net: Any = Model(Either())
    up = torch.ones(1, 4, dtype=torch.float64)
    for x, first, second in ((up, "a", "b"), (-up, "b", "a"), (up, "a", "b")):
        with net.trace(x):
            net.get(second).output = net.get(first).output * 2
            out = net.output.save()
        close(out, outputs(net._model, x)[first] * 2)
        with pytest.raises(CausalityError), net.trace(x):
            net.get(first).output = net.get(second).output * 2
            net.output.save()
