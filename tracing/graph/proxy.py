"""`Proxy`: stands for a value that the model will compute. Using it records nodes; after the trace it is the value.

A proxy is a base (a site, or a computed value) and the steps from it to a part. Operations record nodes; writing
through a proxy (`p[...] = v`, `p += v`, `p.zero_()`) makes a new version of its base, which every proxy of that base
sees at its next use. Nothing is intercepted but what Python and torch offer to any class: operators, attributes and
`__torch_function__`.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from tracing.errors import GradientError, NotSavedError, OperationError, RecordError
from tracing.graph import ops
from tracing.graph.arguments import is_proxy, is_view_index, plain, plain_index, recorder_in
from tracing.graph.cells import Cell
from tracing.graph.lens import Steps
from tracing.graph.lines import Line, user_line
from tracing.graph.misuse import misuse, unknown
from tracing.graph.nodes import Node
from tracing.graph.operators import Operators
from tracing.graph.recorder import ENDED, Base, Recorder
from tracing.graph.saved import Saved
from tracing.graph.unpacking import unpacked

FIELDS = frozenset(
    {
        "loss", "logits", "past_key_values", "hidden_states", "attentions", "last_hidden_state", "pooler_output",
        "encoder_last_hidden_state", "decoder_hidden_states", "cache_params", "cross_attentions", "sequences",
    }
) | ops.RESULT_FIELDS  # fmt: skip
"""Fields of model outputs, and of results such as topk's, that a proxy has as attributes."""

KNOWN = frozenset({"shape", "dtype", "device", "ndim", "size", "dim", "numel", "is_floating_point"})
"""What a proxy knows while it is recorded, where shapes are checked (`scan`, `validate=True`)."""


class Proxy(Operators):
    """A deferred value; see the module's docstring. Made by sites and by operations, never by hand."""

    __slots__ = ("__weakref__", "_base", "_cell", "_gradient", "_line", "_memo", "_steps")

    _base: Base
    _steps: Steps
    _line: Line
    _memo: tuple[int, Node] | None
    _cell: Cell | None
    _gradient: Any
    """Whether the gradient is retained (True), and its proxy once it was asked for."""

    def __init__(self, base: Base, steps: Steps = ()) -> None:
        put = object.__setattr__  # ours asks which attribute it is, and a trace makes many proxies
        put(self, "_base", base)
        put(self, "_steps", steps)
        put(self, "_line", base.node.line if not steps else user_line(3))
        put(self, "_memo", None)
        put(self, "_cell", None)
        put(self, "_gradient", None)

    # -- recording ----------------------------------------------------------------------------------------------------
    def _node(self) -> Node:
        """The node of this value as it is now."""
        base = self._base
        if not self._steps:
            return base.node
        memo = self._memo
        recorder = base.recorder
        # A part recorded in a conditional block is not there for what comes after the block.
        if memo is not None and memo[0] == base.version:
            known = memo[1]
            if known.loop is recorder.loop and (known.guard is None or known.guard is recorder.guard):
                return known
        node = base.recorder.add("part", (base.node, self._steps), None, self._line)
        self._memo = (base.version, node)
        return node

    def _part(self, step: tuple[Any, ...]) -> "Proxy":
        """A proxy of the same base, one step further in."""
        made = Proxy(self._base, (*self._steps, step))
        if self._base.recorder.validator is not None:
            self._base.recorder.validator.check_part(self._base.node, made._steps)
        return made

    def _write(self, steps: Steps, value: Any) -> None:
        """Record a new version of the base with `value` at `steps`."""
        base = self._live()
        recorder = base.recorder
        node = recorder.add("write", (base.node, steps, recorder.encode(value), base.site))
        recorder.advance(base, node)

    def _live(self) -> Base:
        if not self._base.recorder.open:
            raise RecordError(
                f"The trace that made this value ({self._line}) has ended; writing to it would change nothing.",
                remedy="Write inside the trace, or change the saved tensor itself (proxy.value).",
            )
        return self._base

    # -- after the trace ----------------------------------------------------------------------------------------------
    def save(self) -> Any:
        """Keep this value, as it is at this line, for after the trace. Returns what will be its tensor."""
        if not self._base.recorder.open:
            return self.value
        cell = self._base.recorder.save(self._node())
        if self._cell is not None:
            self._leave_to_twin(self._cell)
        self._cell = cell
        saved = Saved.of(self)
        cell.faces.append(saved)
        return saved

    def _leave_to_twin(self, cell: Cell) -> None:
        """What was saved before keeps its value and its memory: it stands for a proxy of its own from here on."""
        twin = object.__new__(type(self))
        for kind in type(self).__mro__:
            for name in vars(kind).get("__slots__", ()):
                if name != "__weakref__":
                    object.__setattr__(twin, name, object.__getattribute__(self, name))
        if self._gradient is True:
            self._base.recorder.retained.append(twin)
        for face in cell.faces:
            if face._proxy is self:
                face.__dict__["_proxy"] = twin

    @property
    def value(self) -> Any:
        """The saved value. Raises `NotSavedError` naming the line where it was made."""
        if self._cell is not None and (self._cell.filled or not self._base.recorder.open):
            return self._cell.read()
        if self._base.recorder.open:
            raise NotSavedError(
                f"The value made at {self._line} is not known before its trace ends.",
                remedy="Read it after the `with` block, and save it there: x = x.save().",
            )
        raise NotSavedError(
            f"The value made at {self._line} was not saved, so it is gone.",
            remedy="Call .save() on it inside the trace: x = x.save().",
        )

    def _close(self) -> None:
        """The trace has ended: what the user keeps of a saved value no longer leads to its program."""
        object.__setattr__(self, "_base", ENDED)
        object.__setattr__(self, "_memo", None)

    def _resolved(self) -> bool:
        return self._cell is not None and self._cell.filled

    # -- gradients ----------------------------------------------------------------------------------------------------
    def retain_grad(self) -> None:
        """Keep this value's gradient, to be read as `.grad` inside the trace or after it."""
        if not self._base.recorder.open:
            self.value.retain_grad()
        elif self._gradient is None:
            self._base.recorder.gradients.refuse_generation()
            self._gradient = True
            self._base.recorder.retained.append(self)

    def backward(self, gradient: Any = None, retain_graph: bool | None = None) -> Any:
        """Differentiate this value. `with loss.backward():` gives gradients of this backward alone."""
        recorder = self._base.recorder
        if not recorder.open:
            return self.value.backward(plain(gradient), retain_graph=retain_graph)
        return recorder.gradients.backward(self._node(), recorder.encode(gradient), retain_graph)

    @property
    def grad(self) -> Any:
        """The gradient with respect to this value, of its shape.

        After the trace, where it was retained. Raises `GradientError` where there is none.
        """
        recorder = self._base.recorder
        if recorder.open:
            found = Proxy(recorder.gradients.of(self._base.node, self._steps))
            if self._gradient is not None:
                self._gradient = found.save()
            return found
        if is_proxy(self._gradient):
            return self._gradient.value
        if self._resolved() and getattr(self.value, "requires_grad", False):
            return self.value.grad  # the user differentiates with respect to the saved tensor
        raise GradientError(
            f"The gradient of the value of {self._line} was not kept"
            + (": its trace has no backward()." if self._gradient else "."),
            remedy="Inside the trace, call loss.backward() and h.retain_grad(), or h.grad.save().",
        )

    @grad.setter
    def grad(self, value: Any) -> None:
        gradient = self.grad
        if value is gradient or (is_proxy(value) and value._base is gradient._base and not value._steps):
            return  # `h.grad *= 2` assigns what it has just written
        gradient._write((), value)

    # -- attributes ---------------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        recorder = self._base.recorder
        if not recorder.open:
            if name.startswith("__") and not self._resolved():
                raise AttributeError(name)
            return getattr(self.value, name)
        if recorder.validator is not None and name in KNOWN:
            known = recorder.validator.known(self._base.node, self._steps, name)
            if known is not NotImplemented:
                return known
        if name in ops.METHODS:
            return _Method(self, ops.METHODS[name])
        if name in ops.PROPERTIES:
            if ops.PROPERTIES[name] in ops.VIEWS:
                return self._part(("view", ops.PROPERTIES[name], (), {}))
            return record(recorder, ops.PROPERTIES[name], (self,), {})
        if name in ops.INPLACE:
            return _InPlace(self, name)
        if name in FIELDS:
            return self._part(("field", name))
        raise unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ATTRIBUTES:
            object.__setattr__(self, name, value)
        elif not self._base.recorder.open:
            setattr(self.value, name, value)
        elif name in FIELDS:
            self._write((*self._steps, ("field", name)), value)
        else:
            raise OperationError(
                f"A value inside a trace has no attribute {name!r} that could be set.",
                remedy="Write to a part of it (value[...] = x), or to a module (module.output = x).",
            )

    # -- operators ----------------------------------------------------------------------------------------------------
    def _operate(self, op: str, function: Callable[..., Any], *operands: Any) -> Any:
        recorder = recorder_in(operands)
        return function(*plain(operands)) if recorder is None else record(recorder, op, operands, {})

    def _operate_in_place(self, op: str, function: Callable[..., Any], other: Any) -> Any:
        if not self._base.recorder.open:
            return function(self.value, plain(other))
        # The in-place form keeps the dtype and shape of what it writes to, as torch's does.
        name = ops.INPLACE.get(f"{op}_", op)
        self._write(self._steps, record(self._base.recorder, name, (self, other), {}))
        return self

    # -- indexing -----------------------------------------------------------------------------------------------------
    def __getitem__(self, key: Any) -> Any:
        recorder = self._base.recorder
        if not recorder.open:
            return self.value[plain(key)]
        key = plain_index(key)
        if is_view_index(key):
            return self._part(("index", key))
        return record(recorder, "getitem", (self, key), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        if not self._base.recorder.open and self._resolved():
            self.value[plain(key)] = plain(value)
            return
        key = plain_index(key)
        of_this = is_proxy(value) and value._base is self._base and is_view_index(key)
        if of_this and value._steps == (*self._steps, ("index", key)):
            return  # `p[:, -1] += v` assigns what it has just written
        encoded = self._live().recorder.encode(key)
        self._write((*self._steps, ("index", encoded)), value)

    def __iter__(self) -> Iterator[Any]:
        if self._base.recorder.open:
            return iter(unpacked(self))
        return iter(self.value)

    def __len__(self) -> int:
        recorder = self._base.recorder
        if recorder.open and recorder.validator is not None:
            shape = recorder.validator.known(self._base.node, self._steps, "shape")
            if shape is not NotImplemented and shape:
                return int(shape[0])
        if recorder.open:
            raise misuse("len", self._line)
        return len(self.value)

    def __contains__(self, item: object) -> bool:
        if self._base.recorder.open:
            raise misuse("iter", self._line)
        return item in self.value

    # -- conversions --------------------------------------------------------------------------------------------------
    def __bool__(self) -> bool:
        return bool(self._real("bool"))

    def __int__(self) -> int:
        return int(self._real("int"))

    def __float__(self) -> float:
        return float(self._real("float"))

    def __index__(self) -> int:
        return operator.index(self._real("index"))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        array = self._real("array").__array__()
        return array if dtype is None else array.astype(dtype)

    def _real(self, use: str) -> Any:
        if self._base.recorder.open:
            raise misuse(use, self._line)
        return self.value

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        if self._resolved():
            return repr(self.value)
        if not self._base.recorder.open:
            return f"<value of {self._line}, {'not saved' if self._cell is None else self._cell.absence()}>"
        return f"<proxy of {self._base.node.site or self._base.node.op}, recorded at {self._line}>"

    def __str__(self) -> str:
        return str(self.value) if self._resolved() else repr(self)

    def __format__(self, specification: str) -> str:
        if specification and self._base.recorder.open:
            raise misuse("float", self._line)
        return format(self.value, specification) if specification or self._resolved() else str(self)

    def __reduce__(self) -> Any:
        raise TypeError("A proxy cannot be stored: store its tensor (proxy.value), with safetensors.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._base.recorder.open:
            raise OperationError(
                f"The value of {self._line} is not a function that a trace could call (at {user_line()}).",
                remedy="Index it with square brackets, or call tracer.apply(function, value).",
            )
        return self.value(*args, **kwargs)

    # -- torch --------------------------------------------------------------------------------------------------------
    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        recorder = recorder_in(args) or recorder_in(tuple(kwargs.values()))
        if recorder is None:
            return function(*plain(args), **plain(kwargs))
        if function is Tensor.__setitem__:
            raise RecordError(
                f"A value of a trace cannot be written into a plain tensor (at {user_line()}).",
                remedy="The tensor exists now, the value only later: save the value and write it after the trace, or "
                "start from a proxy (torch.zeros_like(value)).",
            )
        name = ops.op_of(function)
        if name is None:
            raise unknown(getattr(function, "__name__", str(function)))
        return record(recorder, name, args, kwargs)


_ATTRIBUTES = frozenset(Proxy.__slots__) | {"grad"}
"""What is set on a proxy itself."""


def record(recorder: Recorder, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record an operation of the table and return its proxy; a view stays a view of the same base."""
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        raise OperationError(
            f"{op!r} with inplace=True or out= would write into a value of the model unseen (at {user_line()}).",
            remedy="Take its result, and assign that: module.output = result, or value[...] = result.",
        )
    if op in ops.VIEWS and args and is_proxy(args[0]):
        rest = recorder.encode(args[1:]), recorder.encode(kwargs)
        if not any(isinstance(value, Node) for value in (*rest[0], *rest[1].values())):
            return args[0]._part(("view", op, *rest))
    node = recorder.add(op, recorder.encode(args), recorder.encode(kwargs) if kwargs else {})
    return Proxy(Base(recorder, node))


class _Method:
    """`proxy.mean`, waiting for its arguments."""

    __slots__ = ("_op", "_proxy")

    def __init__(self, proxy: Proxy, op: str) -> None:
        self._proxy = proxy
        self._op = op

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return record(self._proxy._base.recorder, self._op, (self._proxy, *args), kwargs)


class _InPlace:
    """`proxy.add_`, waiting for its arguments: computes the new value and writes it."""

    __slots__ = ("_name", "_proxy")

    def __init__(self, proxy: Proxy, name: str) -> None:
        self._proxy = proxy
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        proxy = self._proxy
        value = record(proxy._base.recorder, ops.INPLACE[self._name], (proxy, *args), kwargs)
        proxy._write(proxy._steps, value)
        return proxy
