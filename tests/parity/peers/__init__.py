"""Other tracing libraries as oracles: each in a folder of its own, in a process of its own.

A peer is never imported here. `run_peer` starts this environment's Python with the peer's folder (`make peers`) in
front of its path, so that it uses our torch and transformers; what goes in is JSON and safetensors, what comes out is
safetensors. A script is a module whose functions `case_…(model, at, given)` return tensors by name.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT: Final = Path(__file__).resolve().parents[3]
FOLDER: Final = ROOT / "build" / "peers"
LIMIT_SECONDS: Final = 110.0


class PeerError(Exception):
    """A peer is not installed, or its process failed as a whole."""


class Answer(dict[str, Tensor]):
    """Tensors by `family/case/name`. `errors` has what a case raised, by `family/case`, as `Type: text`."""

    errors: dict[str, str]

    def of(self, family: str, case: str) -> dict[str, Tensor]:
        """The tensors of one case. Raises `PeerError` with the peer's error where there are none."""
        start = f"{family}/{case}/"
        found = {key.removeprefix(start): value for key, value in self.items() if key.startswith(start)}
        if not found:
            raise PeerError(f"The peer failed in {start[:-1]}: {self.errors.get(start[:-1], 'no such case')}")
        return found


def environment(peer: str) -> dict[str, str]:
    """Variables of a process that has the peer on its path. Raises `PeerError` where it is not installed."""
    target = FOLDER / peer
    if not (target / ".installed").exists():
        raise PeerError(f"{peer} is not installed in build/peers. Run: make peers")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join((str(target), str(ROOT)))}


def run_peer(
    peer: str,
    script: Path | str,
    folders: Path | Mapping[str, Path],
    arrays: Mapping[str, Tensor] | None = None,
    *,
    cases: Sequence[str] | None = None,
) -> Answer:
    """Run a script's cases on models in a peer's process.

    `script` is a file or Python text; `folders` one saved model, or several by family; `arrays` reach the cases as
    `given`. Raises `PeerError` for a peer that is not installed, and for a process that fails or hangs.
    """
    variables = environment(peer)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        path = script.resolve() if isinstance(script, Path) else work / "script.py"
        if isinstance(script, str):
            path.write_text(script, encoding="utf-8")
        named = {"model": folders} if isinstance(folders, Path) else folders
        request: dict[str, Any] = {
            "peer": peer,
            "script": str(path),
            "folders": {name: str(folder) for name, folder in named.items()},
            "cases": cases,
        }
        (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
        save_file({key: value.contiguous() for key, value in (arrays or {}).items()}, work / "arrays.safetensors")
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "tests.parity.peers.host", str(work)],
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"{peer} did not end within {LIMIT_SECONDS:.0f} s") from error
        if done.returncode:
            raise PeerError(f"{peer} ended with {done.returncode}:\n{done.stderr[-4000:]}")
        answer = Answer(load_file(work / "values.safetensors"))
        answer.errors = json.loads((work / "errors.json").read_text(encoding="utf-8"))
        return answer
