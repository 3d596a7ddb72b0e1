"""A run as a notebook that computes it again outside the dashboard and compares with what was stored.

Its cells: 1. what it is, 2. the model, as its reader has it, with the hashes of its weights, 3. the prompt pairs,
4. the call of the library (`Method.call`), 5. figures, where matplotlib is there, else tables, 6. the comparison at a
stated tolerance. Nothing is installed, nothing is fetched but what the reader names.
"""

import json
import pprint
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tracing import ENGINE, __version__
from tracing.experiments.notebook_cells import CHECK_WEIGHTS, SHOW
from tracing.experiments.registry import Method, MethodSpec
from tracing.prompts import PromptPair
from tracing.results import TypedResult
from tracing.results.comparing import TOLERANCES, pack

NBFORMAT: Final = 4
KERNEL: Final = {"display_name": "Python 3", "language": "python", "name": "python3"}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The model a run was on: how people call it, where its reader may find it, and the hashes of its weight files.

    `where` is a Python expression of a folder or hub name, e.g. `"gpt2"`; it must need no import but `tracing.demo`.
    """

    title: str
    where: str
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    revision: str = ""


def notebook(
    method: Method,
    spec: MethodSpec,
    model_source: ModelSource,
    pairs: Sequence[PromptPair],
    stored: Mapping[str, TypedResult],
    *,
    title: str = "",
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The notebook as nbformat-4 JSON. `facts` are a few lines about the run (its address, when, on what)."""
    tolerance = TOLERANCES[model_source.dtype]
    packed = {name: pack(result) for name, result in stored.items()}
    cells = [
        _markdown(_introduction(method, model_source, pairs, title, facts or {})),
        _code(_model_cell(model_source)),
        _code(_pairs_cell(pairs)),
        _markdown(f"## {method.title}\n\n{method.summary}\n\nParameters: `{spec.model_dump_json()}`"),
        _code(f"import torch\n\ntorch.manual_seed({spec.seed})\n\n{method.call(spec).strip()}"),
        _code(SHOW),
        _markdown(
            "## The stored numbers\n\n"
            f"Each number may differ from the stored one by {tolerance:g} of the largest of its array: the run "
            f"computed in {model_source.dtype}, and other machines add in another order."
        ),
        _code(_compare_cell(packed, tolerance)),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return {
        "cells": cells,
        "metadata": {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": NBFORMAT,
        "nbformat_minor": 5,
    }


def code_of(found: Mapping[str, Any]) -> str:
    """The code cells of a notebook as one script."""
    return "\n\n".join("".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == "code")


def _introduction(
    method: Method, source: ModelSource, pairs: Sequence[PromptPair], title: str, facts: Mapping[str, Any]
) -> str:
    lines = [
        f"# {title or method.title}",
        f"{method.title} on {source.title}, {len(pairs)} prompt pair{'s' if len(pairs) != 1 else ''}. "
        f"Written by Patchbay {__version__} (engine {ENGINE}); it needs Patchbay's package `tracing`, and the model.",
        *(f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")),
    ]
    return "\n\n".join(lines[:2]) + ("\n\n" + "\n".join(lines[2:]) if lines[2:] else "")


def _model_cell(source: ModelSource) -> str:
    demo = "from tracing.demo import MODEL_DIR\n" if "MODEL_DIR" in source.where else ""
    hashes = _literal(dict(source.weights_sha256))
    revision = f"  # revision {source.revision}" if source.revision else ""
    return (
        "import os\n\n"
        "from tracing import LanguageModel\n"
        f"{demo}\n"
        f"# {source.title}: the folder that holds it, or its name on the Hugging Face hub.{revision}\n"
        f'MODEL = os.environ.get("PATCHBAY_MODEL") or {source.where}\n'
        f"WEIGHTS_SHA256 = {hashes}\n\n"
        f"{CHECK_WEIGHTS}\n\n"
        "check_weights(MODEL, WEIGHTS_SHA256)\n"
        f"model = LanguageModel(MODEL, dtype={source.dtype!r})"
    )


def _pairs_cell(pairs: Sequence[PromptPair]) -> str:
    rows = [pair.model_dump(mode="json", exclude_defaults=True) for pair in pairs]
    return (
        "from tracing.prompts import PromptPair\n\n"
        f"ROWS = {_literal(rows)}\n"
        "pairs = [PromptPair.model_validate(row) for row in ROWS]"
    )


def _compare_cell(packed: Mapping[str, Any], tolerance: float) -> str:
    return (
        "import json\n\n"
        "from tracing.results.comparing import compare\n\n"
        f"STORED = json.loads({json.dumps(packed)!r})\n"
        f"comparisons = compare(results, STORED, tolerance={tolerance!r})\n"
        "for line in comparisons:\n"
        "    print(line)\n"
        'assert all(line.agrees for line in comparisons), "These are not the numbers that were stored."'
    )


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=110, sort_dicts=False)


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(text)}


def _code(text: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": _lines(text)}


def _lines(text: str) -> list[str]:
    return text.strip().splitlines(keepends=True)
