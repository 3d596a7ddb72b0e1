"""One contestant's process: reads commands, measures itself, answers. See `benchmarks.peers`.

python -m benchmarks.peers.worker CONTESTANT MODELS THREADS [as-loaded]
"""

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers import CAPTURED, OURS, PLAIN
from benchmarks.peers.captured import Captured
from benchmarks.peers.deferred import Deferred
from benchmarks.peers.plain import Plain

MODELS = ("small", "deep", "wide")


def tasks_of(name: str, models: Path, *, as_loaded: bool) -> Any:
    """The contestant's tasks, with its models loaded."""
    if name == OURS:
        ours = importlib.import_module("tracing").LanguageModel
        return Deferred({model: ours(models / model) for model in MODELS})
    load: Any = AutoModelForCausalLM.from_pretrained
    modules = {model: load(models / model).eval() for model in MODELS}
    if not as_loaded:  # as ours does by itself: no autograd graph, no keys and values kept for later
        for module in modules.values():
            module.requires_grad_(False).config.use_cache = False
    if name == PLAIN:
        return Plain(modules)
    wrap = importlib.import_module("nnsight").LanguageModel
    wrapped = {
        model: wrap(module, tokenizer=AutoTokenizer.from_pretrained(models / model))
        for model, module in modules.items()
    }
    return Captured(wrapped) if name == CAPTURED else Deferred(wrapped)


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the last reset; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def reset_peak() -> None:
    """Let VmHWM begin anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:  # then the peak is that of the whole process, and the difference shows 0
        return


def measure(task: Callable[[], dict[str, Tensor]], loops: int, values: str | None) -> dict[str, Any]:
    """Time `loops` calls, and store what the last one gave."""
    gc.collect()
    reset_peak()
    before = resident("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    found: dict[str, Tensor] = {}
    for _ in range(loops):
        found = task()
    answer = {
        "wall": (time.perf_counter() - wall) / loops,
        "cpu": (time.process_time() - cpu) / loops,
        "peak": max(0, resident("VmHWM") - before),
    }
    if values is not None:
        save_file({name: value.detach().clone().contiguous() for name, value in found.items()}, values)
    return answer


def main(name: str, models: Path, threads: int, *, as_loaded: bool) -> None:
    """Answer commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    logging: Any = importlib.import_module("transformers.utils.logging")
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    sys.setrecursionlimit(100_000)  # nnsight 0.4.11 walks its graphs by recursion, a level a node
    tasks = tasks_of(name, models, as_loaded=as_loaded)
    for line in sys.stdin:
        command = json.loads(line)
        task = getattr(tasks, command["task"], None)
        answer: dict[str, Any] = {}
        if command["task"] != "ready":
            try:
                answer = measure(task, command["loops"], command["values"]) if task else {"absent": True}
            except Exception as error:  # noqa: BLE001 (told to the one who asked)
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), as_loaded=sys.argv[4:] == ["as-loaded"])
