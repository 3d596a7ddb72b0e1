"""The op table: each operation gives what torch gives, names are found, views are views, nothing dangerous is there."""

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.graph.op_examples import Call, examples_of
from tests.unit.tracing.graph.op_references import reference
from tracing.graph import ops
from tracing.graph.nodes import Node

CALLS = [
    pytest.param(name, example, id=f"{name}-{number}")
    for name in ops.TABLE
    for number, example in enumerate(examples_of(name))
]


LAPACK = frozenset({"inverse", "pinverse", "det", "logdet", "slogdet", "svd", "qr", "cholesky", "matrix_exp", "norm"})
"""With `linalg.*`: their last bits depend on how memory happens to be aligned."""


def same(left: Any, right: Any, *, exact: bool = True) -> bool:
    """Equal in type, dtype, shape and every bit (NaN equals NaN)."""
    if isinstance(left, Tensor):
        if not isinstance(right, Tensor) or left.dtype != right.dtype or left.shape != right.shape:
            return False
        if left.is_complex():
            left, right = torch.view_as_real(left.resolve_conj()), torch.view_as_real(right.resolve_conj())
        if left.is_floating_point():
            left, right = left.nan_to_num(nan=1e30), right.nan_to_num(nan=1e30)
        return torch.equal(left, right) if exact else torch.allclose(left, right, rtol=1e-5, atol=1e-5)
    if isinstance(left, dict):
        return isinstance(right, dict) and same(list(left.items()), list(right.items()))
    if isinstance(left, (tuple, list)):
        alike = type(left) is type(right) and len(left) == len(right)
        return alike and all(same(one, other, exact=exact) for one, other in zip(left, right, strict=True))
    return type(left) is type(right) and bool(left == right)


@pytest.mark.parametrize("name", ops.TABLE)
def test_every_operation_has_an_example(name: str) -> None:
    assert examples_of(name), f"add an example for {name!r} to tests/unit/tracing/graph/op_examples.py"


@pytest.mark.parametrize(("name", "example"), CALLS)
def test_an_operation_gives_what_torch_gives(name: str, example: Call) -> None:
    args, kwargs = example
    found, expected = ops.TABLE[name].function(*args, **kwargs), reference(name)(*args, **kwargs)
    assert same(found, expected, exact=is_exact(name))


@pytest.mark.parametrize(("name", "example"), CALLS)
def test_an_operation_changes_none_of_its_arguments(name: str, example: Call) -> None:
    args, kwargs = copy.deepcopy(example)
    ops.TABLE[name].function(*args, **kwargs)
    assert same(list(map(_loose, args)), list(map(_loose, example[0])))
    assert same(list(kwargs.values()), list(example[1].values()))


def _loose(value: Any) -> Any:
    if isinstance(value, slice):
        return (value.start, value.stop, value.step)
    return tuple(map(_loose, value)) if isinstance(value, tuple) else value  # a copy of a Size is a tuple


def is_exact(name: str) -> bool:
    return name not in LAPACK and not name.startswith("linalg.")


def as_nodes(value: Any) -> Any:
    """Tensors as the results of other nodes."""
    if isinstance(value, Tensor):
        return Node(0, "site", (), {})
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(map(as_nodes, value))
    return {key: as_nodes(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "example"), [call for call in CALLS if call.values[0] != "getitem"])
def test_the_schema_takes_every_example(name: str, example: Call) -> None:
    args, kwargs = example
    if any(isinstance(value, (torch.Size)) for value in args):
        args = (Node(0, "shape", (), {}), *args[1:])
    ops.check(name, as_nodes(args), as_nodes(kwargs))


# -- names ------------------------------------------------------------------------------------------------------------
METHOD_CALLS = [
    pytest.param(method, name, example, id=f"{method}-{number}")
    for method, name in ops.METHODS.items()
    for number, example in enumerate(examples_of(name))
    if example[0] and isinstance(example[0][0], Tensor) and not (method == "true_divide" and example[1])
]


@pytest.mark.parametrize(("method", "name", "example"), METHOD_CALLS)
def test_a_method_agrees_with_its_operation(method: str, name: str, example: Call) -> None:
    (value, *rest), kwargs = example
    found, expected = ops.TABLE[name].function(value, *rest, **kwargs), getattr(value, method)(*rest, **kwargs)
    assert same(found, expected, exact=is_exact(name))


def test_every_method_is_tried() -> None:
    assert {param.values[0] for param in METHOD_CALLS} == set(ops.METHODS)


@pytest.mark.parametrize("name", ops.PROPERTIES)
def test_a_property_agrees_with_its_operation(name: str) -> None:
    value = examples_of("imag" if name in ("real", "imag") else "T" if name in ("T", "H") else "mT")[0][0][0]
    assert same(getattr(value, name), ops.TABLE[ops.PROPERTIES[name]].function(value))


@pytest.mark.parametrize(
    ("method", "example"),
    [
        pytest.param(method, example, id=f"{method}-{number}")
        for method, name in ops.INPLACE.items()
        for number, example in enumerate(examples_of(name))
        if not (method == "true_divide_" and example[1])
    ],
)
def test_an_in_place_operation_gives_what_the_method_leaves(method: str, example: Call) -> None:
    (value, *rest), kwargs = example
    expected: Any = value.clone()
    try:
        getattr(expected, method)(*rest, **kwargs)
    except (RuntimeError, TypeError) as error:
        expected = type(error)
    operation = ops.TABLE[ops.INPLACE[method]].function
    if isinstance(expected, type):
        with pytest.raises(expected):
            operation(value, *rest, **kwargs)
    else:
        assert same(operation(value, *rest, **kwargs), expected)


@pytest.mark.parametrize("method", ops.INPLACE)
def test_every_in_place_operation_has_an_example_that_works(method: str) -> None:
    for (value, *rest), kwargs in examples_of(ops.INPLACE[method]):
        try:
            getattr(value.clone(), method)(*rest, **kwargs)
        except (RuntimeError, TypeError):
            continue
        return
    pytest.fail(f"no example of {method} can be run")


def test_writing_in_place_keeps_the_dtype_as_torch_does() -> None:
    half = torch.ones(2, 3, dtype=torch.float16)
    assert ops.TABLE["add_"].function(half, torch.ones(3)).dtype is torch.float16
    with pytest.raises(RuntimeError, match="result type"):
        ops.TABLE["add_"].function(torch.ones(3, dtype=torch.int64), 0.5)
    with pytest.raises(RuntimeError, match="shape"):
        ops.TABLE["add_"].function(torch.ones(3), torch.ones(2, 3))


@pytest.mark.parametrize("name", sorted(ops.VIEWS))
def test_a_view_is_a_view(name: str) -> None:
    for args, kwargs in examples_of(name):
        value = args[0].clone()
        result = ops.TABLE[name].function(value, *args[1:], **kwargs)
        if name in ops.PARTS:
            result = result[0]
        if value.is_contiguous():
            assert result.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
            result.zero_()
            assert (value == 0).any()


class Probe:
    """Notes what torch hands to `__torch_function__`."""

    seen: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> str:
        cls.seen = (function, args, kwargs or {})
        return "noted"


def _unprobed(value: Any) -> Any:
    if isinstance(value, Probe):
        return value.value
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(map(_unprobed, value))
    return value


def _probed(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Probe(value)
    return type(value)(map(_probed, value)) if type(value) in (tuple, list) else value


def _functions_of_torch(name: str) -> bool:
    module, _, function = name.rpartition(".")
    home = {"": torch, "F": torch.nn.functional, "linalg": torch.linalg, "fft": torch.fft, "special": torch.special}
    return callable(getattr(home[module], function, None)) and name not in ("dtype", "device", "size", "dim", "H")


@pytest.mark.parametrize(
    ("name", "example"),
    [
        call
        for call in CALLS
        if _functions_of_torch(call.values[0])
        and not call.values[0].endswith("_")
        and any(isinstance(value, (Tensor, tuple, list)) for value in call.values[1][0][:2])
    ],
)
def test_a_torch_function_of_a_proxy_is_found_and_can_be_recorded(name: str, example: Call) -> None:
    module, _, function = name.rpartition(".")
    home = {"": torch, "F": torch.nn.functional, "linalg": torch.linalg, "fft": torch.fft, "special": torch.special}
    args, kwargs = example
    called = getattr(home[module], function)
    Probe.seen = None
    try:
        expected = called(*args, **kwargs)
    except (TypeError, RuntimeError):
        return  # a form of the tensor's method, or of Python's operator, that the function does not take
    called(*(_probed(arg) for arg in args), **{key: _probed(value) for key, value in kwargs.items()})
    if Probe.seen is None:
        assert name in ("zeros", "ones", "full", "arange", "eye", "linspace")
        return
    seen, seen_args, seen_kwargs = Probe.seen
    found = ops.op_of(seen)
    assert found is not None, seen
    real_args, real_kwargs = _unprobed(seen_args), {key: _unprobed(value) for key, value in seen_kwargs.items()}
    ops.check(found, as_nodes(real_args), as_nodes(real_kwargs))
    assert same(ops.TABLE[found].function(*real_args, **real_kwargs), expected, exact=is_exact(name))


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/", "//", "%", "**", "@", "==", "!=", "<", "<=", "&", "|", "^"])
def test_a_tensor_before_a_proxy_is_found(symbol: str) -> None:
    dtype = torch.int64 if symbol in "&|^" else torch.float32
    left, right = torch.full((2, 2), 6, dtype=dtype), torch.full((2, 2), 4, dtype=dtype)
    Probe.seen = None
    eval(f"left {symbol} right", {"left": left, "right": Probe(right)})
    assert Probe.seen is not None
    seen, args, kwargs = Probe.seen
    found = ops.op_of(seen)
    assert found is not None
    value = ops.TABLE[found].function(*_unprobed(args), **kwargs)
    assert same(value, eval(f"left {symbol} right", {"left": left, "right": right}))


def test_suggestions_are_near() -> None:
    assert ops.suggestions("softmx")[0] == "softmax"
    assert ops.suggestions("meann")[0] == "mean"
    assert "add_" in ops.suggestions("add__")
    assert ops.suggestions("qqqqqqqq") == []
    assert ops.suggestions("x" * 100_000) == []


# -- what is not there ------------------------------------------------------------------------------------------------
FORBIDDEN = (
    "dropout", "rand", "randn", "bernoulli", "multinomial", "normal", "empty", "as_strided", "set_", "storage",
    "data_ptr", "numpy", "save", "load", "from_file", "apply", "map", "getattr", "setattr", "call", "eval", "exec",
    "requires_grad_", "detach_", "resize_", "share_memory_", "register_hook", "manual_seed", "set_grad_enabled",
    "no_grad", "compile", "from_numpy", "from_blob", "from_dlpack", "to_dlpack", "frombuffer", "cuda", "pin_memory",
    "record_stream", "new", "new_empty", "new_tensor", "data", "grad_fn", "backward", "random_", "normal_", "uniform_",
)  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_graph_must_never_do_has_no_operation(name: str) -> None:
    names = {op.rsplit(".", 1)[-1] for op in ops.TABLE} | set(ops.METHODS) | set(ops.PROPERTIES) | set(ops.INPLACE)
    assert name not in names


def test_no_name_is_private() -> None:
    everything = [*ops.TABLE, *ops.METHODS, *ops.PROPERTIES, *ops.INPLACE]
    assert not [name for name in everything if name.startswith("_") or "__" in name]


def test_no_builtin_that_reaches_further_is_in_the_table() -> None:
    dangerous = {getattr, setattr, delattr, vars, globals, locals, open, compile, __import__, eval, exec, type, print}
    assert not [name for name, op in ops.TABLE.items() if op.function in dangerous or inspect.isclass(op.function)]


@pytest.mark.parametrize("name", sorted(ops.REFUSED))
def test_what_is_refused_is_refused_with_a_reason(name: str) -> None:
    assert name not in {*ops.TABLE, *ops.METHODS, *ops.INPLACE}
    assert ops.refusal(name) != ""
    assert ops.refusal(f"F.{name}") == ops.refusal(name)


def test_the_table_cannot_be_changed() -> None:
    for mapping in (ops.TABLE, ops.METHODS, ops.PROPERTIES, ops.INPLACE, ops.REFUSED):
        with pytest.raises(TypeError):
            mapping["getattr"] = getattr  # type: ignore[index]
