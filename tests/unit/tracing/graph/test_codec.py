"""Stored graphs: what is written is read again, the digest is of what is computed, files are whole or not there."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.graph.test_ops import same
from tracing.errors import GraphFormatError
from tracing.graph import codec
from tracing.graph.lines import Line
from tracing.graph.nodes import Graph, Guard, Inputs, Invoke, Loop, Node, Site, Stage
from tracing.models.base import Model


def small_graph() -> Graph:
    """Two invokes, a write with a constant, a condition, a loop, and two saves."""
    graph = Graph()
    line = Line("/lab/someone/secret/notebook.py", 3, "run")
    graph.stages.append(Stage(0, "generate", {"max_new_tokens": 3}, line))
    graph.invokes.append(Invoke(0, 0, Inputs(("The cat sat",), {}), line))
    graph.invokes.append(Invoke(1, 0, Inputs(([1, 2, 3],), {"attention_mask": torch.ones(1, 3)}), line))
    site = Site(0, 0, "transformer.h.1", "output")
    hidden = graph.record("site", (site,), {}, line, 0)
    part = graph.record("part", (hidden, (("main",), ("index", (slice(None), -1)), ("view", "t", (), {}))), {}, line, 0)
    mean = graph.record("mean", (part,), {"dim": -1, "dtype": torch.float32}, line, 0)
    condition = graph.record("gt", (mean, 0.5), {}, line, 0)
    mask = graph.record("masked_fill", (mean, torch.tensor([True, False]), -math.inf), {}, line, 0)
    graph.record("write", (hidden, (), mask, site), {}, line, 0, Guard(condition, False, None))
    loop = Loop((0, 1, 2))
    values = graph.record("list", ([],), {}, line, 1)
    inner = graph.record("site", (Site(0, 1, "lm_head", "output"),), {}, line, 1, None, loop)
    longer = graph.record("append", (values, inner), {}, line, 1, None, loop)
    loop.carried.append((values, longer))
    graph.record("to", (mean, torch.device("cpu")), {"dtype": torch.float16}, line, 0)
    graph.saves[mean.id] = "mean"
    graph.saves[longer.id] = ""
    return graph


def equal(left: Any, right: Any) -> bool:
    """The same values, nodes by number, tensors by content."""
    if isinstance(left, Node):
        return isinstance(right, Node) and left.id == right.id
    if isinstance(left, Inputs):
        return equal((tuple(left.args), dict(left.kwargs)), (right.args, right.kwargs))
    if type(left) in (tuple, list):
        return type(left) is type(right) and len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return same(left, right) if isinstance(left, Tensor) else bool(left == right) or left is right


def same_graph(left: Graph, right: Graph) -> bool:
    """Whether two graphs say the same, lines aside."""
    loops = [loop for loop in dict.fromkeys(node.loop for node in left.nodes) if loop]
    others = [loop for loop in dict.fromkeys(node.loop for node in right.nodes) if loop]
    numbers = {**{loop: i for i, loop in enumerate(loops)}, **{loop: i for i, loop in enumerate(others)}}

    def node(one: Node) -> Any:
        guards, guard = [], one.guard
        while guard is not None:
            guards.append((guard.condition, guard.expected))
            guard = guard.outer
        loop = None if one.loop is None else numbers[one.loop]
        return one.id, one.op, one.args, dict(one.kwargs), one.invoke, guards, loop, [dep.id for dep in one.deps]

    def whole(graph: Graph, its: list[Loop]) -> Any:
        return (
            [node(one) for one in graph.nodes],
            [(stage.index, stage.mode, stage.options) for stage in graph.stages],
            [(invoke.index, invoke.stage, invoke.inputs) for invoke in graph.invokes],
            [(loop.steps, [list(pair) for pair in loop.carried]) for loop in its],
            graph.saves,
        )

    return equal(whole(left, loops), whole(right, others))


def test_a_graph_is_read_as_it_was_written() -> None:
    graph = small_graph()
    text, tensors = codec.dumps(graph)
    read = codec.loads(text, tensors)
    assert same_graph(graph, read)
    assert codec.dumps(read)[0] == text


def test_the_same_tensor_is_stored_once() -> None:
    graph = Graph()
    constant = torch.ones(3)
    first = graph.record("add", (constant, constant), {})
    graph.record("add", (first, constant.clone()), {})
    assert list(codec.dumps(graph)[1]) == ["t0", "t1"]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, -(2**63), 2.5, math.inf, -math.inf, "text ✓", (1, (2,)), [1, [2]], {"a": [1]}, Ellipsis,
        slice(1, None, -1), torch.Size([2, 3]), torch.bfloat16, torch.device("cuda:1"), torch.preserve_format,
        torch.ones(2, 3), torch.tensor(1.5), torch.zeros(0, 4), torch.ones(2, 3).T, torch.tensor([True]),
        torch.ones(2, dtype=torch.bfloat16), torch.ones(1).expand(4), nn.Parameter(torch.ones(2)).detach(),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_value_comes_back(value: Any) -> None:
    graph = Graph()
    graph.record("list", ([value],), {})
    text, tensors = codec.dumps(graph)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert equal(codec.loads(text, tensors).nodes[0].args, ([value],))


def test_nan_comes_back() -> None:
    graph = Graph()
    graph.record("list", ([math.nan],), {})
    assert math.isnan(codec.loads(*codec.dumps(graph)).nodes[0].args[0][0])


def test_the_json_is_canonical_and_strict() -> None:
    text, _ = codec.dumps(small_graph())
    document = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert text == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert document["version"] == codec.VERSION
    assert "masked_fill" in document["operations"]


def test_no_folder_of_the_author_is_stored() -> None:
    graph = small_graph()
    graph.nodes[0].line = Line("C:\\Users\\someone\\notebook.py", 7, "f")
    text, _ = codec.dumps(graph)
    assert "someone" not in text
    assert '["notebook.py",3,"run"]' in text


def test_lines_come_back_with_their_file_name() -> None:
    assert codec.loads(*codec.dumps(small_graph())).nodes[0].line == Line("notebook.py", 3, "run")


# -- digest ----------------------------------------------------------------------------------------------------------
def test_the_digest_is_of_what_is_computed_and_not_of_the_lines() -> None:
    graph, moved = small_graph(), small_graph()
    for node in moved.nodes:
        node.line = Line("elsewhere.py", 99, "g")
    assert codec.digest(graph) == codec.digest(moved) == codec.digest(codec.loads(*codec.dumps(graph)))


def test_the_digest_changes_with_a_constant_an_argument_and_a_save() -> None:
    def with_constant(graph: Graph) -> None:
        graph.nodes[4].args[1][0] = False

    def with_argument(graph: Graph) -> None:
        graph.nodes[2].kwargs["dim"] = 0  # type: ignore[index]

    def without_save(graph: Graph) -> None:
        del graph.saves[2]

    changes: list[Callable[[Graph], None]] = [lambda graph: None, with_constant, with_argument, without_save]
    digests = set()
    for change in changes:
        graph = small_graph()
        change(graph)
        digests.add(codec.digest(graph))
    assert len(digests) == len(changes)


# -- files -----------------------------------------------------------------------------------------------------------
def test_files_are_written_and_read(tmp_path: Path) -> None:
    graph = small_graph()
    written = codec.save(graph, tmp_path / "edit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edit.json", "edit.safetensors"]
    assert same_graph(codec.load(written), graph)
    assert same_graph(codec.load(tmp_path / "edit"), graph)


def test_a_graph_without_constants_needs_no_safetensors(tmp_path: Path) -> None:
    graph = Graph()
    graph.record("arange", (3,), {})
    codec.save(graph, tmp_path / "edit.json")
    (tmp_path / "edit.safetensors").unlink()
    assert len(codec.load(tmp_path / "edit.json").nodes) == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = codec.save(small_graph(), tmp_path / "edit.json")
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        codec.save(Graph(), path)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["edit.json", "edit.safetensors"]


def test_a_refused_graph_writes_nothing(tmp_path: Path) -> None:
    graph = Graph()
    graph.record("apply", (print, (), {}), {})
    with pytest.raises(GraphFormatError):
        codec.save(graph, tmp_path / "edit.json")
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    codec.save(small_graph(), tmp_path / "one.json")
    other = small_graph()
    other.nodes[4].args[1].fill_(True)
    codec.save(other, tmp_path / "two.json")
    (tmp_path / "two.safetensors").replace(tmp_path / "one.safetensors")
    with pytest.raises(GraphFormatError, match="not the one that the graph was stored with"):
        codec.load(tmp_path / "one.json")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_broken_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    codec.save(small_graph(), tmp_path / "edit.json")
    (tmp_path / "edit.safetensors").write_bytes(content)
    with pytest.raises(GraphFormatError, match="safetensors"):
        codec.load(tmp_path / "edit.json")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edit.json").write_bytes(b"\xff\xfe")
    with pytest.raises(GraphFormatError, match="UTF-8"):
        codec.load(tmp_path / "edit.json")


# -- versions --------------------------------------------------------------------------------------------------------
def test_a_newer_version_is_refused_with_advice() -> None:
    document = json.loads(codec.dumps(small_graph())[0])
    document["version"] = codec.VERSION + 1
    document["novelty"] = {"anything": 1}
    with pytest.raises(GraphFormatError, match=r"newer version \(2\); this one reads 1.*Update"):
        codec.loads(json.dumps(document), {})


# -- what cannot be stored -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "cannot hold a object"),
        (torch.zeros(2, dtype=torch.complex64), "view_as_real"),
        (torch.zeros(2, device="meta"), "plain dense"),
        (torch.zeros(2).to_sparse(), "plain dense"),
        (2**63, "64 bits"),
        (print, "function print cannot be stored"),
        ({1: 2}, "text as its keys"),
        ("\ud800", "half a character"),
        (torch.Generator(), "cannot hold"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_stored_is_named_with_its_line(value: Any, message: str) -> None:
    graph = Graph()
    graph.record("list", ([value],), {}, Line("/a/cell.py", 12, "f"))
    with pytest.raises(GraphFormatError, match=rf"(?s)Node 0 \(list, recorded at cell.py:12 in f\).*{message}"):
        codec.dumps(graph)


def test_apply_cannot_be_stored() -> None:
    graph = Graph()
    graph.record("apply", (print, (), {}), {})
    with pytest.raises(GraphFormatError, match=r"tracer\.apply.*operations of torch"):
        codec.dumps(graph)


def test_arguments_that_could_not_be_read_again_are_not_written() -> None:
    graph = Graph()
    graph.record("F.relu", (torch.ones(2),), {"inplace": True})
    with pytest.raises(GraphFormatError, match="inplace"):
        codec.dumps(graph)


def test_an_optional_site_and_an_edit_can_be_stored() -> None:
    graph = Graph()
    graph.stages.append(Stage(0, "edit"))
    graph.invokes.append(Invoke(0, 0, None))
    graph.record("site", (Site(0, 0, "h.0", "output"),), {"optional": True}, invoke=0)
    assert same_graph(codec.loads(*codec.dumps(graph)), graph)


# -- recorded traces -------------------------------------------------------------------------------------------------
def traced() -> tuple[Model, Graph]:
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    with model.trace(torch.ones(3, 4)) as tracer:
        hidden = model[0].output
        hidden[:, 1] = 0
        hidden += torch.arange(4.0)
        model[1].output[torch.tensor([0])] = 5.0
        hidden.softmax(-1).save()
        hidden.grad.save()
        model.output.sum().backward()
    return model, tracer.graph


def test_a_recorded_trace_is_stored_and_read() -> None:
    _, graph = traced()
    assert same_graph(codec.loads(*codec.dumps(graph)), graph)


def test_a_stored_trace_computes_the_same() -> None:
    from tracing.engines.local import execute
    from tracing.graph.cells import Cell

    model, graph = traced()
    results = []
    for one in (graph, codec.loads(*codec.dumps(graph))):
        cells = {number: Cell(one.nodes[number].line) for number in one.saves}
        execute(model, one, cells)
        results.append([cells[number].read() for number in sorted(cells)])
    assert same(*results)
    assert len(results[0]) == 2
