"""The results of a finished run as files in a folder: JSON, safetensors and CSV of each, and the notebook."""

import json
from pathlib import Path
from typing import Any

from interp_app.runs import notebooks, results
from interp_app.runs.details import run_detail
from interp_app.runs.models import Run


def write(run: Run, folder: Path, viewer: Any) -> list[Path]:
    """Write everything; the paths written. `run` comes from `selectors.run_detail`. Raises `ServiceError`, `OSError`.

    Files of an earlier export of the same names are overwritten, others are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stored in results.results_of(run):
        found = results.typed(stored, at_most=notebooks.MAX_NUMBERS)
        stem = folder / str(stored.payload["artifact"]["name"]).removesuffix(".safetensors")
        found.to_files(stem)
        table = Path(f"{stem}.csv")
        table.write_text(found.to_csv(), encoding="utf-8")
        written += [Path(f"{stem}.json"), Path(f"{stem}.safetensors"), table]
    notebook = folder / "notebook.ipynb"
    notebook.write_text(notebooks.text(run, viewer), encoding="utf-8")
    about = folder / "run.json"
    about.write_text(json.dumps(run_detail(run, viewer), indent=2, ensure_ascii=False), encoding="utf-8")
    return [*written, notebook, about]
