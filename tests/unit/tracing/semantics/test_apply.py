"""What `tracer.apply` hands to a function, and what it cannot hand."""

import pytest

from tests.unit.tracing.seed.support import close, rows
from tracing import Model
from tracing.errors import GraphFormatError, OperationError
from tracing.graph import codec


def test_keys_of_a_dict_stay_what_they_are(net: Model) -> None:
    with net.trace(rows()) as tracer:
        given = {0: net.first.output, (1, "a"): 2, None: [3]}
        keys = tracer.apply(list, given).save()
        zero = tracer.apply(lambda values: values[0] * values[1, "a"], given).save()
        first = net.first.output.save()
    assert keys.value == [0, (1, "a"), None]
    close(zero, first.value * 2)


def test_a_value_is_no_key(net: Model) -> None:
    with pytest.raises(OperationError, match="key of a dict"), net.trace(rows()) as tracer:
        tracer.apply(list, {net.first.output: 1})


def test_an_object_goes_to_a_function_through_the_function(net: Model) -> None:
    class Scale:
        factor = 3

    scale = Scale()
    with pytest.raises(OperationError, match=r"tracer\.apply\(lambda"), net.trace(rows()) as tracer:
        tracer.apply(lambda value, scale: value * scale.factor, net.first.output, scale)
    with net.trace(rows()) as tracer:
        found = tracer.apply(lambda value: value * scale.factor, net.first.output).save()
        first = net.first.output.save()
    close(found, first.value * 3)


def test_a_stored_graph_holds_no_other_keys_than_text(net: Model) -> None:
    with pytest.raises(GraphFormatError, match="key"), net.trace(rows()) as tracer:
        net.second({0: 1}).save()
        codec.dumps(tracer.graph)
