"""Runs the contestants in turns and writes the tables. See `benchmarks.sweep`."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from benchmarks.sweep.tasks import SHAPES, TASKS, Task

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
FOLDERS: Final = {
    "nnsight": "nnsight-0.8.1", "nnsight batched": "nnsight-0.8.1", "TransformerLens": "transformer_lens-4.3.0"
}  # fmt: skip
NAMES: Final = ("ours", "by hand", "hooks", "nnsight", "nnsight batched", "TransformerLens")
TITLES: Final = {
    "ours": "tracing.patching.sweep",
    "by hand": "written by hand, packed",
    "hooks": "plain hooks, one forward a cell",
    "nnsight": "nnsight 0.8.1, one trace a cell",
    "nnsight batched": "nnsight 0.8.1, a layer's cells as one batch",
    "TransformerLens": "TransformerLens 4.3.0, one forward a cell",
}
AGREE: Final = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 0.05}
"""Largest difference of a cell from ours that is rounding, at logits of this size."""


class Process:
    """A contestant's process; a context manager that ends it."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        path = [str(ROOT)]
        if name in FOLDERS:
            target = ROOT / "build" / "peers" / FOLDERS[name]
            if not (target / ".installed").exists():
                raise SystemExit(f"{name} is not installed in build/peers. Run: make peers, or --without it")
            path.insert(0, str(target))
        threads = str(options.threads)
        variables = {
            "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",  # so that the peak of resident memory is that of tensors
        }  # fmt: skip
        arguments = [name, options.shape, options.device, options.dtype, threads]
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.sweep.worker", *arguments],
            env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.tell(task="ready")

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def tell(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended while it was measured; its error stands above.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"{self.name} failed: {answer['error']}")
        return answer


def matmul_rate(device: str, dtype: str) -> float:
    """FLOPs a second of a large matmul of this precision, best of five."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        _ = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 / best


def run_task(key: str, processes: Sequence[Process], options: argparse.Namespace) -> str:
    """One task's table."""
    task, rates = TASKS[key], []
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(options.repetitions):
            for process in processes:
                rates.append(matmul_rate(options.device, options.dtype))
                values = str(Path(place) / f"{process.name}.safetensors")
                answer = process.tell(task=key, sample=options.sample, values=values)
                seen.setdefault(process.name, []).append(answer)
        apart = _differences(Path(place), [process.name for process in processes])
    worst = max(apart.values(), default=0.0)
    if worst > AGREE[options.dtype]:
        raise SystemExit(f"{task.title}: cells differ by up to {worst:.1e} from ours ({apart}).")
    return report(task, seen, max(rates), worst)


def _differences(place: Path, names: Sequence[str]) -> dict[str, float]:
    ours = load_file(place / "ours.safetensors")["cells"]
    found = {}
    for name in names:
        one = load_file(place / f"{name}.safetensors")
        found[name] = float((one["cells"] - ours[one["numbers"]]).abs().max())
    return found


def report(task: Task, seen: dict[str, list[dict[str, Any]]], rate: float, worst: float) -> str:
    """The table of a task. Ratios are medians over repetitions of ratios within one."""
    ours = seen["ours"]
    floor = ours[0]["flops"] / rate
    hand = seen.get("by hand", ours)
    lines = [
        f"## {task.title}, {task.tokens} tokens, {task.pairs} pair{'s' * (task.pairs > 1)}",
        "",
        f"{ours[0]['ran']} cells. Our plan {ours[0]['flops'] / 1e9:.0f} GFLOP, one full forward a cell "
        f"{ours[0]['naive'] / 1e9:.0f} GFLOP; floor {floor:.3g} s at the best matmul rate seen "
        f"({rate / 1e9:.0f} GFLOP/s). Cells agree to {worst:.0e}.",
        "",
        "| contestant | seconds, median (fastest) | CPU seconds | × by hand | fastest × floor | MiB above resting |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in seen.items():
        wall = [run["wall"] for run in runs]
        scaled = "" if runs[0]["ran"] == ours[0]["ran"] else f" (scaled from {runs[0]['ran']} cells)"
        ratio = statistics.median(a["wall"] / b["wall"] for a, b in zip(runs, hand, strict=True))
        lines.append(
            f"| {TITLES[name]}{scaled} | {statistics.median(wall):.3g} ({min(wall):.3g}) | "
            f"{statistics.median(run['cpu'] for run in runs):.3g} | {ratio:.2f} | {min(wall) / floor:.2f} | "
            f"{max(run['peak'] for run in runs) / 2**20:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the tables and print them."""
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--without", nargs="*", choices=NAMES[1:], default=[])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sample", type=int, default=12, help="cells that contestants run which take them one by one")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=AGREE, default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        names = [name for name in NAMES if name not in options.without]
        processes = [stack.enter_context(Process(name, options)) for name in names]
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for process in processes:  # warm: what a library imports or compiles at its first use is not the sweep's time
            process.tell(task=options.tasks[0], sample=1, values=f"{folder}/warm.safetensors")
        tables = [run_task(key, processes, options) for key in options.tasks]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    head = (
        f"# Activation-patching sweeps, GPT-2-{options.shape} shape\n\n`python -m benchmarks.sweep`: random weights, "
        f"{options.dtype}, {where}, medians of {options.repetitions} interleaved repetitions (load average "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}, {platform.machine()}), each contestant in a process of "
        "its own. Other work may load the machine: read the ratios.\n\n"
    )
    RESULTS.mkdir(exist_ok=True)
    name = f"sweep_{options.device}_{options.shape}_{options.dtype}" + (
        f"_threads_{options.threads}.md" if options.device == "cpu" else ".md"
    )
    (RESULTS / name).write_text(head + "\n".join(tables), encoding="utf-8")
    print(head + "\n".join(tables))


if __name__ == "__main__":
    main()
