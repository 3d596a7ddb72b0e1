"""Reading a graph takes time in proportion to its size, whatever is wrong with it."""

import time

import pytest

from tracing.errors import GraphFormatError
from tracing.graph import codec


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    many = ",".join(f'"k{number}":0' for number in range(100_000))
    before = time.perf_counter()
    with pytest.raises(GraphFormatError, match="'k99999' stands twice"):
        codec.loads("{" + many + ',"k99999":0}', {})
    assert time.perf_counter() - before < 5  # for quadratic work it would be minutes
