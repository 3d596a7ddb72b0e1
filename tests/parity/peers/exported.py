"""Runs in nnsight's process: every exported script of a folder, in one process. `models.json` says on which model."""

import json
import sys
import traceback
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from tests.parity.peers.host import load_script


def main(folder: Path) -> None:
    """Run all; what a script raises is written to `errors.json` under its name."""
    torch.set_num_threads(1)
    disable_progress_bar()
    errors: dict[str, str] = {}
    for name, model in json.loads((folder / "models.json").read_text(encoding="utf-8")).items():
        try:
            load_script(folder / f"{name}.py").main(model)
        except Exception as error:
            errors[name] = "".join(traceback.format_exception(error))[-3000:]
    (folder / "errors.json").write_text(json.dumps(errors), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
