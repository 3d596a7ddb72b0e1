"""Edge attribution: ours beside a version written by hand, TransformerLens's own, and a plain forward of the batch.

    python -m benchmarks.eap [--repetitions 5] [--threads 2] [--pairs 16] [--tokens 16] [--lens-pairs 1]
    python -m benchmarks.eap --device cuda --shape medium --dtype bfloat16 --lens-pairs 0

Random weights of GPT-2 shape; every contestant in a process of its own, one call each in turn, so whatever else loads
the machine loads them all. Times are medians; a ratio is to the plain forward of the same batch in the same turn, and
the median of these. Peak is memory on top of the loaded model. TransformerLens runs one pair at a time: it gets
`--lens-pairs` of them and its time is scaled up to all. The EAP-IG library is on no package index and runs on no
current TransformerLens; the figures of its recorded run are printed beside ours. Scores of all are compared.
Writes benchmarks/results/eap_<shape>_<device>_<dtype>.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LENS = ROOT / "build" / "peers" / "transformer_lens-4.3.0"
SHAPES = {"tiny": (2, 4, 64), "small": (12, 12, 768), "medium": (24, 16, 1024)}
LENGTHS = (16, 64, 256)
RECORDED = (
    "Recorded before, same shape, 16 pairs of 16 tokens, 2 cores: TransformerLens 4.3 166 s; the EAP-IG library 28.5 s "
    "(18.5 s with parameters frozen), peak 4.6 GB, with 5 steps 91 s, 6.1 GB; by hand 3.65 s, 1.67 GB, with 5 steps "
    "13.6 s, 2.0 GB (peaks of whole processes)."
)


class Contestant:
    """A process that runs one task when told to."""

    def __init__(self, name: str, folder: Path, options: dict[str, Any]) -> None:
        self.name, self.options = name, options
        path = [str(LENS)] if name == "lens" else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.eap_contestants", name, str(folder), json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env={
                **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
                "PYTHONPATH": os.pathsep.join([*path, str(ROOT)]),
            },
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        """The next line of the process that is JSON."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"{self.name} ended with {self.process.wait()}")

    def run(self, pairs: int, tokens: int) -> dict[str, Any]:
        """One call."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"pairs": pairs, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def scores(self) -> torch.Tensor:
        """What the last call gave."""
        return load_file(Path(self.options["work"]) / f"{self.name.replace(' ', '-')}.safetensors")["scores"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def speed(contestants: list[Contestant], args: argparse.Namespace) -> list[str]:
    """A table of times, ratios and peaks."""
    runs: dict[str, list[dict[str, float]]] = {one.name: [] for one in contestants}
    for turn in range(args.repetitions + 1):  # the first warms up; TransformerLens is slow enough to run once, cold
        for one in contestants:
            slow = one.name == "lens"
            if slow and turn:
                continue
            pairs = min(args.lens_pairs, args.pairs) if slow else args.pairs
            found = one.run(pairs, args.tokens)
            if turn or slow:
                scale = args.pairs / pairs
                runs[one.name].append(
                    {"wall": found["wall"] * scale, "cpu": found["cpu"] * scale, "peak": found["peak"]}
                )
    plain = statistics.median(run["wall"] for run in runs["plain"])
    lines = ["| | median s | plain forwards | CPU s | peak MB |", "|---|---:|---:|---:|---:|"]
    for name, mine in runs.items():
        wall, cpu, peak = (statistics.median(run[key] for run in mine) for key in ("wall", "cpu", "peak"))
        ratio = wall / plain
        if len(mine) == len(runs["plain"]):
            ratio = statistics.median(a["wall"] / b["wall"] for a, b in zip(mine, runs["plain"], strict=True))
        lines.append(f"| {name} | {wall:.3f} | {ratio:.2f} | {cpu:.2f} | {peak / 2**20:.0f} |")
    return lines


def agreement(contestants: dict[str, Contestant], args: argparse.Namespace) -> list[str]:
    """Largest differences of scores, relative to the largest score."""

    def off(left: torch.Tensor, right: torch.Tensor) -> float:
        return float((left - right).abs().max() / right.abs().max())

    found = []
    for kind in ("", " ig"):
        difference = off(contestants[f"ours{kind}"].scores(), contestants[f"by hand{kind}"].scores())
        found.append(f"ours{kind} and by hand{kind} differ by {difference:.1e} of the largest score")
    if "lens" in contestants:
        contestants["ours"].run(args.lens_pairs, args.tokens)
        difference = off(contestants["ours"].scores(), contestants["lens"].scores())
        found.append(f"ours and TransformerLens by {difference:.1e}")
    return ["; ".join(found) + "."]


def growth(contestants: dict[str, Contestant]) -> list[str]:
    """Peaks with the length, beside those of a bare forward and backward: two pairs, one batch."""
    names = ("backward", "ours", "ours ig", "by hand")
    lines = ["| tokens | " + " | ".join(f"{name}, MB" for name in names) + " |", "|---:|" + "---:|" * len(names)]
    for tokens in LENGTHS:
        peaks = [contestants[name].run(2, tokens)["peak"] / 2**20 for name in names]
        lines.append(f"| {tokens} | " + " | ".join(f"{peak:.0f}" for peak in peaks) + " |")
    return lines


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="1 or more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--lens-pairs", type=int, default=1, help="pairs for TransformerLens; 0 leaves it out")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--no-write", action="store_true")
    args = parser.parse_args()
    layers, heads, width = SHAPES[args.shape]
    with tempfile.TemporaryDirectory() as work:
        torch.manual_seed(0)
        folder = Path(work) / "model"
        GPT2LMHeadModel(GPT2Config(n_layer=layers, n_head=heads, n_embd=width)).save_pretrained(folder)
        options = {"work": work, "threads": args.threads, "device": args.device, "dtype": args.dtype}
        options["steps"] = args.steps
        names = ["plain", "backward", "ours", "by hand", "ours ig", "by hand ig"]
        if args.lens_pairs and args.device == "cpu" and (LENS / ".installed").exists():
            names.append("lens")
        contestants = [Contestant(name, folder, options) for name in names]
        for one in contestants:
            one.answer()  # says that it is ready
        by_name = {one.name: one for one in contestants}
        lines = [
            f"# EAP on GPT-2-{args.shape} shape",
            "",
            f"{args.pairs} pairs of {args.tokens} tokens, {args.dtype}, {args.device}, {args.threads} threads, "
            f"{args.repetitions} repetitions; `ig` is EAP-IG-inputs with {args.steps} steps; `lens` is TransformerLens "
            f"4.3 on {args.lens_pairs} pair, scaled to {args.pairs}.",
            "",
            *speed(contestants, args),
            "",
            *agreement(by_name, args),
            "",
            "Two pairs in one batch, by length:",
            "",
            *growth(by_name),
            "",
            RECORDED,
        ]
        for one in contestants:
            one.close()
    text = "\n".join(lines) + "\n"
    print(text)
    if not args.no_write:
        (RESULTS / f"eap_{args.shape}_{args.device}_{args.dtype}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
