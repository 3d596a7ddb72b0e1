"""Typed results of methods, with named axes and units and a JSON + safetensors form. No torch here: numpy only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tracing.errors import SpecError
from tracing.results.attention import Attention
from tracing.results.bars import Bars
from tracing.results.certificate import Certificate, Check
from tracing.results.curve import Curve, Series
from tracing.results.edges import EdgeScores
from tracing.results.files import read_files
from tracing.results.grid import Grid
from tracing.results.parts import Array, TypedResult
from tracing.results.text import Text, TextEntry
from tracing.results.token_table import TokenTable

TYPES: dict[str, type[TypedResult]] = {
    kind.FORMAT: kind for kind in (Grid, Bars, Curve, TokenTable, Attention, EdgeScores, Text, Certificate)
}
"""The types by the format their files name."""


def from_parts(data: Mapping[str, Any], arrays: Mapping[str, Array]) -> TypedResult:
    """The result of whichever type a JSON part names. Raises `ValueError` for an unknown one, or parts that misfit."""
    kind = TYPES.get(str(data.get("format")))
    if kind is None:
        raise ValueError(f"No result type is named {data.get('format')!r}. Known types: {', '.join(TYPES)}.")
    return kind.from_parts(data, arrays)


def from_files(stem: str | Path) -> TypedResult:
    """Read what any result's `to_files` wrote. Raises as `from_parts`, and `SpecError` for a missing or broken file."""
    return from_parts(*read_files(stem, load_file, SpecError, "to_files"))


__all__ = [
    "TYPES",
    "Attention",
    "Bars",
    "Certificate",
    "Check",
    "Curve",
    "EdgeScores",
    "Grid",
    "Series",
    "Text",
    "TextEntry",
    "TokenTable",
    "TypedResult",
    "from_files",
    "from_parts",
]
