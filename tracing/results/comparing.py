"""Whether results are those of another computation: number by number, at a stated tolerance.

A result is packed into JSON (numbers as base64 of their bytes; of large arrays an even sample) so that it can travel in
a notebook, and compared with what was computed there. Two numbers agree where they differ by at most the tolerance
times the largest absolute number of their array.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tracing.results.parts import Array, TypedResult

MAX_PACKED: Final = 20_000
"""Numbers kept of one array; a larger one is sampled evenly."""
TOLERANCES: Final = {"float64": 1e-7, "float32": 2e-3, "bfloat16": 0.1, "float16": 0.05}
"""By the precision a run computed in. They leave room for other kernels and thread counts, not for other weights."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one array, or the texts, of one result compare: `worst` is the largest difference over the largest number."""

    result: str
    part: str
    numbers: int
    worst: float
    agrees: bool
    note: str = ""

    def __str__(self) -> str:
        word = "agrees" if self.agrees else "DIFFERS"
        amount = f"{self.numbers} numbers, largest difference {self.worst:.1e} of the largest number"
        return f"{self.result} · {self.part}: {word} ({self.note or amount})"


def pack(result: TypedResult) -> dict[str, Any]:
    """What `compare` needs of a result, as JSON."""
    return {
        "format": result.FORMAT,
        "arrays": {name: _pack(array) for name, array in result.arrays().items()},
        "texts": _texts(result.data()),
    }


def compare(
    results: Mapping[str, TypedResult], stored: Mapping[str, Mapping[str, Any]], tolerance: float
) -> list[Comparison]:
    """One line an array, and one for the texts, of every stored result. A result that is missing differs."""
    lines: list[Comparison] = []
    for name, packed in stored.items():
        result = results.get(name)
        if result is None:
            lines.append(Comparison(name, "", 0, np.inf, agrees=False, note="it was not computed"))
            continue
        arrays = result.arrays()
        lines += [_compared(name, part, arrays.get(part), kept, tolerance) for part, kept in packed["arrays"].items()]
        lines.append(_compared_texts(name, _texts(result.data()), packed["texts"], tolerance))
    return lines


def _pack(array: Array) -> dict[str, Any]:
    flat = np.ascontiguousarray(array).ravel()
    if flat.size > MAX_PACKED:
        flat = flat[_sample(flat.size)]
    little = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "base64": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def _sample(size: int) -> Array:
    return np.linspace(0, size - 1, MAX_PACKED).round().astype(np.int64)


def _compared(result: str, part: str, array: Array | None, kept: Mapping[str, Any], tolerance: float) -> Comparison:
    if array is None or list(array.shape) != kept["shape"]:
        shape = None if array is None else list(array.shape)
        return Comparison(result, part, 0, np.inf, agrees=False, note=f"its shape is {shape}, not {kept['shape']}")
    dtype = np.dtype(kept["dtype"]).newbyteorder("<")
    before = np.frombuffer(base64.b64decode(kept["base64"]), dtype=dtype).astype(np.float64)
    flat = np.ascontiguousarray(array).ravel()
    now = (flat[_sample(flat.size)] if flat.size > MAX_PACKED else flat).astype(np.float64)
    return _judged(result, part, now, before, tolerance)


def _judged(result: str, part: str, now: Array, before: Array, tolerance: float) -> Comparison:
    if not before.size:
        return Comparison(result, part, 0, 0.0, agrees=True)
    finite = np.isfinite(before)
    if not np.array_equal(finite, np.isfinite(now)):
        return Comparison(result, part, before.size, np.inf, agrees=False, note="other cells have no number")
    scale = float(np.abs(before[finite]).max(initial=0.0)) or 1.0
    worst = float(np.abs(now[finite] - before[finite]).max(initial=0.0)) / scale
    return Comparison(result, part, before.size, worst, agrees=worst <= tolerance)


def _texts(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says beside its arrays: the checks of a certificate, the texts and tokens of the others."""
    kept = {key: data[key] for key in ("sources", "readers", "entries") if key in data}
    if "checks" in data:
        kept["checks"] = [[check["name"], check["value"], check["passed"]] for check in data["checks"]]
    return kept


def _compared_texts(result: str, now: Mapping[str, Any], before: Mapping[str, Any], tolerance: float) -> Comparison:
    same = {key: value for key, value in now.items() if key != "checks"} == {
        key: value for key, value in before.items() if key != "checks"
    }
    if not same:
        return Comparison(result, "texts", 0, np.inf, agrees=False, note="other texts")
    ours, theirs = now.get("checks", []), before.get("checks", [])
    if [(name, passed) for name, _, passed in ours] != [(name, passed) for name, _, passed in theirs]:
        return Comparison(result, "checks", 0, np.inf, agrees=False, note="other checks passed")
    numbers = [np.array([np.nan if value is None else value for _, value, _ in rows]) for rows in (ours, theirs)]
    # Each check has a scale of its own, and most are small beside 1.
    worst = float(np.nanmax(np.abs(numbers[0] - numbers[1]) / np.maximum(1.0, np.abs(numbers[1])), initial=0.0))
    return Comparison(result, "texts", len(theirs), worst, agrees=worst <= tolerance)
