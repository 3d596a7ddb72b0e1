"""One contestant's process, told what to do by lines of JSON.

python -m benchmarks.sweep.worker NAME SHAPE DEVICE DTYPE THREADS
"""

import gc
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.peers.worker import reset_peak, resident
from benchmarks.sweep.tasks import TASKS, network


def contestant(name: str, made: Any) -> Any:
    """A contestant by name; peers are imported only where they are wanted."""
    own = importlib.import_module("benchmarks.sweep.contestants" if name in OWN else "benchmarks.sweep.peers")
    return (own.CONTESTANTS if name in OWN else own.PEERS)[name](made)


OWN = ("ours", "hooks", "by hand")


def measure(who: Any, made: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Run a task once, on a sample of its cells where the contestant runs them one by one."""
    task, cuda = TASKS[command["task"]], made.device.type == "cuda"
    cells = task.cells(made.config.n_layer, made.config.n_head)
    chosen = list(range(len(cells)))
    if not who.whole and command["sample"] < len(cells):
        chosen = sorted(set(torch.linspace(0, len(cells) - 1, command["sample"]).long().tolist()))
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    reset_peak()
    before = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    values: Tensor = who.run(task, [cells[number] for number in chosen])
    if cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    save_file({"cells": values.detach().float().clone(), "numbers": torch.tensor(chosen)}, command["values"])
    share = len(chosen) / len(cells)
    answer = {"wall": wall / share, "cpu": cpu / share, "peak": max(0, peak - before), "ran": len(chosen)}
    if hasattr(who, "flops"):
        answer["flops"], answer["naive"] = who.flops(task)
    return answer


def main(name: str, shape: str, device: str, dtype: str, threads: int) -> None:
    """Answer commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    torch.set_num_threads(threads)
    made = network(shape, device, dtype)
    who = contestant(name, made)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"ready": True} if command["task"] == "ready" else measure(who, made, command)
        except Exception as error:  # noqa: BLE001 (told to the one who asked)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    name, shape, device, dtype, threads = sys.argv[1:]
    main(name, shape, device, dtype, int(threads))
