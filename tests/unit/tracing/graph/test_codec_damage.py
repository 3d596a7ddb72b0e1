"""Any graph is read as it was written; a damaged one is read or refused, and nothing else happens."""

import contextlib
import copy
import json
import random
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.tracing.graph.op_examples import examples_of
from tests.unit.tracing.graph.test_codec import same_graph, small_graph
from tests.unit.tracing.graph.test_codec_hostile import with_node
from tracing.errors import GraphFormatError
from tracing.graph import codec, ops
from tracing.graph.nodes import STRUCTURAL, Graph, Site, nodes_in

TEXT, TENSORS = codec.dumps(small_graph())
Change = Callable[[dict[str, Any]], None]


def document() -> dict[str, Any]:
    return json.loads(TEXT)  # type: ignore[no-any-return]


def read_or_refused(text: str, tensors: dict[str, Tensor]) -> Graph | None:
    """The graph, None if it is refused; any other exception is a failure."""
    with contextlib.suppress(GraphFormatError):
        return codec.loads(text, tensors)
    return None


def _recordable(name: str) -> bool:
    values = [value for args, kwargs in examples_of(name) for value in (*args, *kwargs.values())]
    return not any(isinstance(value, Tensor) and value.is_complex() for value in values)


NAMES = sorted(name for name in ops.TABLE if _recordable(name))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs of a site and examples of operations, whose tensors are constants or earlier nodes."""
    graph = Graph()
    base = small_graph()
    graph.stages, graph.invokes = base.stages, base.invokes
    graph.record("site", (Site(0, draw(st.integers(0, 1)), "h.0", "output"),), {})
    chance = random.Random(draw(st.integers(0, 2**32)))

    def swapped(value: Any) -> Any:
        if isinstance(value, Tensor) and chance.random() < 0.5:
            return chance.choice(graph.nodes)
        return type(value)(map(swapped, value)) if type(value) in (tuple, list) else value

    for name in draw(st.lists(st.sampled_from(NAMES), max_size=8)):
        args, kwargs = chance.choice(examples_of(name))
        if any(isinstance(value, torch.Size) for value in args) and name in ("add", "getitem"):
            continue
        record = tuple(map(swapped, args)), {key: swapped(value) for key, value in kwargs.items()}
        if name == "getitem" and not isinstance(args[0], Tensor):
            continue
        node = graph.record(name, *record)
        if chance.random() < 0.3:
            graph.saves[node.id] = f"value{node.id}"
    return graph


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_any_graph_is_read_as_it_was_written(graph: Graph) -> None:
    text, tensors = codec.dumps(graph)
    read = codec.loads(text, tensors)
    assert same_graph(graph, read)
    assert codec.dumps(read)[0] == text
    assert codec.digest(read) == codec.digest(graph)
    for node in read.nodes:
        assert all(one.id < node.id for one in nodes_in((node.args, dict(node.kwargs))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["__class__", "node", "tensor", "h.0", "os.system", "t0", "add", "site", "%0.0", "cuda"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["node", "tensor", "list", "dict", "slice", "float", "site", "op", "args", "dtype", "x"]),
        inner,
        max_size=2,
    ),
    max_leaves=6,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


PLACES = _places(document())[1:]


def _damage(changed: Any, place: tuple[Any, ...], how: str, value: Any) -> None:
    holder = changed
    for key in place[:-1]:
        if not isinstance(holder, (dict, list)) or (isinstance(holder, list) and key >= len(holder)):
            return
        holder = holder.get(key) if isinstance(holder, dict) else holder[key]
    key = place[-1]
    if isinstance(holder, dict) and key in holder:
        if how == "delete":
            del holder[key]
        elif how == "add":
            holder[str(value)[:20]] = value
        else:
            holder[key] = value
    elif isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        if how == "delete":
            del holder[key]
        elif how == "add":
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = value


DAMAGE = st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "delete", "add"]), JSON)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "delete", "add"]), JSON), min_size=1, max_size=3
    )
)
def test_a_damaged_graph_is_read_or_refused_and_nothing_else(damage: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    changed = document()
    for place, how, value in damage:
        _damage(changed, place, how, value)
    graph = read_or_refused(json.dumps(changed), TENSORS)
    if graph is not None:
        codec.dumps(graph)  # what is read can be written


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.text(max_size=4), st.integers(0, 20))
def test_damaged_text_is_read_or_refused_and_nothing_else(at: int, inserted: str, dropped: int) -> None:
    read_or_refused(TEXT[:at] + inserted + TEXT[at + dropped :], TENSORS)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*NAMES, *sorted(STRUCTURAL)]),
    st.lists(JSON, max_size=5),
    st.dictionaries(st.text(max_size=6), JSON, max_size=2),
)
def test_any_arguments_are_read_or_refused_and_nothing_else(op: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    read_or_refused(json.dumps(with_node({"op": op, "args": args, "kwargs": kwargs})), {})
