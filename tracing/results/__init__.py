"""Typed results of methods, with named axes and units and a JSON + safetensors form. No torch here: numpy only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tracing.results.attention import Attention
from tracing.results.bars import Bars
from tracing.results.certificate import Certificate, Check
from tracing.results.curve import Curve, Series
from tracing.results.edges import EdgeScores
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
    """Read what any result's `to_files` wrote."""
    data = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
    return from_parts(data, load_file(f"{stem}.safetensors"))


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
