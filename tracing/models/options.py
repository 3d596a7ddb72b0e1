"""Keyword arguments of `model.trace` and `model.generate`: whose each one is, and an error for the rest."""

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tracing.errors import RecordError, RemoteError
from tracing.graph.arguments import plain, recorder_in
from tracing.graph.lines import user_line
from tracing.models.foreign import OPTIONS

if TYPE_CHECKING:
    from tracing.models.base import Model

OURS = ("remote", "validate", "timeout")


@dataclass(slots=True)
class Options:
    """Sorted keyword arguments."""

    validate: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    """Inputs of the one prompt, given by keyword (`input_ids=...`)."""
    forward: dict[str, Any] = field(default_factory=dict)
    """What the forward, or the generation, is called with besides."""


def check_options(model: "Model", mode: str, options: dict[str, Any]) -> Options:
    """Sort keyword arguments.

    Raises `TypeError`, with a suggestion, for one that nobody knows; `RemoteError` for `remote=True`, as no lab server
    is connected.
    """
    remote = options.pop("remote", False)
    timeout = options.pop("timeout", None)
    if remote:
        raise RemoteError(
            f"This trace asks to run remotely (at {user_line()}), but this installation is connected to no lab server.",
            remedy="Leave out remote=True to run it on this machine.",
        )
    if timeout is not None:
        raise TypeError(f"timeout= is of remote traces (at {user_line()}): a local trace has none.")
    sorted_options = Options(validate=bool(options.pop("validate", False)))
    inputs, known = model.input_names(), model.option_names(mode)
    for name, value in options.items():
        if name in inputs:
            sorted_options.inputs[name] = value
        elif (known is None and not difflib.get_close_matches(name, OURS, 1)) or name in (known or ()):
            sorted_options.forward[name] = value
        else:
            raise _unknown(model, mode, name, {*OURS, *inputs, *(known or ())})
    return sorted_options


def known_prompt(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A prompt with saved values as their tensors.

    Raises `RecordError` for one that is, or has in it, a value of a trace that has not run, `NotSavedError` for one
    of a trace that did not save it.
    """
    given = [*inputs, *kwargs.values()]
    if recorder_in(given) or recorder_in([one for value in given if isinstance(value, dict) for one in value.values()]):
        raise RecordError(
            f"A value of a trace cannot be a prompt (at {user_line()}): it is not known before its trace has run.",
            remedy="Save it there, and give it as a prompt after the block; in a session, after the session's block.",
        )
    return plain(inputs), plain(kwargs)


def _unknown(model: "Model", mode: str, name: str, known: set[str]) -> TypeError:
    call = "trace" if mode == "forward" else mode
    if mode == "forward" and name in (model.option_names("generate") or ()):
        return TypeError(
            f"{name}= is of generation, and model.trace runs one forward (at {user_line()}): use "
            f"model.generate(prompt, {name}=...)."
        )
    if name in OPTIONS:
        return TypeError(f"model.{call}() has no option {name!r} (at {user_line()}). {OPTIONS[name]}")
    near = difflib.get_close_matches(name, sorted(known), 2)
    hint = f" Did you mean {' or '.join(f'{one}=' for one in near)}?" if near else ""
    return TypeError(f"model.{call}() has no option {name!r} (at {user_line()}).{hint}")
