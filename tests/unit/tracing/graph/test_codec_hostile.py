"""Graphs from strangers: whatever is wrong with one is a `GraphFormatError` that names the node and the fault."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.graph.test_codec import small_graph
from tracing.errors import GraphFormatError
from tracing.graph import codec, ops
from tracing.graph.nodes import STRUCTURAL, Graph, Node
from tracing.graph.proxy import FIELDS

TEXT, TENSORS = codec.dumps(small_graph())
Change = Callable[[dict[str, Any]], None]


def document() -> dict[str, Any]:
    return json.loads(TEXT)  # type: ignore[no-any-return]


def refused(changed: Any, tensors: dict[str, Tensor] | None = None) -> str:
    """The message with which a document is refused."""
    with pytest.raises(GraphFormatError) as caught:
        codec.loads(
            changed if isinstance(changed, str) else json.dumps(changed), TENSORS if tensors is None else tensors
        )
    return str(caught.value)


def with_node(node: dict[str, Any]) -> dict[str, Any]:
    """A graph whose last node is this one; node 0 is a site, node 1 a softmax of it."""
    nodes: list[dict[str, Any]] = [
        {"op": "site", "args": [site()]},
        {"op": "softmax", "args": [{"node": 0}, -1]},
        node,
    ]
    names = {one["op"] for one in nodes if isinstance(one.get("op"), str)}
    return {
        "format": codec.FORMAT,
        "version": codec.VERSION,
        "operations": sorted(names),
        "stages": [{"mode": "forward", "options": {"dict": {}}, "line": 0}],
        "invokes": [{"stage": 0, "inputs": {"args": ["hello"], "kwargs": {"dict": {}}}, "line": 0}],
        "loops": [],
        "nodes": nodes,
        "saves": [],
        "lines": [["cell.py", 1, "<module>"]],
        "tensors": {},
    }


def site(**fields: Any) -> dict[str, Any]:
    plain = {"stage": 0, "invoke": 0, "path": "h.0", "kind": "output", "step": 0, "call": 0, "in_place": False}
    return {"site": {**plain, **fields}}


def test_the_plain_document_of_these_tests_is_read() -> None:
    graph = codec.loads(json.dumps(with_node({"op": "add", "args": [{"node": 1}, 1]})), {})
    assert [node.op for node in graph.nodes] == ["site", "softmax", "add"]


# -- nodes ------------------------------------------------------------------------------------------------------------
X = {"node": 1}
LONG = "a." * 5000
DEEP: Any = 1
for _ in range(60):
    DEEP = [DEEP]

BAD_NODES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown operation": ({"op": "system", "args": ["ls"]}, "no operation 'system'"),
    "misspelt operation": ({"op": "softmx", "args": [X, -1]}, "did you mean softmax"),
    "random operation": ({"op": "dropout", "args": [X]}, "random numbers"),
    "getattr": ({"op": "getattr", "args": [X, "__class__"]}, "no operation 'getattr'"),
    "setattr": ({"op": "setattr", "args": [X, "data", 1]}, "no operation"),
    "call": ({"op": "call", "args": [X]}, "no operation"),
    "apply": ({"op": "apply", "args": ["os.system", [], {"dict": {}}]}, "holds no code"),
    "dunder operation": ({"op": "__class__", "args": [X]}, "no operation"),
    "empty strided memory": ({"op": "as_strided", "args": [X, [9], [1]]}, "memory outside"),
    "uninitialised memory": ({"op": "empty_like", "args": [X]}, "uninitialised"),
    "operation that is no text": ({"op": ["add"], "args": []}, "not a name"),
    "no operation": ({"args": []}, "lacks the field 'op'"),
    "no arguments": ({"op": "add"}, "lacks the field 'args'"),
    "arguments in an object": ({"op": "add", "args": {"0": 1}}, "an array"),
    "unknown field": ({"op": "add", "args": [X, 1], "code": "x"}, "no field 'code'"),
    "unknown keyword": ({"op": "softmax", "args": [X, -1], "kwargs": {"dimm": 1}}, "no argument 'dimm'"),
    "argument twice": ({"op": "softmax", "args": [X, -1], "kwargs": {"dim": 1}}, "'dim' twice"),
    "out": ({"op": "mean", "args": [X], "kwargs": {"out": X}}, "'out' takes null"),
    "in place": ({"op": "F.relu", "args": [X, True]}, "'inplace' takes false"),
    "dropout in attention": (
        {"op": "F.scaled_dot_product_attention", "args": [X, X, X], "kwargs": {"dropout_p": 0.5}}, "random",
    ),
    "embedding that renormalises": ({"op": "F.embedding", "args": [X, X, None, 1.0]}, "'max_norm' takes null"),
    "forward reference": ({"op": "add", "args": [{"node": 3}, 1]}, "only nodes before"),
    "reference to itself": ({"op": "add", "args": [{"node": 2}, 1]}, "only nodes before"),
    "negative reference": ({"op": "add", "args": [{"node": -1}, 1]}, "only nodes before"),
    "reference by name": ({"op": "add", "args": [{"node": "1"}, 1]}, "by its number"),
    "reference by truth": ({"op": "add", "args": [{"node": True}, 1]}, "by its number"),
    "text for a tensor": ({"op": "softmax", "args": ["x", -1]}, "'input' takes a tensor, not 'x'"),
    "text for a dimension": ({"op": "softmax", "args": [X, "all"]}, "'dim' takes a dimension"),
    "truth for a dimension": ({"op": "softmax", "args": [X, True]}, "'dim' takes a dimension"),
    "huge dimension": ({"op": "softmax", "args": [X, 10**6]}, "'dim' takes a dimension"),
    "number for a dtype": ({"op": "to", "args": [X, 3]}, "'target' takes"),
    "unknown dtype": ({"op": "to", "args": [X, {"dtype": "object"}]}, "no dtype 'object'"),
    "unknown device": ({"op": "to", "args": [X, {"device": "meta"}]}, "no device"),
    "device by text": ({"op": "to", "args": [X, "file:///etc/passwd"]}, "'target' takes"),
    "unknown word": ({"op": "F.mse_loss", "args": [X, X], "kwargs": {"reduction": "system"}}, "'reduction'"),
    "einsum with code": ({"op": "einsum", "args": ["__import__('os')", X]}, "an einsum equation"),
    "huge einsum": ({"op": "einsum", "args": ["a" * 100_000, X]}, "an einsum equation"),
    "too many arguments": ({"op": "softmax", "args": [X, 1, None, 1, 1]}, "positional arguments"),
    "too few arguments": ({"op": "softmax", "args": [X]}, "lacks its argument 'dim'"),
    "huge repeat": ({"op": "repeat", "args": [X, 1000, 1000, 1000]}, "repetitions whose product"),
    "huge tile": ({"op": "tile", "args": [X, [10**9]]}, "repetitions whose product"),
    "huge repeat_interleave": ({"op": "repeat_interleave", "args": [X, 10**9]}, "'repeats' takes"),
    "huge zeros": ({"op": "zeros", "args": [10**6, 10**6]}, "sizes whose product"),
    "huge new_ones": ({"op": "new_ones", "args": [X, [2**31, 2]]}, "sizes whose product"),
    "huge expand": ({"op": "expand", "args": [X, 2**20, 2**20]}, "sizes whose product"),
    "huge one_hot": ({"op": "F.one_hot", "args": [X, 2**40]}, "'num_classes' takes"),
    "huge pad": ({"op": "F.pad", "args": [X, [0, 2**40]]}, "'pad' takes widths"),
    "huge eye": ({"op": "eye", "args": [2**30]}, "'n' takes"),
    "huge transform": ({"op": "fft.fft", "args": [X, 2**40]}, "'n' takes"),
    "huge window": ({"op": "F.interpolate", "args": [X, [10**6, 10**6]]}, "'size' takes"),
    "huge scale": ({"op": "F.interpolate", "args": [X, None, 10**6]}, "'scale_factor' takes"),
    "huge power": ({"op": "matrix_power", "args": [X, 2**60]}, "'n' takes"),
    "number of 100 bits": ({"op": "add", "args": [X, 2**64]}, "64 are the most"),
    "nested too deep": ({"op": "list", "args": [{"list": [DEEP]}]}, "nested more than"),
    "unknown tag": ({"op": "list", "args": [{"object": "os"}]}, "no kind of value 'object'"),
    "two tags": ({"op": "list", "args": [{"node": 1, "list": []}]}, "one tag"),
    "no tag": ({"op": "list", "args": [{}]}, "one tag"),
    "unknown tensor": ({"op": "add", "args": [X, {"tensor": "t9"}]}, "no tensor 't9'"),
    "tensor by number": ({"op": "add", "args": [X, {"tensor": 0}]}, "no tensor"),
    "broken slice": ({"op": "getitem", "args": [X, {"slice": [1, 2]}]}, "start, stop and step"),
    "slice of text": ({"op": "getitem", "args": [X, {"slice": ["a", None, None]}]}, "start, stop and step"),
    "dunder index": ({"op": "getitem", "args": [X, "__class__"]}, "'index' takes an index"),
    "private index": ({"op": "getitem", "args": [X, "_encodings"]}, "'index' takes an index"),
    "index by a dict": ({"op": "getitem", "args": [X, {"dict": {"a": 1}}]}, "'index' takes an index"),
    "unknown float": ({"op": "add", "args": [X, {"float": "1e5"}]}, "none of inf"),
    "site as a value": ({"op": "list", "args": [{"list": [site()]}]}, "no kind of value 'site'"),
    "unknown invoke": ({"op": "add", "args": [X, 1], "invoke": 5}, "no invoke 5"),
    "invoke by truth": ({"op": "add", "args": [X, 1], "invoke": False}, "no invoke False"),
    "unknown line": ({"op": "add", "args": [X, 1], "line": 7}, "no line 7"),
    "unknown loop": ({"op": "add", "args": [X, 1], "loop": 0}, "no loop 0"),
    "condition to come": ({"op": "add", "args": [X, 1], "guard": [[2, True]]}, "only nodes before"),
    "condition without a truth": ({"op": "add", "args": [X, 1], "guard": [[1, 1]]}, "true or false"),
    "many conditions": ({"op": "add", "args": [X, 1], "guard": [[1, True]] * 65}, "at most 64"),
    # -- structural
    "dunder path": ({"op": "site", "args": [site(path="h.__class__.__init__")]}, "not a module path"),
    "call in a path": ({"op": "site", "args": [site(path="h.0;import os")]}, "not a module path"),
    "empty part of a path": ({"op": "site", "args": [site(path="h..0")]}, "not a module path"),
    "path of 10,000 characters": ({"op": "site", "args": [site(path=LONG)]}, "at most 512 characters, this one 10000"),
    "path that is no text": ({"op": "site", "args": [site(path=3)]}, "is text"),
    "unknown kind": ({"op": "site", "args": [site(kind="weights")]}, "no kind of site 'weights'"),
    "unknown stage": ({"op": "site", "args": [site(stage=1)]}, "no stage 1"),
    "invoke of a site": ({"op": "site", "args": [site(invoke=1)]}, "no invoke 1"),
    "negative step": ({"op": "site", "args": [site(step=-1)]}, "step and call"),
    "huge call": ({"op": "site", "args": [site(call=2**40)]}, "step and call"),
    "site with a field more": ({"op": "site", "args": [site(code="x")]}, "and no others"),
    "site without a site": ({"op": "site", "args": [1]}, "one tag"),
    "gradient as a site": ({"op": "site", "args": [site(kind="grad", path="%0.0")]}, "no place of kind"),
    "result of a module": ({"op": "site", "args": [site(kind="result")]}, "Only the model"),
    "gradient's name": ({"op": "grad", "args": [site(kind="grad", path="os"), X, []]}, "does not name a gradient"),
    "gradient elsewhere": ({"op": "grad", "args": [site(), X, []]}, "of kind 'grad'"),
    "write elsewhere": ({"op": "write", "args": [{"node": 0}, [], 1, site(path="h.9")]}, "and no other"),
    "write of a value to a site": ({"op": "write", "args": [X, [], 1, site()]}, "and no other"),
    "write without a site": ({"op": "write", "args": [{"node": 0}, [], 1, None]}, "and no other"),
    "write with a missing argument": ({"op": "write", "args": [{"node": 0}, []]}, "takes 4 arguments"),
    "write with keywords": ({"op": "write", "args": [X, [], 1, None], "kwargs": {"a": 1}}, "no keyword arguments"),
    "site that is optionally text": ({"op": "site", "args": [site()], "kwargs": {"optional": "x"}}, "true or false"),
    "unknown step": ({"op": "part", "args": [X, [["call", "x"]]]}, "no step 'call'"),
    "step that is no step": ({"op": "part", "args": [X, ["main"]]}, "starts with its name"),
    "steps that are no steps": ({"op": "part", "args": [X, "main"]}, "Argument 1 of part"),
    "too many steps": ({"op": "part", "args": [X, [["main"]] * 65]}, "at most 64"),
    "dunder field": ({"op": "part", "args": [X, [["field", "__class__"]]]}, "'field' cannot take"),
    "unknown field of an output": ({"op": "part", "args": [X, [["field", "data"]]]}, "'field' cannot take"),
    "field by number": ({"op": "part", "args": [X, [["field", 0]]]}, "'field' cannot take"),
    "view that is none": ({"op": "part", "args": [X, [["view", "add", [1], {"dict": {}}]]]}, "'view' cannot take"),
    "view with wrong arguments": (
        {"op": "part", "args": [X, [["view", "transpose", ["a", 1], {"dict": {}}]]]}, "'dim0' takes a dimension",
    ),
    "node in the steps of a read": ({"op": "part", "args": [X, [["index", X]]]}, "holds plain numbers"),
    "heads without heads": ({"op": "part", "args": [X, [["heads", 0, 0, 0]]]}, "'heads' cannot take"),
    "heads by text": ({"op": "part", "args": [X, [["heads", "0", 1, 1]]]}, "'heads' cannot take"),
    "part of a number": ({"op": "part", "args": [3, []]}, "Argument 0 of part"),
    "dunder module": ({"op": "module", "args": ["__class__", [], {"dict": {}}]}, "not a module path"),
    "module with a private keyword": ({"op": "module", "args": ["h", [], {"dict": {"__x": 1}}]}, "cannot call"),
    "module that trusts code": (
        {"op": "module", "args": ["h", [], {"dict": {"trust_remote_code": True}}]}, "cannot call",
    ),
    "dunder parameter": ({"op": "parameter", "args": ["h.__dict__"]}, "not a module path"),
    "parameter of nothing": ({"op": "parameter", "args": [""]}, "has a path"),
    "backward with a name": ({"op": "backward", "args": [X, None, 0], "kwargs": {"inputs": X}}, "retain_graph"),
    "backward by truth": ({"op": "backward", "args": [X, None, True]}, "a number from 0"),
    "skip of another module": ({"op": "skip", "args": ["h.1", X, site(kind="skip")]}, "its own module"),
    "append to a tensor": ({"op": "append", "args": [X, 1]}, "adds to a list"),
    "stop at text": ({"op": "stop", "args": [{"list": ["now"]}]}, "waits for nodes"),
    "total of nothing": ({"op": "grad_total", "args": [{"list": []}]}, "a list of nodes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NODES)
def test_a_bad_node_is_refused_by_number_and_fault(name: str) -> None:
    node, fault = BAD_NODES[name]
    message = refused(with_node(node), {})
    assert message.startswith("Node 2 ("), message
    assert fault in message
    assert len(message) < 600


def test_a_node_that_is_no_object_is_refused() -> None:
    changed = with_node({"op": "add", "args": [X, 1]})
    changed["nodes"].append("add")
    assert refused(changed, {}).startswith("Node 3 (None): It is an object")


# -- the document -----------------------------------------------------------------------------------------------------
def _set(key: str, value: Any) -> Change:
    return lambda changed: changed.update({key: value})


BAD_DOCUMENTS: dict[str, tuple[Change, str]] = {
    "another format": (_set("format", "pickle"), "no graph"),
    "no version": (_set("version", None), "whole number from 1"),
    "version by truth": (_set("version", True), "whole number from 1"),
    "version 0": (_set("version", 0), "whole number from 1"),
    "extra key": (_set("code", "print(1)"), "no field 'code'"),
    "missing key": (lambda changed: changed.pop("saves"), "lacks the field 'saves'"),
    "nodes in an object": (_set("nodes", {}), "an array"),
    "operations that are not there": (_set("operations", ["add"]), "does not list"),
    "too many stages": (_set("stages", [1] * 5000), "at most 4096 stages"),
    "unknown mode": (lambda changed: changed["stages"][0].update(mode="train"), "Stage 0: There is no mode 'train'"),
    "extra key of a stage": (lambda changed: changed["stages"][0].update(hook=1), "Stage 0: It has no field 'hook'"),
    "options in an array": (lambda changed: changed["stages"][0].update(options=[1]), "Options are a dict"),
    "generation that loads code": (
        lambda changed: changed["stages"][0].update(options={"dict": {"custom_generate": "evil/repo"}}),
        "Stage 0: A stored graph cannot give the model the option 'custom_generate'",
    ),
    "generation that trusts code": (
        lambda changed: changed["stages"][0].update(options={"dict": {"trust_remote_code": True}}), "cannot give",
    ),
    "generation with an assistant": (
        lambda changed: changed["stages"][0].update(options={"dict": {"assistant_model": "x"}}), "cannot give",
    ),
    "private option": (
        lambda changed: changed["stages"][0].update(options={"dict": {"__class__": "x"}}), "cannot give",
    ),
    "prompt that loads code": (
        lambda changed: changed["invokes"][0]["inputs"].update(kwargs={"dict": {"custom_generate": "x"}}),
        "Invoke 0: A stored graph cannot give",
    ),
    "prompt with a node": (
        lambda changed: changed["invokes"][0]["inputs"].update(args=[{"node": 0}]), "Invoke 0: It refers to node 0",
    ),
    "prompt in an object": (lambda changed: changed["invokes"][0].update(inputs={"text": "x"}), "Invoke 0: Its input"),
    "invoke of no stage": (lambda changed: changed["invokes"][0].update(stage=9), "Invoke 0: There is no stage 9"),
    "huge text": (
        lambda changed: changed["invokes"][0]["inputs"].update(args=["a" * (2**20 + 1)]), "has 1048577 characters",
    ),
    "line with a folder": (_set("lines", [["/etc/passwd", 1, "f"]] * 9), "without its folder"),
    "line with a number of 100 digits": (_set("lines", [["a", 2**40, "f"]] * 9), "31 bits"),
    "save of nothing": (_set("saves", [[999, ""]]), "Node 999 is saved"),
    "save by truth": (_set("saves", [[True, ""]]), "is saved, but there is none"),
    "save twice": (_set("saves", [[2, "a"], [2, "b"]]), "saved twice"),
    "name twice": (_set("saves", [[1, "a"], [2, "a"]]), "saved twice"),
    "dunder name": (_set("saves", [[2, "__class__"]]), "under the name '__class__'"),
    "saves in an object": (_set("saves", {"2": "a"}), "an array"),
    "loop without steps": (lambda changed: changed["loops"][0].pop("steps"), "lacks the field 'steps'"),
    "loop of negative steps": (lambda changed: changed["loops"][0].update(steps=[-1]), "whole numbers"),
    "endless loop": (lambda changed: changed["loops"][0].update(steps=[0] * 600_000), "Written out"),
    "carried backwards": (lambda changed: changed["loops"][0].update(carried=[[9, 7]]), "cannot carry"),
    "carried from within": (lambda changed: changed["loops"][0].update(carried=[[7, 8]]), "cannot carry"),
    "carried by name": (lambda changed: changed["loops"][0].update(carried=["ab"]), "pairs of nodes"),
    "loop that nothing is in": (lambda changed: changed["loops"].append({"steps": [], "carried": []}), "unbroken run"),
    "broken loop": (lambda changed: changed["nodes"][0].update(loop=0), "unbroken run"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_a_bad_document_is_refused_with_its_fault(name: str) -> None:
    change, fault = BAD_DOCUMENTS[name]
    changed = document()
    change(changed)
    message = refused(changed)
    assert fault in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ("1" * 10_000, "10000 digits"),
        ("-" + "1" * 5_000, "digits"),
        ("NaN", "no JSON number"),
        ('{"format": Infinity}', "Infinity is no JSON number"),
        ("1e999", "too large"),
        ("[" * 200_000, "nested too deep"),
        ('{"a":' * 200_000, "nested too deep"),
        ('{"format": "tracing-graph", "format": "tracing-graph"}', "'format' stands twice"),
        ("\x00", "no JSON"),
    ],
    ids=lambda text: text[:24],
)
def test_text_that_is_no_graph_is_refused(text: str, fault: str) -> None:
    assert fault in refused(text)


def test_a_text_of_half_a_character_is_refused() -> None:
    changed = TEXT.replace("The cat sat", "\\ud800")
    assert "half a character" in refused(changed)


def test_too_much_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_JSON", 100)
    assert "100 are the most" in refused(TEXT)


# -- tensors ----------------------------------------------------------------------------------------------------------
def test_a_missing_tensor_is_named() -> None:
    assert "'t0' is missing from the safetensors" in refused(TEXT, {"t1": TENSORS["t1"]})


def test_an_extra_tensor_is_named() -> None:
    assert "'smuggled', which the graph does not know" in refused(TEXT, {**TENSORS, "smuggled": torch.ones(2)})


def test_a_tensor_of_another_dtype_is_named() -> None:
    assert "its dtype is float64" in refused(TEXT, {**TENSORS, "t0": TENSORS["t0"].double()})


def test_a_tensor_of_another_shape_is_named() -> None:
    assert "its shape is" in refused(TEXT, {**TENSORS, "t0": TENSORS["t0"].reshape(-1)})


def test_a_tensor_of_other_content_is_named() -> None:
    assert "its sha256 is" in refused(TEXT, {**TENSORS, "t0": TENSORS["t0"] + 1})


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse(), torch.zeros(2, device="meta"), [1.0], None],
)
def test_what_is_no_plain_tensor_is_refused(value: Any) -> None:
    refused(TEXT, {**TENSORS, "t0": value})


def test_a_tensor_that_no_node_uses_is_refused() -> None:
    changed = document()
    changed["tensors"]["t9"] = changed["tensors"]["t0"]
    assert "'t9' is used by no node" in refused(changed, {**TENSORS, "t9": TENSORS["t0"]})


# -- the parts agree --------------------------------------------------------------------------------------------------
def test_every_structural_operation_has_a_check() -> None:
    from tracing.graph.codec_checks import CHECKED

    assert CHECKED == STRUCTURAL


def test_no_operation_has_two_meanings() -> None:
    assert not STRUCTURAL & ops.TABLE.keys()


def test_fields_that_proxies_have_can_be_stored() -> None:
    for name in FIELDS:
        codec.loads(json.dumps(with_node({"op": "part", "args": [X, [["field", name]]]})), {})


def test_a_node_of_another_graph_cannot_be_written() -> None:
    graph = Graph()
    graph.record("neg", (Node(7, "site", (), {}),), {})
    with pytest.raises(GraphFormatError, match="another graph"):
        codec.dumps(graph)
