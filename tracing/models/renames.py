"""`rename=`: other names for submodules, `{"layers": "transformer.h"}`, or as nnsight has it the other way round."""

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from tracing.errors import ModelError


def resolved(rename: Any, module: nn.Module, hidden: Any) -> dict[str, str]:
    """The modules that new names stand for, by new name: paths from the root, or a name that holds at any level.

    Of an entry, one side is what the model has and the other the new name, whichever way round. `hidden` is the class
    of the wrapper, whose own attributes come before any submodule.
    Raises `TypeError` for what is no mapping of names, `ModelError` for an entry of which no side, or both, are known.
    """
    if rename is None:
        return {}
    if not isinstance(rename, Mapping) or not all(isinstance(name, str) for pair in rename.items() for name in pair):
        raise TypeError(f"rename={rename!r} is no mapping of names. Write rename={{'layers': 'transformer.h'}}.")
    paths = {path for path, _ in module.named_modules() if path}
    known = paths | {path.rpartition(".")[2] for path in paths}
    found = {}
    for key, value in rename.items():
        new, old = _sides(key.removeprefix("."), value.removeprefix("."), known)
        if "." in new or hasattr(hidden, new):
            why = "has a dot in it" if "." in new else f"is an attribute of {hidden.__name__}"
            raise ModelError(
                f"rename={{{key!r}: {value!r}}}: the new name {new!r} {why}.", remedy="Choose another, plain name."
            )
        found[new] = old
    return found


def _sides(key: str, value: str, known: set[str]) -> tuple[str, str]:
    """The new name and the known one of an entry."""
    if key in known and value in known:
        raise ModelError(
            f"rename={{{key!r}: {value!r}}}: the model has modules of both names, so it is not clear which is the new "
            "one.",
            remedy="Choose a new name that no module has.",
        )
    if value in known:
        return key, value
    if key in known:
        return value, key
    near = difflib.get_close_matches(value, known, 3) or difflib.get_close_matches(key, known, 3)
    raise ModelError(
        f"rename={{{key!r}: {value!r}}}: the model has no module {value!r}, and none {key!r} either.",
        remedy=(f"Near it: {', '.join(near)}. " if near else "")
        + "Give a new name and a path from the root, or one module's name: rename={'layers': 'transformer.h'}. "
        "print(model) shows the tree.",
    )
