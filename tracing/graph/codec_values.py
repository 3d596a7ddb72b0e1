"""Values of a graph as JSON and back: numbers and text as they are, a JSON array is a tuple, the rest is tagged.

    {"node": 3}  {"tensor": "t0"}  {"list": […]}  {"dict": {…}}  {"slice": [start, stop, step]}  {"ellipsis": true}
    {"float": "inf"}  {"size": […]}  {"dtype": "float32"}  {"device": "cuda:0"}  {"memory_format": "…"}  {"site": {…}}

Reading trusts nothing: every tag, length and number is checked, and nodes are referred to backwards only.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from tracing.errors import GraphFormatError
from tracing.graph.hidden import HiddenState
from tracing.graph.nodes import Node, Site
from tracing.graph.ops_schema import DEVICE, MAX_INT

MAX_DEPTH: Final = 24
"""Deepest nest of a value."""
MAX_TEXT: Final = 2**20
"""Longest text, of a prompt for instance."""
MAX_PATH: Final = 512
"""Longest module path."""
MAX_STEP: Final = 2**20

DTYPES: Final[Mapping[str, torch.dtype]] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool,
    )
}  # fmt: skip
_DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

_FORMATS: Final[Mapping[str, torch.memory_format]] = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
_FLOATS: Final = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

SITE_KINDS: Final = frozenset(
    {"output", "inputs", "result", "grad", "skip", "q_rot", "k_rot", "v", "scores", "pattern"}
)  # fmt: skip
_PATH_PART: Final = re.compile(r"(?!__)[A-Za-z0-9_\-]+")
_GRADIENT: Final = re.compile(r"%\d{1,9}\.\d{1,9}")


def shown(value: object) -> str:
    """A value from outside, cut for a message."""
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def check_path(path: object) -> str:
    """A module path: dotted names without dunders, "" for the model. Raises `GraphFormatError`."""
    if not isinstance(path, str):
        raise GraphFormatError(f"A module path is text, not {shown(path)}.")
    if len(path) > MAX_PATH:
        raise GraphFormatError(f"A module path has at most {MAX_PATH} characters, this one {len(path)}.")
    if path and not all(_PATH_PART.fullmatch(part) for part in path.split(".")):
        raise GraphFormatError(f"{shown(path)} is not a module path: dotted names without leading '__'.")
    return path


# -- writing ---------------------------------------------------------------------------------------------------------
class Encoder:
    """Turns values into JSON and collects their tensors, one name for each tensor object."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """`nodes` are the graph's."""
        self.tensors: dict[str, Tensor] = {}
        self._nodes = nodes
        self._names: dict[int, str] = {}
        self._kept: list[Tensor] = []  # an id stays a tensor's own while the tensor lives

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Raises `GraphFormatError` for what no stored graph holds."""
        if depth > MAX_DEPTH:
            raise GraphFormatError(f"A value is nested more than {MAX_DEPTH} deep.")
        if value is None or isinstance(value, (bool, str)):
            return _text(value) if isinstance(value, str) else value
        if isinstance(value, int):
            if not -MAX_INT <= value < MAX_INT:
                raise GraphFormatError(f"{shown(value)} does not fit into 64 bits.")
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, Node):
            if not 0 <= value.id < len(self._nodes) or self._nodes[value.id] is not value:
                raise GraphFormatError(f"It uses a node of another graph ({value.op}).")
            return {"node": value.id}
        if isinstance(value, (Tensor, np.ndarray)):
            return {"tensor": self._tensor(torch.as_tensor(value))}
        return self._structure(value, depth + 1)

    def _structure(self, value: Any, depth: int) -> Any:
        if isinstance(value, torch.Size):
            return {"size": list(value)}
        if isinstance(value, Site):
            return {"site": value._asdict()}
        if type(value) is tuple:
            return [self.encode(item, depth) for item in value]
        if type(value) is list:
            return {"list": [self.encode(item, depth) for item in value]}
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                raise GraphFormatError("A mapping in a stored graph has text as its keys.")
            return {"dict": {_text(key): self.encode(item, depth) for key, item in value.items()}}
        if isinstance(value, slice):
            return {"slice": [self.encode(part, depth) for part in (value.start, value.stop, value.step)]}
        return self._constant(value)

    def _constant(self, value: Any) -> Any:
        if value is Ellipsis:
            return {"ellipsis": True}
        if isinstance(value, torch.dtype) and value in _DTYPE_NAMES:
            return {"dtype": _DTYPE_NAMES[value]}
        if isinstance(value, torch.device) and DEVICE.fullmatch(str(value)):
            return {"device": str(value)}
        if isinstance(value, torch.memory_format):
            return {"memory_format": str(value).removeprefix("torch.")}
        if callable(value) and not isinstance(value, type):
            raise GraphFormatError(
                f"The Python function {getattr(value, '__name__', 'given')!s:.80} cannot be stored with a graph.",
                remedy="Use operations of torch instead of tracer.apply.",
            )
        what = str(value) if isinstance(value, (torch.dtype, torch.device)) else f"a {type(value).__name__}"
        raise GraphFormatError(
            f"A stored graph cannot hold {what}.", remedy="Give tensors, numbers, text, lists, tuples and dicts."
        )

    def _tensor(self, tensor: Tensor) -> str:
        name = self._names.get(id(tensor))
        if name is None:
            check_tensor(tensor)
            name = f"t{len(self.tensors)}"
            self._names[id(tensor)] = name
            self._kept.append(tensor)
            self.tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        return name


def check_tensor(tensor: object) -> None:
    """Raises `GraphFormatError` for a tensor that a stored graph cannot hold."""
    if not isinstance(tensor, Tensor):
        raise GraphFormatError(f"A tensor was expected, not {shown(tensor)}.")
    if tensor.dtype not in _DTYPE_NAMES:
        remedy = "Store torch.view_as_real(tensor)." if tensor.is_complex() else "Convert it first: tensor.float()."
        raise GraphFormatError(f"A stored graph holds no tensors of {tensor.dtype}.", remedy=remedy)
    plain = type(tensor) in (Tensor, HiddenState) or isinstance(
        tensor, torch.nn.Parameter
    )  # no fake tensors, no subclasses
    if not plain or tensor.layout is not torch.strided or tensor.is_meta:
        raise GraphFormatError("A stored graph holds plain dense tensors with values only.")


def tensor_facts(tensor: Tensor) -> dict[str, Any]:
    """How a graph's JSON knows a constant: dtype, shape, and SHA-256 of its bytes (in rows, little-endian)."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return {
        "dtype": _DTYPE_NAMES[tensor.dtype],
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


# -- reading ---------------------------------------------------------------------------------------------------------
class Decoder:
    """Turns JSON into values. `nodes` are those read so far, the only ones that can be referred to."""

    def __init__(self, tensors: Mapping[str, Tensor], stages: int, invokes: Sequence[int]) -> None:
        """`invokes` holds the stage of each invoke."""
        self.nodes: list[Node] = []
        self.used: set[str] = set()
        self._tensors = tensors
        self._stages = stages
        self._invokes = invokes
        self._readers: dict[str, Callable[[Any, int], Any]] = {
            "node": self._node,
            "tensor": self._tensor,
            "list": self._list,
            "dict": self._dict,
            "slice": self._slice,
            "ellipsis": self._ellipsis,
            "float": self._float,
            "size": self._size,
            "dtype": self._dtype,
            "device": self._device,
            "memory_format": self._memory_format,
        }

    def decode(self, value: Any, depth: int = 0) -> Any:
        """Raises `GraphFormatError` for anything but what `Encoder` writes."""
        if depth > MAX_DEPTH:
            raise GraphFormatError(f"A value is nested more than {MAX_DEPTH} deep.")
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            if not -MAX_INT <= value < MAX_INT:
                raise GraphFormatError(f"A whole number of {value.bit_length()} bits: 64 are the most.")
            return value
        if isinstance(value, str):
            return _text(value)
        if isinstance(value, list):
            return tuple([self.decode(item, depth + 1) for item in value])
        tag, content = _only(value)
        reader = self._readers.get(tag)
        if reader is None:
            raise GraphFormatError(f"There is no kind of value {shown(tag)}.")
        return reader(content, depth + 1)

    def node(self, value: Any) -> Node:
        """The node with this number, if it was read already."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise GraphFormatError(f"A node is referred to by its number, not by {shown(value)}.")
        if not 0 <= value < len(self.nodes):
            raise GraphFormatError(
                f"It refers to node {shown(value)}, but only nodes before it can be used ({len(self.nodes)} so far)."
            )
        return self.nodes[value]

    def site(self, value: Any) -> Site:
        """A site; its stage and invoke must exist."""
        tag, content = _only(value)
        if tag != "site" or not isinstance(content, dict) or content.keys() != set(Site._fields):
            raise GraphFormatError(f"A site has the fields {', '.join(Site._fields)} and no others.")
        stage, invoke, path, kind = content["stage"], content["invoke"], content["path"], content["kind"]
        if not _whole(stage, self._stages - 1):
            raise GraphFormatError(f"There is no stage {shown(stage)}.")
        known = _whole(invoke, len(self._invokes) - 1) and self._invokes[invoke] == stage
        if invoke is not None and not known:
            raise GraphFormatError(f"There is no invoke {shown(invoke)} in stage {stage}.")
        if not isinstance(kind, str) or kind not in SITE_KINDS:
            raise GraphFormatError(f"There is no kind of site {shown(kind)}.")
        if not _whole(content["step"], MAX_STEP) or not _whole(content["call"], MAX_STEP):
            raise GraphFormatError(f"A site's step and call are whole numbers from 0 to {MAX_STEP}.")
        if not isinstance(content["in_place"], bool):
            raise GraphFormatError("A site's in_place is true or false.")
        if kind != "grad":
            check_path(path)
        elif not isinstance(path, str) or not _GRADIENT.fullmatch(path):
            raise GraphFormatError(f"{shown(path)} does not name a gradient.")
        return Site(**content)

    # -- tags --------------------------------------------------------------------------------------------------------
    def _node(self, content: Any, depth: int) -> Node:
        return self.node(content)

    def _tensor(self, content: Any, depth: int) -> Tensor:
        if not isinstance(content, str) or content not in self._tensors:
            raise GraphFormatError(f"There is no tensor {shown(content)}.")
        self.used.add(content)
        return self._tensors[content]

    def _list(self, content: Any, depth: int) -> list[Any]:
        return [self.decode(item, depth) for item in _array(content, "A list")]

    def _dict(self, content: Any, depth: int) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise GraphFormatError(f"A dict is written as an object, not as {shown(content)}.")
        return {_text(key): self.decode(item, depth) for key, item in content.items()}

    def _slice(self, content: Any, depth: int) -> slice:
        parts = [self.decode(item, depth) for item in _array(content, "A slice")]
        if len(parts) != 3 or not all(part is None or type(part) is int or isinstance(part, Node) for part in parts):
            raise GraphFormatError("A slice has start, stop and step: whole numbers, nodes or null.")
        return slice(*parts)

    def _ellipsis(self, content: Any, depth: int) -> Any:
        if content is not True:
            raise GraphFormatError('An ellipsis is written {"ellipsis": true}.')
        return Ellipsis

    def _float(self, content: Any, depth: int) -> float:
        if not isinstance(content, str) or content not in _FLOATS:
            raise GraphFormatError(f"{shown(content)} is none of inf, -inf, nan.")
        return _FLOATS[content]

    def _size(self, content: Any, depth: int) -> torch.Size:
        sizes = _array(content, "A size")
        if len(sizes) > 64 or not all(_whole(size, MAX_INT - 1) for size in sizes):
            raise GraphFormatError("A size has up to 64 whole numbers from 0.")
        return torch.Size(sizes)

    def _dtype(self, content: Any, depth: int) -> torch.dtype:
        if not isinstance(content, str) or content not in DTYPES:
            raise GraphFormatError(f"There is no dtype {shown(content)}.")
        return DTYPES[content]

    def _device(self, content: Any, depth: int) -> torch.device:
        if not isinstance(content, str) or not DEVICE.fullmatch(content):
            raise GraphFormatError(f"There is no device {shown(content)}.")
        return torch.device(content)

    def _memory_format(self, content: Any, depth: int) -> torch.memory_format:
        if not isinstance(content, str) or content not in _FORMATS:
            raise GraphFormatError(f"There is no memory format {shown(content)}.")
        return _FORMATS[content]


def _only(value: Any) -> tuple[str, Any]:
    """Tag and content of a tagged value."""
    if not isinstance(value, dict) or len(value) != 1:
        raise GraphFormatError(f"A value is written as an object with one tag, not as {shown(value)}.")
    return next(iter(value.items()))


def _array(content: Any, what: str) -> list[Any]:
    if not isinstance(content, list):
        raise GraphFormatError(f"{what} is written as an array, not as {shown(content)}.")
    return content


def _whole(value: object, high: int) -> bool:
    return type(value) is int and 0 <= value <= high


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise GraphFormatError(f"A key of a dict is {shown(value)}; a stored graph takes text.")
    if len(value) > MAX_TEXT:
        raise GraphFormatError(f"A text has {len(value)} characters, a stored graph takes {MAX_TEXT}.")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise GraphFormatError("A text holds half a character (a lone surrogate).") from None
    return value
