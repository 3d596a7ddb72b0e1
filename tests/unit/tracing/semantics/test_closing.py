"""Blocks that close in another order than they opened leave nothing behind."""

from contextlib import ExitStack

from tests.unit.tracing.seed.support import Net, close, outputs, rows
from tracing import Model


def test_traces_close_in_any_order() -> None:
    one, two = Model(Net()), Model(Net())
    first, second = one.trace(rows()), two.trace(rows())
    first.__enter__()
    left = one.first.output.save()
    second.__enter__()
    first.__exit__(None, None, None)
    right = two.first.output.save()  # its block is open still
    second.__exit__(None, None, None)

    close(left, outputs(one._model, rows())["first"])
    close(right, outputs(two._model, rows())["first"])
    assert one.first.weight.shape == two.first.weight.shape  # read outside of a trace: the weight itself
    with one.trace(rows()):
        again = one.first.output.save()
    close(again, left.value)


def test_a_stack_that_is_handed_on_closes_its_trace_later() -> None:
    one, two = Model(Net()), Model(Net())
    with ExitStack() as stack:
        stack.enter_context(one.trace(rows()))
        left = one.first.output.save()
        later = stack.pop_all()
    with two.trace(rows()):
        with later:
            pass
        right = two.first.output.save()
    close(left, outputs(one._model, rows())["first"])
    close(right, outputs(two._model, rows())["first"])
