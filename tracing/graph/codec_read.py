"""Reads a graph's JSON document into a `Graph`, trusting nothing in it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from torch import Tensor

from tracing.errors import GraphFormatError
from tracing.graph.codec_checks import MODES, PROMPT_NAMES, SITE_POSITION, check_node, check_options
from tracing.graph.codec_values import MAX_STEP, Decoder, check_tensor, shown, tensor_facts
from tracing.graph.lines import NOWHERE, Line
from tracing.graph.nodes import STRUCTURAL, Graph, Guard, Inputs, Invoke, Loop, Node, Stage
from tracing.graph.ops import TABLE, refusal, suggestions

MAX_NODES: Final = 100_000
MAX_STAGES: Final = 4096
MAX_TENSORS: Final = 4096
MAX_LINES: Final = MAX_NODES
MAX_UNROLLED: Final = 1_000_000
"""Most nodes once loops are written out."""
MAX_GUARDS: Final = 64
MAX_NAME: Final = 200

_DOCUMENT: Final = frozenset(
    {"format", "version", "operations", "stages", "invokes", "loops", "nodes", "saves", "lines", "tensors"}
)
_NODE: Final = frozenset({"op", "args", "kwargs", "line", "invoke", "guard", "loop"})


class Reader:
    """Reads one document; `graph()` does the work."""

    def __init__(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._document = document
        self._tensors = dict(tensors)
        self._lines: list[Line] = []
        self._loops: list[Loop] = []
        self._graph = Graph()

    def graph(self) -> Graph:
        """The graph. Raises `GraphFormatError`."""
        document, graph = self._document, self._graph
        _keys(document, _DOCUMENT, "The graph")
        self._check_tensors(document["tensors"])
        self._lines = [_line(line) for line in _items(document["lines"], "lines", MAX_LINES)]
        plain = Decoder(self._tensors, 0, ())
        stages = _items(document["stages"], "stages", MAX_STAGES)
        graph.stages.extend(self._stage(plain, number, stage) for number, stage in enumerate(stages))
        invokes = _items(document["invokes"], "invokes", MAX_STAGES)
        graph.invokes.extend(self._invoke(plain, number, invoke) for number, invoke in enumerate(invokes))
        self._loops = [_loop(loop) for loop in _items(document["loops"], "loops", MAX_STAGES)]
        decoder = Decoder(self._tensors, len(graph.stages), [invoke.stage for invoke in graph.invokes])
        decoder.used = plain.used
        for number, node in enumerate(_items(document["nodes"], "nodes", MAX_NODES)):
            decoder.nodes.append(self._node(decoder, number, node))
        graph.nodes.extend(decoder.nodes)
        self._finish(decoder)
        return graph

    def _finish(self, decoder: Decoder) -> None:
        """What can be checked once all nodes are there."""
        document, nodes = self._document, self._graph.nodes
        unused = sorted(self._tensors.keys() - decoder.used)
        if unused:
            raise GraphFormatError(f"Tensor {unused[0]!r} is used by no node.")
        names = sorted({node.op for node in nodes})
        if document["operations"] != names:
            raise GraphFormatError('"operations" does not list the operations that the nodes use.')
        self._check_loops(document["loops"])
        saves = check_saves(document["saves"], len(nodes))
        self._graph.saves.update((number, name) for number, name in saves)

    # -- tensors and lines -------------------------------------------------------------------------------------------
    def _check_tensors(self, declared: Any) -> None:
        if not isinstance(declared, dict) or len(declared) > MAX_TENSORS:
            raise GraphFormatError(f'"tensors" is an object of at most {MAX_TENSORS} tensors.')
        missing, extra = declared.keys() - self._tensors.keys(), self._tensors.keys() - declared.keys()
        if missing:
            raise GraphFormatError(f"Tensor {min(missing)[:MAX_NAME]!r} is missing from the safetensors.")
        if extra:
            raise GraphFormatError(f"The safetensors hold {min(extra)[:MAX_NAME]!r}, which the graph does not know.")
        for name, facts in declared.items():
            _keys(facts, frozenset({"dtype", "shape", "sha256"}), f"Tensor {name[:MAX_NAME]!r}")
            check_tensor(self._tensors[name])
            for fact, value in tensor_facts(self._tensors[name]).items():
                if facts[fact] != value or type(facts[fact]) is not type(value):
                    raise GraphFormatError(
                        f"Tensor {name[:MAX_NAME]!r} is not the one that the graph was stored with: its {fact} is "
                        f"{value}, not {shown(facts[fact])}.",
                        remedy="Save the graph again.",
                    )

    def _line_of(self, number: Any) -> Line:
        if type(number) is not int or not 0 <= number < len(self._lines):
            raise GraphFormatError(f"There is no line {shown(number)}.")
        return self._lines[number]

    # -- stages and invokes ------------------------------------------------------------------------------------------
    def _stage(self, decoder: Decoder, number: int, stage: Any) -> Stage:
        try:
            _keys(stage, frozenset({"mode", "options", "line"}), "It")
            if not isinstance(stage["mode"], str) or stage["mode"] not in MODES:
                raise GraphFormatError(f"There is no mode {shown(stage['mode'])}.")
            options = decoder.decode(stage["options"])
            check_options(options, stage["mode"])
            return Stage(number, stage["mode"], options, self._line_of(stage["line"]))
        except GraphFormatError as error:
            raise _at(f"Stage {number}", error, {"stage": number}) from None

    def _invoke(self, decoder: Decoder, number: int, invoke: Any) -> Invoke:
        try:
            _keys(invoke, frozenset({"stage", "inputs", "line"}), "It")
            stage = invoke["stage"]
            if type(stage) is not int or not 0 <= stage < len(self._graph.stages):
                raise GraphFormatError(f"There is no stage {shown(stage)}.")
            given = invoke["inputs"]
            if given is not None:
                _keys(given, frozenset({"args", "kwargs"}), "Its input")
                args, kwargs = decoder.decode(given["args"]), decoder.decode(given["kwargs"])
                if not isinstance(args, tuple):
                    raise GraphFormatError("Its positional inputs are an array.")
                check_options(kwargs, self._graph.stages[stage].mode, PROMPT_NAMES)
                given = Inputs(args, kwargs)
            return Invoke(number, stage, given, self._line_of(invoke["line"]))
        except GraphFormatError as error:
            raise _at(f"Invoke {number}", error, {"invoke": number}) from None

    # -- nodes -------------------------------------------------------------------------------------------------------
    def _node(self, decoder: Decoder, number: int, node: Any) -> Node:
        op = node.get("op") if isinstance(node, dict) else None
        try:
            _keys(node, _NODE, "It", optional=_NODE - {"op", "args"})
            _check_name(op)
            args = self._args(decoder, node)
            kwargs = node.get("kwargs", {})
            if not isinstance(kwargs, dict):
                raise GraphFormatError("Its keyword arguments are an object.")
            kwargs = {name: decoder.decode(value) for name, value in kwargs.items()}
            check_node(node["op"], args, kwargs)
            line = self._line_of(node["line"]) if "line" in node else NOWHERE
            invoke = self._invoke_of(node)
            return Node(number, node["op"], args, kwargs, line, invoke, _guard(decoder, node), self._loop_of(node))
        except GraphFormatError as error:
            raise _at(f"Node {number} ({shown(op)})", error, {"node": number}) from None

    def _args(self, decoder: Decoder, node: Mapping[str, Any]) -> tuple[Any, ...]:
        if not isinstance(node["args"], list):
            raise GraphFormatError("Its arguments are an array.")
        place = SITE_POSITION.get(node["op"])
        return tuple(
            decoder.site(value) if position == place and value is not None else decoder.decode(value)
            for position, value in enumerate(node["args"])
        )

    def _invoke_of(self, node: Mapping[str, Any]) -> int | None:
        if "invoke" not in node:
            return None
        invoke = node["invoke"]
        if type(invoke) is not int or not 0 <= invoke < len(self._graph.invokes):
            raise GraphFormatError(f"There is no invoke {shown(invoke)}.")
        return invoke

    # -- loops and saves ---------------------------------------------------------------------------------------------
    def _loop_of(self, node: Mapping[str, Any]) -> Loop | None:
        if "loop" not in node:
            return None
        number = node["loop"]
        if type(number) is not int or not 0 <= number < len(self._loops):
            raise GraphFormatError(f"There is no loop {shown(number)}.")
        return self._loops[number]

    def _check_loops(self, written: Any) -> None:
        """A loop is one run of nodes; what it carries goes from a node outside to a later one inside."""
        nodes = self._graph.nodes
        order = [None, *(node.loop for node in nodes)]
        runs = [loop for previous, loop in pairwise(order) if loop is not None and loop is not previous]
        if runs != self._loops:
            raise GraphFormatError("Each loop is one unbroken run of nodes, and loops are numbered in their order.")
        unrolled = sum(1 if node.loop is None else len(node.loop.steps) for node in nodes)
        if unrolled > MAX_UNROLLED:
            raise GraphFormatError(f"Written out, the loops have {unrolled} nodes; {MAX_UNROLLED} are the most.")
        for number, (loop, entry) in enumerate(zip(self._loops, written, strict=True)):
            for pair in _items(entry["carried"], f"carried values of loop {number}", MAX_NODES):
                if not isinstance(pair, list) or len(pair) != 2 or not all(type(one) is int for one in pair):
                    raise GraphFormatError(f"Loop {number} carries pairs of nodes, not {shown(pair)}.")
                before, after = pair
                if not 0 <= before < after < len(nodes) or nodes[after].loop is not loop or nodes[before].loop is loop:
                    raise GraphFormatError(f"Loop {number} cannot carry node {before} on as node {after}.")
                loop.carried.append((nodes[before], nodes[after]))


def check_saves(written: Any, nodes: int) -> list[list[Any]]:
    """Saved nodes as pairs of number and name, each once. Raises `GraphFormatError`."""
    numbers: set[int] = set()
    names: set[str] = set()
    for entry in _items(written, "saves", MAX_NODES):
        if not isinstance(entry, list) or len(entry) != 2:
            raise GraphFormatError("A save is a node's number and a name.")
        number, name = entry
        if type(number) is not int or not 0 <= number < nodes:
            raise GraphFormatError(f"Node {shown(number)} is saved, but there is none.")
        if not isinstance(name, str) or len(name) > MAX_NAME or name.startswith("__"):
            raise GraphFormatError(f"Node {number} cannot be saved under the name {shown(name)}.")
        if number in numbers or name in names:
            raise GraphFormatError(f"Node {number} or the name {shown(name)} is saved twice.")
        numbers.add(number)
        names |= {name} - {""}
    return written  # type: ignore[no-any-return]


def _check_name(op: Any) -> None:
    if not isinstance(op, str):
        raise GraphFormatError("Its operation is not a name.")
    if op in STRUCTURAL or op in TABLE:
        return
    near = suggestions(op)
    hint = refusal(op) or (f"did you mean {', '.join(near)}?" if near else "")
    raise GraphFormatError(f"There is no operation {shown(op)}{': ' + hint if hint else ''}.")


def _guard(decoder: Decoder, node: Mapping[str, Any]) -> Guard | None:
    guard: Guard | None = None
    for entry in reversed(_items(node.get("guard", []), "conditions", MAX_GUARDS)):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], bool):
            raise GraphFormatError("A condition is a node's number, and true or false.")
        guard = Guard(decoder.node(entry[0]), entry[1], guard)
    return guard


def _loop(loop: Any) -> Loop:
    _keys(loop, frozenset({"steps", "carried"}), "A loop")
    steps = _items(loop["steps"], "steps of a loop", MAX_STEP)
    if not all(type(step) is int and 0 <= step <= MAX_STEP for step in steps):
        raise GraphFormatError(f"A loop's steps are whole numbers from 0 to {MAX_STEP}.")
    return Loop(tuple(steps))


def _line(line: Any) -> Line:
    if not isinstance(line, list) or len(line) != 3:
        raise GraphFormatError("A line is a file's name, a number and a function's name.")
    file, number, function = line
    if not isinstance(file, str) or not isinstance(function, str) or type(number) is not int:
        raise GraphFormatError("A line is a file's name, a number and a function's name.")
    if len(file) > MAX_NAME or len(function) > MAX_NAME or not 0 <= number < 2**31:
        raise GraphFormatError(f"A line's names have at most {MAX_NAME} characters, its number at most 31 bits.")
    if "/" in file or "\\" in file:
        raise GraphFormatError("A line names a file without its folder.")
    return Line(file, number, function)


def _items(value: Any, what: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise GraphFormatError(f'"{what}" is an array, not {shown(value)}.')
    if len(value) > most:
        raise GraphFormatError(f"A graph has at most {most} {what}, this one {len(value)}.")
    return value


def _keys(value: Any, keys: frozenset[str], what: str, optional: frozenset[str] = frozenset()) -> None:
    if not isinstance(value, dict):
        raise GraphFormatError(f"{what} is an object, not {shown(value)}.")
    unknown = sorted(value.keys() - keys)
    if unknown:
        raise GraphFormatError(f"{what} has no field {shown(unknown[0])}.")
    missing = sorted(keys - optional - value.keys())
    if missing:
        raise GraphFormatError(f"{what} lacks the field {missing[0]!r}.")


def _at(place: str, error: GraphFormatError, where: dict[str, object]) -> GraphFormatError:
    return GraphFormatError(f"{place}: {error.message}", remedy=error.remedy, where=where)
