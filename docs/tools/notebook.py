"""Runs the cells of docs/notebooks/demo.ipynb in order and stores what they show, without kernel, paths or times.

The notebook is plain nbformat 4.5 JSON. A cell's output is what it prints and what its last expression shows: its
`repr`, and HTML where it has `_repr_html_`.
"""

import ast
import json
from pathlib import Path
from typing import Any, Final

from docs.tools.running import NUMBER, Session, same

NOTEBOOK: Final = Path(__file__).resolve().parents[1] / "notebooks" / "demo.ipynb"
LAST: Final = "_last_value_of_the_cell"


def read(path: Path = NOTEBOOK) -> dict[str, Any]:
    """The notebook as data."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def source(cell: dict[str, Any]) -> str:
    """A cell's text."""
    return "".join(cell["source"])


def shown(cell: dict[str, Any]) -> str:
    """All text below a cell."""
    texts = [out["text"] if out["output_type"] == "stream" else out["data"]["text/plain"] for out in cell["outputs"]]
    return "\n".join("".join(text).rstrip("\n") for text in texts)


def html(cell: dict[str, Any]) -> str:
    """What a cell shows as HTML; "" where it shows text only."""
    return "".join("".join(out.get("data", {}).get("text/html", "")) for out in cell["outputs"])


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The same notebook with the outputs of a run from top to bottom."""
    cells, count = [], 0
    with Session("demo.py") as session:
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell = {**cell, "execution_count": count, "outputs": _outputs(session, source(cell), count)}
            cells.append(cell)
    return {**notebook, "cells": cells}


def is_current(notebook: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether the stored outputs are those of a run, up to the last digit of their numbers."""
    pairs = zip(notebook["cells"], run["cells"], strict=True)
    return all(
        old["cell_type"] != "code"
        or (same(shown(old), shown(new)) and NUMBER.sub("#", html(old)) == NUMBER.sub("#", html(new)))
        for old, new in pairs
    )


def write(path: Path = NOTEBOOK) -> bool:
    """Store fresh outputs where they differ. Returns whether they did."""
    notebook = read(path)
    run = executed(notebook)
    if is_current(notebook, run):
        return False
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return True


def as_markdown(notebook: dict[str, Any]) -> str:
    """The notebook as a page."""
    parts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(source(cell))
            continue
        parts.append(f"```py\n{source(cell)}\n```")
        if html(cell):
            parts.append(html(cell))
        elif shown(cell):
            parts.append(f'```text title="Output"\n{shown(cell)}\n```')
    return "\n\n".join(parts) + "\n"


def _outputs(session: Session, text: str, count: int) -> list[dict[str, Any]]:
    tree = ast.parse(text)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr) and not text.rstrip().endswith(";"):
        lines = text.splitlines()
        head = "\n".join(lines[: last.lineno - 1])
        text = f"{head}\n{LAST} = (\n" + "\n".join(lines[last.lineno - 1 :]) + "\n)\n"
    session.module.__dict__.pop(LAST, None)
    printed = session.run(text)
    outputs: list[dict[str, Any]] = []
    if printed:
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
    value = session.module.__dict__.get(LAST)
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return outputs
