"""Runs blocks of Python one after another in one namespace, each from a real file, and returns what a user would see.

A block's line numbers are its own, so an error points into the block as it stands on the page. Warnings and the last
lines of an expected error are part of the output; library frames are left out of a traceback.
"""

import contextlib
import importlib.machinery
import io
import os
import re
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class PageError(Exception):
    """A block did not do what its page says."""


class Session:
    """One namespace in a folder of its own; `run` executes a block in it."""

    def __init__(self, name: str) -> None:
        """`name` is the file name that tracebacks show, such as `tutorial.py`."""
        self.name = name
        self.module = types.ModuleType("__page__")
        self._count = 0
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, source: str, *, raises: str = "") -> str:
        """Everything the block prints, warnings included; with `raises`, then the error it must end with.

        Raises `PageError` where a block fails that should not, or does not fail as announced.
        """
        root = Path(self._folder.name).resolve()
        self._count += 1
        file = root / "blocks" / str(self._count) / self.name
        file.parent.mkdir(parents=True)
        file.write_text(source, encoding="utf-8")
        printed, error = io.StringIO(), None
        with _inside(root), _shown_warnings(file, printed), contextlib.redirect_stdout(printed):
            try:
                importlib.machinery.SourceFileLoader("__page__", str(file)).exec_module(self.module)
            except Exception as caught:  # noqa: BLE001 (whatever a snippet raises is what the page is about)
                error = caught
        text = printed.getvalue()
        if error is not None:
            text += _as_seen(error, file)
        text = text.replace(f"{file.parent}{os.sep}", "").replace(f"{root}{os.sep}", "")
        if (error is None) != (not raises) or (error is not None and type(error).__name__.lstrip("_") != raises):
            expected = raises or "no error"
            raise PageError(f"{self.name}, block {self._count}: expected {expected}, got:\n{text}\n{source}")
        return text


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        os.chdir(before)


@contextlib.contextmanager
def _shown_warnings(file: Path, stream: io.StringIO) -> Iterator[None]:
    """Print the warnings that point into the block, and no others."""

    def show(message: Any, category: Any, filename: str, lineno: int, file_: Any = None, line: Any = None) -> None:
        if filename == str(file):
            stream.write(f"{file.name}:{lineno}: {category.__name__}: {message}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setattr(warnings, "showwarning", show)  # noqa: B010 (mypy knows other parameter names)
        yield


def _as_seen(error: Exception, file: Path) -> str:
    """The traceback as Python prints it, without the frames of libraries."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if frame.filename == str(file)])
    shown.__cause__ = shown.__context__ = None
    return "".join(shown.format())


def same(one: str, other: str) -> bool:
    """Whether two outputs agree, where numbers may differ by one in the last place shown: CPUs round differently."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    return all(_near(a, b) for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True))


def _near(one: str, other: str) -> bool:
    if one == other:
        return True
    if "." not in one or "." not in other:
        return False
    digits = min(len(text.partition(".")[2].partition("e")[0]) for text in (one, other))
    exponent = int(one.partition("e")[2] or 0)
    return abs(float(one) - float(other)) <= 1.5 * 10.0 ** (exponent - digits)
