"""The two files of a stored object: `<stem>.json` and `<stem>.safetensors`, read with a word for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from tracing.errors import TracingError

A = TypeVar("A")


def read_files(
    stem: str | Path, load: Callable[[str], A], error: type[TracingError], made_by: str
) -> tuple[dict[str, Any], A]:
    """The JSON object and the arrays that `load` reads. Raises `error` for a file that is missing or damaged.

    `made_by` is the function that writes such files, for the remedy.
    """
    remedy = f"Give the stem, without an ending, that {made_by} was given."
    path = Path(f"{stem}.json")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise error(f"{path.name} holds no JSON object.", remedy=remedy)
        path = Path(f"{stem}.safetensors")
        return data, load(str(path))
    except OSError as problem:
        why = "There is no file" if isinstance(problem, FileNotFoundError) else "This file cannot be read:"
        raise error(f"{why} {path.name}.", remedy=remedy, where={"file": path.name}) from problem
    except (UnicodeDecodeError, json.JSONDecodeError, SafetensorError) as problem:
        raise error(
            f"{path.name} is damaged: {problem}.", remedy=f"Write it again with {made_by}.", where={"file": path.name}
        ) from problem
