"""What all results share: a JSON part, an array part, their files, and the checks of shapes and numbers.

A result is a frozen dataclass. Everything but its arrays is JSON (`data`), the arrays are named (`arrays`); the two
together are what a worker stores, what `to_files` writes, and what `from_parts` reads.
"""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tracing.errors import SpecError
from tracing.events import Axis, Quantity, Result, Tick
from tracing.results.files import read_files

Array = NDArray[Any]


class TypedResult(ABC):
    """Base of the results: `name`, `title` and `facts` are there in each."""

    __slots__ = ()

    FORMAT: ClassVar[str]
    """`type/version`, as stored in the JSON part and beside the arrays."""

    name: str
    title: str
    facts: dict[str, Any]

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The fields of the JSON part that only this type has."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The safetensors part, by name; empty where a type has no arrays."""

    @classmethod
    @abstractmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """The result from parts whose format was checked."""

    @abstractmethod
    def to_csv(self) -> str:
        """The numbers as a table with a header line; numbers that do not exist are empty fields."""

    def data(self) -> dict[str, Any]:
        """The JSON part: everything but the arrays."""
        return {"format": self.FORMAT, "name": self.name, "title": self.title, **self.parts(), "facts": self.facts}

    def result(self, summary: Mapping[str, Any]) -> Result:
        """This result as the event that a worker stores; `summary` holds a few numbers for the history table."""
        return Result(self.name, self.FORMAT, self.data(), self.arrays(), dict(summary))

    def to_files(self, stem: str | Path) -> None:
        """Write `<stem>.json` and `<stem>.safetensors`. Raises `ValueError` where the facts are not JSON."""
        text = json_text(self.data())
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        save_file(arrays, f"{stem}.safetensors", metadata={"format": self.FORMAT})
        Path(f"{stem}.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_files(cls, stem: str | Path) -> Self:
        """Read what `to_files` wrote. Raises `ValueError` for another format, `SpecError` for broken files."""
        return cls.from_parts(*read_files(stem, load_file, SpecError, "to_files"))

    @classmethod
    def from_parts(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """The result of a JSON part and its arrays. Raises `ValueError` for another format or missing parts."""
        if data.get("format") != cls.FORMAT:
            raise ValueError(f"This is not a {cls.FORMAT} file: it says {data.get('format')!r}.")
        try:
            return cls.build(data, arrays)
        except KeyError as error:
            raise ValueError(f"This {cls.FORMAT} has no {error.args[0]!r}.") from None


def json_text(data: Mapping[str, Any]) -> str:
    """JSON without NaN or infinity, which browsers refuse. Raises `ValueError` where there is one."""
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The facts of {data.get('name')!r} are not JSON ({error}). Numbers must be finite; use None for none."
        ) from None


def require_shape(what: str, array: Array, shape: Sequence[int], axes: str) -> None:
    """Raises `ValueError` that names the array, its shape, and the axes it should have."""
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{what} is {_sizes(array.shape)}; it must be [{axes}] = {_sizes(shape)}.")


def require_planes(
    what: str, planes: Mapping[str, Array], quantities: Sequence[Quantity], shape: Sequence[int], axes: str
) -> None:
    """One array a quantity, each of that shape. Raises `ValueError` that names what is missing, spare or misshapen."""
    keys = [quantity.key for quantity in quantities]
    if not keys:
        raise ValueError(f"A result needs at least one quantity for its {what}.")
    if len(set(keys)) != len(keys) or set(keys) != set(planes):
        raise ValueError(f"The quantities are {', '.join(keys)}, but the {what} are {', '.join(planes) or 'none'}.")
    for key, plane in planes.items():
        require_shape(f"{what}[{key!r}]", plane, shape, axes)
        require_floats(f"{what}[{key!r}]", plane)


def require_floats(what: str, array: Array) -> None:
    """Raises `ValueError` unless the array is float32 or float64: other types do not survive the file and the wire."""
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{what} is {array.dtype}; it must be float32 or float64.")


def require_names(what: str, names: Sequence[str]) -> None:
    """Raises `ValueError` where a name occurs twice."""
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(f"The {what} name {twice!r} twice.")


def axis_from(data: Mapping[str, Any]) -> Axis:
    """An axis from its JSON form."""
    return Axis(data["name"], data["title"], tuple(Tick(**tick) for tick in data["ticks"]))


def quantity_from(data: Mapping[str, Any]) -> Quantity:
    """A quantity from its JSON form."""
    return Quantity(**{**data, "domain": tuple(data["domain"])})


def quantities_from(data: Iterable[Mapping[str, Any]]) -> tuple[Quantity, ...]:
    """Several quantities from their JSON form."""
    return tuple(quantity_from(quantity) for quantity in data)


def quantities_json(quantities: Iterable[Quantity]) -> list[dict[str, Any]]:
    """Quantities in JSON form; the domain is a list there, so that data equals what a file gives back."""
    return [{**asdict(quantity), "domain": list(quantity.domain)} for quantity in quantities]


def axis_json(axis: Axis) -> dict[str, Any]:
    """An axis in JSON form."""
    return {"name": axis.name, "title": axis.title, "ticks": [asdict(tick) for tick in axis.ticks]}


def named(prefix: str, planes: Mapping[str, Array] | None) -> dict[str, Array]:
    """`{"recovery": …}` as `{"planes.recovery": …}`, the way arrays are named in the array part."""
    return {f"{prefix}.{key}": np.ascontiguousarray(values) for key, values in (planes or {}).items()}


def unnamed(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The reverse of `named`."""
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """CSV text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return out.getvalue()


def number(value: Any) -> str:
    """Nine significant digits, which is all of a float32; nothing for NaN and None."""
    return "" if value is None or np.isnan(value) else f"{float(value):.9g}"


def _sizes(shape: Sequence[int]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
