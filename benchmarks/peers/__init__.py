"""Contestants of the tracing benchmark: long-lived processes, one a library, that measure themselves when told to.

A command is a line of JSON, and so is its answer; values come back as safetensors. Every contestant has the same
harness (`worker`), so that ratios are of the libraries alone.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
INSTALLED: Final = ROOT / "build" / "peers"
PLAIN, OURS, CAPTURED, DEFERRED = "plain torch hooks", "tracing", "nnsight 0.8.1", "nnsight 0.4.11"
CONTESTANTS: Final = (PLAIN, OURS, CAPTURED, DEFERRED)
FOLDERS: Final = {CAPTURED: "nnsight-0.8.1", DEFERRED: "nnsight-0.4.11"}


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one call of a task, by the clock and of processor time; bytes above what was resident before."""

    wall: float
    cpu: float
    peak: int


class Contestant:
    """One library's process; a context manager that ends it."""

    def __init__(
        self, name: str, models: Path, *, threads: int, steady_memory: bool = False, as_loaded: bool = False
    ) -> None:
        """`steady_memory` maps every large tensor by itself, so that the peak of resident memory is that of tensors.

        `as_loaded` leaves gradients of the weights and the key-value cache on, where the library does.
        """
        path = [str(ROOT)]
        if name in FOLDERS:
            target = INSTALLED / FOLDERS[name]
            if not (target / ".installed").exists():
                raise SystemExit(f"{name} is not installed in build/peers. Run: make peers")
            path.insert(0, str(target))
        variables = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        if steady_memory:
            variables["MALLOC_MMAP_THRESHOLD_"] = "65536"
        self.name = f"{name}, as it loads models" if as_loaded and name in FOLDERS else name
        arguments = [name, str(models), str(threads), *(["as-loaded"] if as_loaded else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.peers.worker", *arguments],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tell({"task": "ready"})

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def measure(self, task: str, loops: int, values: Path | None = None) -> Measured | None:
        """Run a task `loops` times; None where the library has no such thing. `values` is where results are stored."""
        answer = self._tell({"task": task, "loops": loops, "values": str(values) if values else None})
        if answer.get("absent"):
            return None
        return Measured(answer["wall"], answer["cpu"], answer["peak"])

    def _tell(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended while it was measured ({command['task']}); its error stands above.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"{self.name} failed in {command['task']}: {answer['error']}")
        return answer
