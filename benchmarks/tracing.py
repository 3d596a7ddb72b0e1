"""Cost of tracing: ours against plain torch hooks, nnsight 0.8.1 and nnsight 0.4.11, on tiny models.

    make peers
    python -m benchmarks.tracing [--repetitions 15] [--threads 1] [--tasks one_site,invokes]

Each contestant is one long-lived process that loaded the same random weights; within a repetition they take turns, in
an order that rotates, so that whatever else loads the machine loads them all. Figures are medians; ratios are medians
of the ratios within a repetition. The models are so small (4 layers of width 64, 10 tokens; 12 layers of width 32 for
the sweep) that what is measured is tracing. The values of all contestants are compared: a row is printed only if they
agree. Memory is that of a model large enough for its tensors to show, in processes of their own.
Writes benchmarks/results/tracing.md.
"""

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from benchmarks.peers import CONTESTANTS, FOLDERS, OURS, PLAIN, Contestant, Measured
from benchmarks.peers.tasks import INVOKES, NEW_TOKENS, NODES, TOKENS, save_models

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 1e-4
"""Of fp32 values, absolutely: batches of other sizes take other kernels."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row of tables: what is done, and how often within one measurement."""

    name: str
    title: str
    loops: int
    note: str = ""
    as_loaded: bool = False
    """Whether nnsight is measured also with the models as it loads them."""


RECURSION: Final = "nnsight 0.4.11 needs a raised recursion limit for it: by default it ends in a RecursionError."
TASKS: Final = (
    Task("forward_alone", "The floor of everything: a forward without any hook", 20),
    Task("one_site", "(a) One block output and the logits saved", 20, as_loaded=True),
    Task(
        "one_early_site", "(a′) The first block's output alone", 20, "nnsight 0.8.1 is told to stop there; ours does."
    ),
    Task("invokes", f"(b) {INVOKES} invokes in one batch, a value of each saved", 1),
    Task("record_nodes", f"(c) {NODES:,} nodes recorded, not run", 2, "nnsight 0.8.1 and plain torch record nothing."),
    Task("run_nodes", f"(c′) {NODES:,} nodes recorded and run", 2, RECURSION),
    Task("sweep_traces", f"(d) Patch sweep, 12 layers × {TOKENS} positions, a trace a cell", 1),
    Task("sweep_invokes", f"(e) The same sweep as {12 * TOKENS} invokes of one trace", 1),
    Task("generate", f"(f) {NEW_TOKENS} tokens generated, a value of each step saved", 2),
)
MEMORY: Final = Task("every_layer", "(g) Every layer of 12 saved, 8 × 512 tokens of width 256 (4 MiB a layer)", 1)
Results = Mapping[str, list[Measured]]


def measure(task: Task, contestants: Sequence[Contestant], repetitions: int) -> dict[str, list[Measured]]:
    """Times by contestant, interleaved; those without the task are left out.

    Raises `SystemExit` where values differ.
    """
    times: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as place:
        files = {one.name: Path(place) / f"{number}.safetensors" for number, one in enumerate(contestants)}
        for one in contestants:  # also the warm-up
            if one.measure(task.name, 1, files[one.name]) is not None:
                times[one.name] = []
        compare(task, {name: file for name, file in files.items() if name in times})
    present = [one for one in contestants if one.name in times]
    for repetition in range(repetitions):
        first = repetition % len(present)
        for one in (*present[first:], *present[:first]):
            measured = one.measure(task.name, task.loops)
            assert measured is not None
            times[one.name].append(measured)
    return times


def compare(task: Task, files: Mapping[str, Path]) -> None:
    """Raise `SystemExit` unless all contestants computed the same."""
    values = {name: load_file(file) for name, file in files.items()}
    (first, reference), *others = values.items()
    for name, found in others:
        if set(found) != set(reference):
            raise SystemExit(f"{task.name}: {name} gives {sorted(found)}, {first} gives {sorted(reference)}.")
        for key, value in reference.items():
            mine = found[key]
            if mine.shape != value.shape or (mine.double() - value.double()).abs().max() > TOLERANCE:
                raise SystemExit(f"{task.name}: {key} of {name} is not that of {first}.")


def table(task: Task, times: Results) -> list[str]:
    """One task's rows: contestant, milliseconds, times as much as plain torch and as ours."""
    floor = times.get(PLAIN)
    lines = [
        f"### {task.title}",
        "",
        *([task.note, ""] if task.note else []),
        "| contestant | ms, median (fastest) | CPU ms, median | times plain torch | times ours |",
        "|---|---|---|---|---|",
    ]
    for name, found in times.items():
        walls = [1000 * one.wall for one in found]
        lines.append(
            f"| {name} | {statistics.median(walls):.2f} ({min(walls):.2f}) "
            f"| {1000 * statistics.median(one.cpu for one in found):.2f} "
            f"| {_ratio(found, floor)} | {_ratio(found, times.get(OURS))} |"
        )
    return [*lines, ""]


def memory_table(times: Results, remark: str) -> list[str]:
    """Peak bytes above what was resident before, the smallest of the repetitions."""
    lines = [
        f"### {MEMORY.title}{remark}",
        "",
        "| contestant | peak MiB, median (least) | times plain torch |",
        "|---|---|---|",
    ]
    floor = statistics.median(one.peak for one in times[PLAIN])
    for name, found in times.items():
        peaks = [one.peak for one in found]
        median = statistics.median(peaks)
        ratio = f"{median / floor:.2f}" if floor else "–"
        lines.append(f"| {name} | {median / 2**20:.0f} ({min(peaks) / 2**20:.0f}) | {ratio} |")
    return [*lines, ""]


def _ratio(found: Sequence[Measured], base: Sequence[Measured] | None) -> str:
    if not base:
        return "–"
    return f"{statistics.median(a.wall / b.wall for a, b in zip(found, base, strict=True)):.2f}"


def main() -> None:
    """Measure, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tasks", default="", help="names, with commas; by default all, and then the file is written")
    options = parser.parse_args()
    chosen = {name for name in options.tasks.split(",") if name}
    report: list[str] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        models = Path(place)
        save_models(models)
        contestants = [stack.enter_context(Contestant(name, models, threads=options.threads)) for name in CONTESTANTS]
        loaded = [
            stack.enter_context(Contestant(name, models, threads=options.threads, as_loaded=True)) for name in FOLDERS
        ]
        for task in TASKS:
            if not chosen or task.name in chosen:
                taking_part = [*contestants, *loaded] if task.as_loaded else contestants
                report += table(task, measure(task, taking_part, options.repetitions))
        if not chosen or MEMORY.name in chosen:
            for as_loaded in (False, True):
                with ExitStack() as inner:
                    steady = [
                        inner.enter_context(
                            Contestant(name, models, threads=options.threads, steady_memory=True, as_loaded=as_loaded)
                        )
                        for name in CONTESTANTS
                    ]
                    found = measure(MEMORY, steady, min(options.repetitions, 5))
                report += memory_table(found, "; models as each library loads them" if as_loaded else "")
    text = "\n".join([*heading(options.repetitions, options.threads), *report])
    if not chosen:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "tracing.md").write_text(text, encoding="utf-8")
    print(text)


def heading(repetitions: int, threads: int) -> list[str]:
    """What was measured, and on what."""
    return [
        "# Cost of tracing",
        "",
        f"`python -m benchmarks.tracing`: random GPT-2 of 4 layers, width 64, {TOKENS} tokens (the sweep: 12 layers, "
        f"width 32), fp32, {threads} thread(s), medians of {repetitions} interleaved repetitions, a process a "
        f"contestant (load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {platform.machine()}). "
        f"Values of all contestants agree to {TOLERANCE:g}. Where nothing else is said, nnsight "
        "is given what ours does by itself: weights without gradients and, but for generation, no key-value cache. "
        "Other work may load the machine: read the ratios.",
        "",
    ]


if __name__ == "__main__":
    main()
