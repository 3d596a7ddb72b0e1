"""A graph as data: `graph.json` (canonical JSON) and `graph.safetensors` (its constants), with a version.

    text, tensors = dumps(graph)         graph = loads(text, tensors)
    save(graph, "edit.json")             graph = load("edit.json")             digest(graph)

Reading is for files from anyone. Nothing is evaluated, unpickled or looked up by name: every operation is one of the
op table or one that the executor knows, its arguments follow its schema, nodes refer to earlier nodes only, and sizes
are limited. Whatever is wrong raises `GraphFormatError` naming the node and the fault.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracing.errors import GraphFormatError
from tracing.graph.codec_checks import PROMPT_NAMES, check_node, check_options
from tracing.graph.codec_read import MAX_NAME, Reader, check_saves
from tracing.graph.codec_values import Encoder, tensor_facts
from tracing.graph.lines import NOWHERE, Line
from tracing.graph.nodes import Graph, Guard, Invoke, Loop, Node

FORMAT: Final = "tracing-graph"
VERSION: Final = 1
MAX_JSON: Final = 2**26
"""Most characters of a graph's JSON."""


# -- writing ---------------------------------------------------------------------------------------------------------
def dumps(graph: Graph) -> tuple[str, dict[str, Tensor]]:
    """The graph as canonical JSON, and its constants by name.

    Raises `GraphFormatError`, naming the line that recorded it, for what no stored graph can hold: `tracer.apply`,
    Python objects, complex tensors.
    """
    document, tensors = _document(graph)
    return _canonical(document), tensors


def digest(graph: Graph) -> str:
    """SHA-256 of what the graph computes: its content without the lines that recorded it."""
    document, _ = _document(graph)
    content = {key: value for key, value in document.items() if key != "lines"}
    for part in ("stages", "invokes", "nodes"):
        content[part] = [{key: value for key, value in one.items() if key != "line"} for one in document[part]]
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def save(graph: Graph, path: str | Path) -> Path:
    """Write `path` (`.json`) and the safetensors beside it, each in one step. Returns the path of the JSON."""
    target = _json_path(path)
    document, tensors = _document(graph)
    _replace(target.with_suffix(".safetensors"), safetensors.torch.save(tensors, {"format": FORMAT}))
    _replace(target, _canonical(document).encode())
    return target


def _document(graph: Graph) -> tuple[dict[str, Any], dict[str, Tensor]]:
    writer = _Writer(graph)
    return writer.document(), writer.encoder.tensors


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.encoder = Encoder(graph.nodes)
        self.lines: dict[Line, int] = {}
        self.loops: dict[Loop, int] = {}

    def document(self) -> dict[str, Any]:
        graph = self.graph
        stages = [
            {"mode": stage.mode, "options": self._options(stage.options, stage.mode), "line": self._line(stage.line)}
            for stage in graph.stages
        ]
        invokes = [self._invoke(invoke) for invoke in graph.invokes]
        nodes = [self._node(number, node) for number, node in enumerate(graph.nodes)]
        return {
            "format": FORMAT,
            "version": VERSION,
            "operations": sorted({node.op for node in graph.nodes}),
            "stages": stages,
            "invokes": invokes,
            "loops": [self._loop(loop) for loop in self.loops],
            "nodes": nodes,
            "saves": check_saves([[number, name] for number, name in sorted(graph.saves.items())], len(graph.nodes)),
            "lines": [list(line) for line in self.lines],
            "tensors": {name: tensor_facts(tensor) for name, tensor in self.encoder.tensors.items()},
        }

    def _options(self, options: Mapping[str, Any], mode: str) -> Any:
        check_options(dict(options), mode)
        return self.encoder.encode(dict(options))

    def _invoke(self, invoke: Invoke) -> dict[str, Any]:
        try:
            given = None
            if invoke.inputs is not None:
                mode = self.graph.stages[invoke.stage].mode
                check_options(dict(invoke.inputs.kwargs), mode, PROMPT_NAMES)
                given = {
                    "args": self.encoder.encode(tuple(invoke.inputs.args)),
                    "kwargs": self.encoder.encode(dict(invoke.inputs.kwargs)),
                }
        except GraphFormatError as error:
            raise _at(f"The prompt given at {invoke.line}", error) from None
        return {"stage": invoke.stage, "inputs": given, "line": self._line(invoke.line)}

    def _loop(self, loop: Loop) -> dict[str, Any]:
        return {"steps": list(loop.steps), "carried": [[before.id, after.id] for before, after in loop.carried]}

    def _node(self, number: int, node: Node) -> dict[str, Any]:
        try:
            if node.id != number:
                raise GraphFormatError(f"It stands at place {number} of its graph but calls itself {node.id}.")
            check_node(node.op, node.args, node.kwargs)
            written: dict[str, Any] = {"op": node.op, "args": [self.encoder.encode(value) for value in node.args]}
            if node.kwargs:
                written["kwargs"] = {name: self.encoder.encode(value) for name, value in node.kwargs.items()}
        except GraphFormatError as error:
            raise _at(f"{node.op}, recorded at {node.line}", error, number) from None
        if node.line != NOWHERE:
            written["line"] = self._line(node.line)
        if node.invoke is not None:
            written["invoke"] = node.invoke
        if node.guard is not None:
            written["guard"] = [[guard.condition.id, guard.expected] for guard in _guards(node.guard)]
        if node.loop is not None:
            written["loop"] = self.loops.setdefault(node.loop, len(self.loops))
        return written

    def _line(self, line: Line) -> int:
        """The number of a line in the file's table: the file's name alone, as folders say who recorded it."""
        name = line.file.replace("\\", "/").rsplit("/", 1)[-1]
        return self.lines.setdefault(Line(name[:MAX_NAME], line.number, line.function[:MAX_NAME]), len(self.lines))


def _guards(guard: Guard | None) -> Iterable[Guard]:
    while guard is not None:
        yield guard
        guard = guard.outer


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _at(place: str, error: GraphFormatError, node: int | None = None) -> GraphFormatError:
    where = {} if node is None else {"node": node}
    prefix = place if node is None else f"Node {node} ({place})"
    return GraphFormatError(f"{prefix}: {error.message}", remedy=error.remedy, where=where)


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path.with_name(path.name + ".json")


def _replace(target: Path, content: bytes) -> None:
    """Write beside the target, then rename over it."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# -- reading ---------------------------------------------------------------------------------------------------------
def loads(text: str, tensors: Mapping[str, Tensor]) -> Graph:
    """The graph that `dumps` wrote. Raises `GraphFormatError` naming the node and the fault."""
    if len(text) > MAX_JSON:
        raise GraphFormatError(f"The graph has {len(text)} characters of JSON; {MAX_JSON} are the most.")
    document = _parse(text)
    _check_version(document)
    return Reader(document, tensors).graph()


def load(path: str | Path) -> Graph:
    """The graph that `save` wrote. Raises `GraphFormatError`; `FileNotFoundError` if there is no such file."""
    source = _json_path(path)
    size = source.stat().st_size
    if size > 4 * MAX_JSON:
        raise GraphFormatError(f"{source.name} has {size} bytes; a graph has at most {4 * MAX_JSON}.")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise GraphFormatError(f"{source.name} is no UTF-8 text (byte {error.start}).") from None
    return loads(text, _load_tensors(source.with_suffix(".safetensors")))


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name. A graph without constants may lack the file."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise GraphFormatError(f"{path.name} is no readable safetensors file: {str(error)[:200]}") from None


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(
            text,
            object_pairs_hook=_no_twins,
            parse_constant=_no_constant,
            parse_int=_short_int,
            parse_float=_finite,
        )
    except RecursionError:
        raise GraphFormatError("The JSON is nested too deep.") from None
    except json.JSONDecodeError as error:
        raise GraphFormatError(f"This is no JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    if not isinstance(document, dict):
        raise GraphFormatError("A graph is a JSON object.")
    return document


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise GraphFormatError(f"The key {twice[:80]!r} stands twice in one object.")
    return found


def _no_constant(name: str) -> Any:
    raise GraphFormatError(f'{name} is no JSON number; a graph writes {{"float": "nan"}}, "inf" or "-inf".')


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise GraphFormatError(f"A whole number has {len(digits)} digits; 64 bits hold 19.")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise GraphFormatError(f"The number {digits[:40]} is too large.")
    return number


def _check_version(document: Mapping[str, Any]) -> None:
    if document.get("format") != FORMAT:
        raise GraphFormatError(f'This is no graph: "format" is not {FORMAT!r}.')
    version = document.get("version")
    if type(version) is not int or version < 1:
        raise GraphFormatError("A graph has a version: a whole number from 1.")
    if version > VERSION:
        raise GraphFormatError(
            f"This graph was made by a newer version ({version}); this one reads {VERSION}.",
            remedy="Update Patchbay.",
        )
