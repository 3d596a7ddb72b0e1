"""Attribution speed on GPT-2-small shape: ours, a hand-written backward, TransformerLens, and an exact sweep.

    python -m benchmarks.attribution [--repetitions 5] [--threads 2] [--tokens 16] [--pairs 4] [--device cpu]

Random weights of GPT-2-small shape, pairs that differ everywhere. The unit is a plain forward of the same batch, timed
in the same repetition; contestants take turns, so whatever else loads the machine loads them all. TransformerLens runs
in a process of its own (`make peers`), with a forward of its own model's network for its unit. Scores are compared
where contestants have the same: heads by position, and MLPs. Writes benchmarks/results/attribution_<device>.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.peers import INSTALLED, ROOT
from tracing.models import LanguageModel
from tracing.patching import attribution_patching, sweep
from tracing.prompts import TokenizedPair

PEER: Final = "transformer_lens-4.3.0"
ANSWER, FOIL = 11, 13
SOME: Final = ("resid_pre", "z", "mlp_out")
EVERY: Final = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "neurons")


def network(device: str) -> Any:
    """GPT-2-small shape: speed does not depend on what the weights are."""
    torch.manual_seed(0)
    made: Any = GPT2LMHeadModel(GPT2Config())
    return made.eval().requires_grad_(False).to(device)


def prompts(pairs: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Clean and corrupted ids, `[pair, token]`."""
    drawn = torch.randint(50_000, (2, pairs, tokens), generator=torch.Generator().manual_seed(0))
    return drawn[0], drawn[1]


def tokenized(clean: Tensor, corrupted: Tensor) -> list[TokenizedPair]:
    """The same as pairs."""
    rows = zip(clean.tolist(), corrupted.tolist(), strict=True)
    return [
        TokenizedPair(n, tuple(a), tuple(b), tuple(map(str, a)), tuple(map(str, b)), (ANSWER,), (FOIL,))
        for n, (a, b) in enumerate(rows, start=1)
    ]


@torch.no_grad()
def forward(model: Any, ids: Tensor) -> None:
    """The unit."""
    model(ids, use_cache=False, logits_to_keep=1)


def by_hand(model: Any, clean: Tensor, corrupted: Tensor) -> dict[str, Tensor]:
    """Hooks on residual streams, heads and MLPs, two forwards and one backward, as a researcher writes it."""
    blocks, kept = model.transformer.h, []
    for ids in (clean, corrupted):
        seen: dict[str, list[Tensor]] = {"resid_pre": [], "z": [], "mlp_out": []}

        def keep(value: Tensor, name: str, seen: Any = seen) -> Tensor:
            value = value.requires_grad_() if torch.is_grad_enabled() and not value.requires_grad else value
            if value.requires_grad:
                value.retain_grad()
            seen[name].append(value)
            return value

        handles = []
        for block in blocks:
            handles += [
                block.register_forward_pre_hook(lambda _, args, keep=keep: (keep(args[0], "resid_pre"), *args[1:])),
                block.attn.c_proj.register_forward_pre_hook(lambda _, args, keep=keep: (keep(args[0], "z"),)),
                block.mlp.register_forward_hook(lambda _, _args, out, keep=keep: keep(out, "mlp_out")),
            ]
        with torch.set_grad_enabled(ids is corrupted):
            logits = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
            if ids is corrupted:
                (logits[:, ANSWER] - logits[:, FOIL]).sum().backward()
        for handle in handles:
            handle.remove()
        kept.append(seen)
    found = {}
    for name in SOME:
        parts = [
            (a.detach() - b.detach()) * (b.grad if b.grad is not None else 0)
            for a, b in zip(kept[0][name], kept[1][name], strict=True)
        ]
        effect = torch.stack([torch.unflatten(part, -1, (12 if name == "z" else 1, -1)).sum(-1) for part in parts])
        found[name] = effect.mean(1).transpose(1, 2).cpu()  # [layer, head, position]
    return found


def timed(task: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came back."""
    start = time.perf_counter()
    found = task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


class Peer:
    """TransformerLens in a process of its own, which times itself when told to."""

    def __init__(self, options: argparse.Namespace) -> None:
        target = INSTALLED / PEER
        if not (target / ".installed").exists():
            raise SystemExit(f"{PEER} is not installed in build/peers. Run: make peers")
        sizes = ["--threads", options.threads, "--tokens", options.tokens, "--pairs", options.pairs]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.attribution", "--answer", *map(str, sizes),
             "--device", options.device],
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(target), str(ROOT))), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self) -> dict[str, Any]:
        """One repetition: seconds of a forward and of the attribution, and scores."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("TransformerLens ended while it was measured; its error stands above.")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def answer(options: argparse.Namespace) -> None:
    """The peer's process."""
    from importlib import import_module

    sources: Any = import_module("transformer_lens.model_bridge.sources._bridge_builder")
    patch: Any = import_module("transformer_lens.tools.analysis.attribution_patching").attribution_patch
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints goes elsewhere
    plain, wrapped = network(options.device), network(options.device)
    wrapped.requires_grad_(True)  # it takes gradients at the embedding's output, which has none otherwise
    bridge = sources.build_bridge_from_module(wrapped, "GPT2LMHeadModel", hf_config=wrapped.config)
    clean, corrupted = (ids.to(options.device) for ids in prompts(options.pairs, options.tokens))
    for _ in sys.stdin:
        unit, _ = timed(lambda: forward(plain, clean))
        seconds, found = timed(
            lambda: patch(bridge, clean, corrupted, lambda logits: logits[0, -1, ANSWER] - logits[0, -1, FOIL])
        )
        heads = torch.zeros(12, 12, options.tokens)
        for node, score in found.node_scores.items():
            if node.kind == "attn_head_out":
                heads[node.layer, node.head, node.position] = score
        line = {"unit": unit, "seconds": seconds, "z": heads.flatten().tolist()}
        answers.write(json.dumps(line) + "\n")
        answers.flush()


def main(options: argparse.Namespace) -> None:
    """Measure, compare, write."""
    model = LanguageModel(network(options.device), verify=False)
    clean, corrupted = (ids.to(options.device) for ids in prompts(options.pairs, options.tokens))
    pairs = tokenized(clean, corrupted)
    heads = ("layer", "head", "position")
    tasks: dict[str, Callable[[], Any]] = {
        "by hand: residual streams, heads, MLPs": lambda: by_hand(model.module, clean, corrupted),
        "ours: the same": lambda: attribution_patching(model, pairs, sites=list(SOME)),
        f"ours: {len(EVERY)} sites": lambda: attribution_patching(model, pairs, sites=list(EVERY)),
        "ours: every head at every position": lambda: attribution_patching(model, pairs, sites="z", over=heads),
        "ours: AtP* (q, k, v, z), query and key fix": lambda: attribution_patching(
            model, pairs, sites=["q", "k", "v", "z"], over=heads, qk_fix=True
        ),
        "ours: the same, with GradDrop": lambda: attribution_patching(
            model, pairs, sites=["q", "k", "v", "z"], over=heads, qk_fix=True, grad_drop=True
        ),
        "exact sweep of resid_pre": lambda: sweep(model, pairs),
    }
    peer = None if options.no_peer else Peer(options)
    ratios: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for repetition in range(options.repetitions + 1):
        unit, _ = timed(lambda: forward(model.module, clean))
        for name, task in tasks.items():
            taken, found[name] = timed(task)
            _note(name, taken, unit, repetition, ratios, seconds)
        if peer is not None:
            told = peer.ask()
            found["TransformerLens"] = torch.tensor(told["z"])
            name = "TransformerLens 4.3: embedding, heads, MLPs"
            _note(name, told["seconds"], told["unit"], repetition, ratios, seconds)
    if peer is not None:
        peer.end()
    _write(options, ratios, seconds, _agreement(found))


def _note(
    name: str,
    taken: float,
    unit: float,
    repetition: int,
    ratios: dict[str, list[float]],
    seconds: dict[str, list[float]],
) -> None:
    if repetition == 0:  # to warm up
        return
    ratios.setdefault(name, []).append(taken / unit)
    seconds.setdefault(name, []).append(taken)


def _agreement(found: dict[str, Any]) -> str:
    ours = torch.from_numpy(found["ours: every head at every position"].planes["score"])
    hand = found["by hand: residual streams, heads, MLPs"]["z"].flatten(0, 1)
    text = f"Heads: ours and by hand differ by at most {float((ours - hand).abs().max()):.1e}"
    if "TransformerLens" in found:
        lens = found["TransformerLens"].reshape(ours.shape)
        text += f", ours and TransformerLens by {float((ours - lens).abs().max()):.1e}"
    return f"{text}; the largest score is {float(ours.abs().max()):.2g}."


def _write(
    options: argparse.Namespace,
    ratios: dict[str, list[float]],
    seconds: dict[str, list[float]],
    agreement: str,
) -> None:
    lines = [
        "# Attribution patching",
        "",
        f"`python -m benchmarks.attribution --repetitions {options.repetitions} --threads {options.threads} --tokens "
        f"{options.tokens} --pairs {options.pairs} --device {options.device}`, torch {torch.__version__}, Python "
        f"{platform.python_version()}. GPT-2-small shape, float32, random weights. Medians; the unit is a plain "
        "forward of the same batch in the same repetition.",
        "",
        "| | forwards | seconds |",
        "|---|---|---|",
    ]
    for name, values in ratios.items():
        lines.append(f"| {name} | {statistics.median(values):.1f} | {statistics.median(seconds[name]):.3f} |")
    text = "\n".join([*lines, "", agreement, ""])
    (Path(__file__).parent / "results" / f"attribution_{options.device}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peer", action="store_true", help="leave TransformerLens out")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    answer(given) if given.answer else main(given)
