"""Steps from a site's value to the part a proxy stands for: `get` reads the part, `put` gives a changed whole.

A step is plain data, a tuple whose first element names it:

    ("index", i)                  x[i]: an item of a tuple, list, dict or model output, or an index of a tensor
    ("field", name)               a field of a model output
    ("main",)                     the tensor itself, or the first item where a module returns a tuple
    ("first",)                    the first argument of (positional, keyword)
    ("args",)                     the positional arguments of it
    ("logits",)                   the logits of a model's output
    ("view", op, args, kwargs)    an operation that views a tensor: transpose, unflatten, …
    ("heads…", …)                 the heads of a projection's output; see `tracing.graph.heads`

`put` never changes what it is given: tensors are copied, the copy is written to, and structures are built anew.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tracing.graph.heads import HEADS, get_heads, put_heads
from tracing.graph.ops import PARTS, TABLE

Step = tuple[Any, ...]
Steps = tuple[Step, ...]

SAME_FOR_TENSORS = frozenset({"main", "logits"})
"""Steps that lead from a tensor to itself."""

FIRST_NAMES = ("hidden_states", "input_ids", "inputs_embeds", "pixel_values", "input", "x")
"""Names of the main argument, where a module is called with keywords only."""


def get(value: Any, steps: Steps) -> Any:
    """The part of `value` that the steps lead to; of a tensor, a view wherever the steps are views."""
    for step in steps:
        value = _GETTERS[step[0]](value, step)
    return value


def put(value: Any, steps: Steps, new: Any, *, owned: bool = False) -> Any:
    """`value` with the part at `steps` replaced by `new`; `owned` tensors may be changed themselves."""
    if isinstance(value, Tensor):
        while steps and steps[0][0] in SAME_FOR_TENSORS:
            steps = steps[1:]
        return _put_tensor(value, steps, new, owned) if steps else _replaced(value, new)
    if not steps:
        return _replaced(value, new)
    step = steps[0]
    if step[0] == "args" and len(steps) == 1:  # positional arguments, of which there may be more or fewer
        return _set_args(value, step, new)
    if step[0] not in _SETTERS:
        raise TypeError(f"a {type(value).__name__} lies there, not a tensor: index it first")
    return _SETTERS[step[0]](value, step, put(_GETTERS[step[0]](value, step), steps[1:], new))


def _replaced(old: Any, new: Any) -> Any:
    if isinstance(old, tuple) and (
        isinstance(new, Tensor) or (isinstance(new, (tuple, list)) and len(new) != len(old))
    ):
        raise TypeError(
            f"the module returns a tuple of {len(old)}, so give a tuple of {len(old)}"
            + ("" if isinstance(new, Tensor) else f" instead of {len(new)}")
            + ", or write to its first item (module.output[0][:] = value)"
        )
    if isinstance(old, Tensor) and not isinstance(new, Tensor):
        if isinstance(new, (bool, int, float, complex)):
            return torch.full_like(old, new)
        raise TypeError(f"a tensor was expected in place of one of shape {tuple(old.shape)}, not {type(new).__name__}")
    if isinstance(old, Tensor) and old.shape != new.shape:
        raise ValueError(
            f"the new value has shape {tuple(new.shape)}, but the site has {tuple(old.shape)}: assign to a part of it "
            "(site[...] = value), or give a value of its shape"
        )
    # As an in-place write would: a patch from another precision or device fits itself to the site.
    return new.to(device=old.device, dtype=old.dtype) if isinstance(old, Tensor) else new


def _put_tensor(value: Tensor, steps: Steps, new: Any, owned: bool) -> Tensor:
    """Copy, walk the views of the copy, write through the last one."""
    whole = value if owned else value.clone()
    view: Any = whole
    for number, step in enumerate(steps[:-1]):
        inner = _GETTERS[step[0]](view, step)
        if _is_parts(step) or _is_parts(steps[number - 1] if number else ()):
            view = inner
            continue
        if not _shares(inner, view):  # a step that copies: write into the copy, then put the copy back
            part = _put_tensor(inner, steps[number + 1 :], new, owned=True)
            _write_back(view, step, part)
            return whole
        view = inner
    _write_back(view, steps[-1], new)
    return whole


def _is_parts(step: Step) -> bool:
    """Whether a step gives a tuple of views, such as split."""
    return step[:1] == ("view",) and step[1] in PARTS


def _write_back(view: Any, step: Step, new: Any) -> None:
    if isinstance(view, tuple) or _is_parts(step):
        if step[0] != "index" or type(step[1]) is not int:
            raise TypeError(f"of the parts of a {step[1]}, one can be written: parts[0][:] = value")
        view[step[1]][:] = new
    elif step[0] == "index":
        view[step[1]] = new
    elif step[0] in HEADS:
        put_heads(view, step, new)
    else:
        target = _GETTERS[step[0]](view, step)
        if not _shares(target, view):
            raise ValueError(f"{step[1]} copies here, so that a write to its result would not reach the model")
        target.copy_(_as_tensor(new, view))


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _shares(part: Any, whole: Tensor) -> bool:
    """Whether `part` lies in the memory of `whole` (views are not tracked in inference mode, storages are)."""
    if not isinstance(part, Tensor):
        return False
    return part is whole or part.untyped_storage()._cdata == whole.untyped_storage()._cdata


# -- steps ------------------------------------------------------------------------------------------------------------
def _index(value: Any, step: Step) -> Any:
    return value[step[1]]


def _set_index(value: Any, step: Step, new: Any) -> Any:
    key = step[1]
    if isinstance(value, tuple):
        items = list(value)
        items[key] = new
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    changed = copy.copy(value)
    if isinstance(changed, Mapping) and isinstance(key, int):  # a model output indexed like a tuple
        key = list(changed)[key]
    changed[key] = new
    return changed


def _field(value: Any, step: Step) -> Any:
    found = getattr(value, step[1], None)
    if found is None:
        asked = f"; ask for it with {_ASKED[step[1]]}" if step[1] in _ASKED else ""
        raise AttributeError(f"the output has no field {step[1]!r}: {_fields(value)}{asked}")
    return found


_ASKED = {
    "past_key_values": "use_cache=True",
    "cache_params": "use_cache=True",
    "hidden_states": "output_hidden_states=True",
    "attentions": "output_attentions=True",
    "loss": "labels=…",
}
"""Keyword arguments of a forward that make it return more."""


def _fields(value: Any) -> str:
    return f"it has {', '.join(value)}" if isinstance(value, Mapping) else f"it is a {type(value).__name__}"


def _set_field(value: Any, step: Step, new: Any) -> Any:
    changed = copy.copy(value)
    changed[step[1]] = new
    return changed


def _main(value: Any, step: Step) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value


def _set_main(value: Any, step: Step, new: Any) -> Any:
    return (new, *value[1:]) if isinstance(value, (tuple, list)) else new


def first_name(kwargs: Mapping[str, Any]) -> str:
    """The keyword of a module's main argument."""
    for name in FIRST_NAMES:
        if name in kwargs:
            return name
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            return name
    raise AttributeError("the module is called without a tensor: use .inputs")


def _first(value: Any, step: Step) -> Any:
    args, kwargs = value
    return args[0] if args else kwargs[first_name(kwargs)]


def _set_first(value: Any, step: Step, new: Any) -> Any:
    args, kwargs = value
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, first_name(kwargs): new})


def _args(value: Any, step: Step) -> Any:
    return value[0] or (_first(value, step),)


def _set_args(value: Any, step: Step, new: Any) -> Any:
    args, kwargs = value
    return (tuple(new), kwargs) if args else _set_first(value, step, new[0])


def _logits(value: Any, step: Step) -> Any:
    found = getattr(value, "logits", None)
    return value if found is None else found


def _set_logits(value: Any, step: Step, new: Any) -> Any:
    if getattr(value, "logits", None) is None:
        return new
    return _set_field(value, ("field", "logits"), new)


def _view(value: Any, step: Step) -> Any:
    if isinstance(value, (tuple, list, Mapping)):
        raise TypeError(f"a {type(value).__name__} lies there, not a tensor: index it before {step[1]}")
    return TABLE[step[1]].function(value, *step[2], **step[3])


_GETTERS: dict[str, Callable[[Any, Step], Any]] = {
    "index": _index,
    "field": _field,
    "main": _main,
    "first": _first,
    "args": _args,
    "logits": _logits,
    "view": _view,
    **dict.fromkeys(HEADS, get_heads),
}
_SETTERS: dict[str, Callable[[Any, Step, Any], Any]] = {
    "index": _set_index,
    "field": _set_field,
    "main": _set_main,
    "first": _set_first,
    "args": _set_args,
    "logits": _set_logits,
}
