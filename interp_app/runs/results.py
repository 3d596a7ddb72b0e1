"""Typed results of a run as people read them: which there are, one of them as JSON, and as a table.

A result is an artifact (see `tracing.results`). Its JSON part and its small arrays are read without loading the large
ones: those are for `safetensors` readers, which fetch the file itself.
"""

import math
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from safetensors import SafetensorError, safe_open

from interp_app.core.errors import ServiceError, not_found
from interp_app.runs import artifacts
from interp_app.runs.models import Run, RunEvent
from tracing import results
from tracing.results import TypedResult

INLINE_NUMBERS: Final = 200_000
"""An array with more numbers is not part of the JSON."""
INLINE_TOTAL: Final = 500_000
"""Nor are those that would make all arrays together have more than this."""
TABLE_NUMBERS: Final = 2_000_000
"""A result with more numbers is no CSV."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result a run has told of; `payload` is that of its event."""

    seq: int
    payload: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.payload["name"])

    @property
    def sha256(self) -> str:
        return str(self.payload["artifact"]["sha256"])

    @property
    def numbers(self) -> int | None:
        """How many numbers its arrays have; None where an older version stored it."""
        return self.payload.get("numbers")


def results_of(run: Run) -> list[StoredResult]:
    """The results of the run (of the one it was answered from, if any) in the order in which it told them. One query.

    Where an earlier attempt told of one of the same name, the newest counts.
    """
    rows = RunEvent.objects.filter(run_id=run.source_id, kind="result").order_by("seq")
    found: dict[str, StoredResult] = {}
    for seq, payload in rows.values_list("seq", "payload"):
        found.pop(payload["name"], None)
        found[payload["name"]] = StoredResult(seq, payload)
    return list(found.values())


def result_named(run: Run, name: str) -> StoredResult:
    """One result. Raises `ServiceError` 404."""
    for found in results_of(run):
        if found.name == name:
            return found
    raise not_found("result")


def shape(run: Run, found: StoredResult) -> dict[str, Any]:
    """A result in a list: what it is and where to fetch it."""
    at = f"/api/v1/runs/{run.pk}"
    name = quote(found.name, safe="")
    file = found.payload["artifact"]
    return {
        "name": found.name,
        "type": found.payload["type"],
        "title": found.payload.get("title", found.name),
        "seq": found.seq,
        "summary": found.payload.get("summary", {}),
        "numbers": found.numbers,
        "url": f"{at}/results/{name}/",
        "csv": f"{at}/results/{name}.csv",
        "artifact": {**file, "url": f"{at}/artifacts/{file['name']}"},
    }


def as_json(found: StoredResult) -> dict[str, Any]:
    """The JSON part, and the arrays that are small enough as nested lists with null where there is no number.

    Raises `ServiceError` 410 where the file is gone or damaged.
    """
    data, shapes, arrays = read(found, at_most=INLINE_NUMBERS, together=INLINE_TOTAL)
    return {
        "name": found.name,
        "type": found.payload["type"],
        "title": found.payload.get("title", found.name),
        "sha256": found.sha256,
        "data": data,
        "arrays": {name: plain_numbers(array) for name, array in arrays.items()},
        "shapes": {name: list(sizes) for name, sizes in shapes.items()},
        "left_out": [name for name in shapes if name not in arrays],
    }


def typed(found: StoredResult, *, at_most: int | None = None) -> TypedResult:
    """The result with all its arrays.

    Raises `ServiceError` 413 where they have more than `at_most` (else `TABLE_NUMBERS`) numbers, 410.
    """
    at_most = at_most or TABLE_NUMBERS
    data, shapes, arrays = read(found, at_most=at_most, together=at_most)
    if len(arrays) < len(shapes):
        raise ServiceError(
            "result_too_large",
            f"The result {found.name!r} has more than {at_most:,} numbers.",
            f"Fetch its file {found.payload['artifact']['name']} instead (safetensors).",
            status=413,
        )
    return results.from_parts(data, arrays)


def read(
    found: StoredResult, *, at_most: int, together: int
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], dict[str, Any]]:
    """The JSON part, the shape of every array, and the arrays of at most `at_most` numbers, while `together` holds."""
    try:
        with safe_open(artifacts.path_of(found.sha256), framework="numpy") as file:
            # The order of the names is the file's own; sorted, what is left out does not depend on it.
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
            arrays, total = {}, 0
            for name, sizes in sorted(shapes.items(), key=lambda one: math.prod(one[1])):
                numbers = math.prod(sizes)
                if numbers <= at_most and total + numbers <= together:
                    arrays[name] = file.get_tensor(name)
                    total += numbers
            stored: dict[str, Any] = artifacts.metadata(file.metadata())
    except (OSError, SafetensorError):
        message = f"The file of the result {found.name!r} is missing from the lab's storage, or damaged."
        raise ServiceError("artifact_missing", message, "Run the experiment again.", status=410) from None
    return stored["data"], shapes, arrays


def plain_numbers(array: Any) -> Any:
    """Nested lists; null for NaN and infinities, which JSON does not have."""
    if array.dtype.kind != "f":
        return array.tolist()
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()
