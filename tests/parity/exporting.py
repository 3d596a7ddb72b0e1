"""What the export's parity test shares: our runs with their graphs, the scripts, and what nnsight's process gave."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity.peers import LIMIT_SECONDS, environment
from tests.parity.peers.host import tensors
from tracing.graph.nodes import Graph
from tracing.models import session, tracer

PEER: Final = "nnsight-0.8.1"
Run = tuple[Any, Graph, dict[str, Tensor]]
"""Model, graph, and what it saved."""


@contextmanager
def recorded() -> Iterator[list[Run]]:
    """Every program that runs inside the block, with its values under the names of an exported script."""
    found: list[Run] = []
    execute = tracer.execute

    def noting(model: Any, graph: Graph, cells: Any) -> None:
        execute(model, graph, cells)
        saved = {graph.saves[number] or f"value_{number}": cell.read() for number, cell in cells.items()}
        found.append((model, graph, dict(tensors(flat(saved)))))

    tracer.execute = session.execute = noting
    try:
        yield found
    finally:
        tracer.execute = session.execute = execute


def flat(values: Mapping[Any, Any], start: str = "") -> dict[str, Any]:
    """Values without nests: the items of tuples, lists and dicts by their numbers or keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, (tuple, list, dict)):
            found |= flat(value if isinstance(value, dict) else dict(enumerate(value)), f"{start}{key}.")
        elif value is not None:
            found[f"{start}{key}"] = value
    return found


class Scripts:
    """A folder of exported scripts with what is expected of them; shared by the processes of one test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, str] = {}

    @classmethod
    def run(cls, folder: Path, fill: Callable[["Scripts"], None]) -> "Scripts":
        """Export with `fill` and run all scripts in one process of nnsight, unless another process did."""
        scripts = cls(folder)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "errors.json").exists():
                folder.mkdir(exist_ok=True)
                fill(scripts)
                (folder / "models.json").write_text(json.dumps(scripts.models), encoding="utf-8")
                start("-m", "tests.parity.peers.exported", str(folder))
        return scripts

    def add(self, name: str, runs: list[Run], model: Path) -> None:
        """Export every program of a case."""
        for number, (_, graph, values) in enumerate(runs):
            script = f"{name}_{number}"
            graph.to_nnsight_source().save(self.folder / f"{script}.py")
            save_file({key: value.clone() for key, value in values.items()}, self._file(script, "expected"))
            self.models[script] = str(model)

    def results(self, name: str) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """What nnsight saved and what is expected, for each program of a case. Raises with nnsight's error."""
        errors = json.loads((self.folder / "errors.json").read_text(encoding="utf-8"))
        found = []
        while (expected := self._file(f"{name}_{len(found)}", "expected")).exists():
            script = f"{name}_{len(found)}"
            assert script not in errors, errors[script]
            found.append((load_file(self._file(script, "saved")), load_file(expected)))
        return found

    def _file(self, script: str, what: str) -> Path:
        return self.folder / f"{script}.{what}.safetensors"


def start(*arguments: str) -> None:
    """Run Python with nnsight on its path."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env=environment(PEER),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert not done.returncode, done.stderr[-4000:]
