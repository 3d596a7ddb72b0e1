"""Sweep speed on GPT-2-small shape: ours against one hooked forward a cell, and against a hand-written packed sweep.

    python -m benchmarks.sweep [--repetitions 5] [--threads 2] [--tokens 16]

Random weights of GPT-2-small shape (12 layers, 12 heads, width 768, vocabulary 50,257), one prompt pair, every
`resid_pre` cell of layer × position. The contestants take turns within one process, so whatever else loads the machine
loads them all; ratios are per repetition, and their median is the figure. CPU seconds (all threads) leave out the time
that other processes took, and with one thread they are the steadiest figure. Every contestant's cells are compared.
The FLOP floor is the plan's matmul FLOPs at the best matmul rate measured between the repetitions.
Writes benchmarks/results/sweep_threads_<n>.md.
"""

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from tracing.models import LanguageModel
from tracing.patching import sweep
from tracing.patching.sweeps import prepare
from tracing.prompts import TokenizedPair

RESULTS = Path(__file__).parent / "results"


def random_gpt2_small() -> LanguageModel:
    """GPT-2-small shape, random weights: speed does not depend on what they are."""
    torch.manual_seed(0)
    return LanguageModel(GPT2LMHeadModel(GPT2Config()))


def random_pair(tokens: int) -> TokenizedPair:
    """Two prompts that differ from their first token on, so that no cell is known without running."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(50_000, (tokens,), generator=generator).tolist()
    corrupted = torch.randint(50_000, (tokens,), generator=generator).tolist()
    texts = tuple(str(i) for i in clean)
    return TokenizedPair(1, tuple(clean), tuple(corrupted), texts, tuple(map(str, corrupted)), (11,), (13,))


def ours(model: LanguageModel, pair: TokenizedPair) -> Tensor:
    """`tracing.patching.sweep`, baselines included."""
    return torch.from_numpy(sweep(model, [pair]).examples[0])


@torch.inference_mode()
def hooked_one_by_one(model: LanguageModel, pair: TokenizedPair) -> Tensor:
    """What a researcher writes first: one full forward a cell with a forward-pre hook on the block."""
    network: Any = model.module
    blocks = network.transformer.h
    clean, corrupted = torch.tensor([pair.clean_ids]), torch.tensor([pair.corrupted_ids])
    saved: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, args: saved.append(args[0])) for block in blocks]
    network(clean, use_cache=False)
    for handle in handles:
        handle.remove()
    cells = torch.zeros(len(blocks), pair.length)
    for layer, block in enumerate(blocks):
        for position in range(pair.length):

            def patch(_: object, args: tuple[Tensor, ...], layer: int = layer, position: int = position) -> object:
                hidden = args[0].clone()
                hidden[:, position] = saved[layer][:, position]
                return (hidden, *args[1:])

            handle = block.register_forward_pre_hook(patch)
            logits = network(corrupted, use_cache=False).logits[0, -1]
            handle.remove()
            cells[layer, position] = logits[pair.answer_ids[0]] - logits[pair.foil_ids[0]]
    return cells


@torch.inference_mode()
def written_by_hand(model: LanguageModel, pair: TokenizedPair) -> Tensor:
    """GPT-2 from its weights, for this one task: one walk through the layers, patches of layer l join at layer l.

    Patches of one layer are packed into one sequence (positions before the patched one come from the corrupted run's
    keys and values); layers are rows of the batch. Nothing generic, nothing checked.
    """
    network: Any = model.module
    body = network.transformer
    length, heads, width = pair.length, 12, 768
    clean = _residuals(body, pair.clean_ids)[0]
    base, keys, values = _residuals(body, pair.corrupted_ids)
    rows = torch.cat([torch.full((length - p,), p) for p in range(length)])
    positions = torch.cat([torch.arange(p, length) for p in range(length)])
    seen = torch.cat(
        [
            torch.arange(length)[None] < rows[:, None],
            (rows[:, None] == rows[None]) & (positions[None] <= positions[:, None]),
        ],
        1,
    )
    mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
    patched, last = rows == positions, positions == length - 1
    batch = torch.empty(0, len(rows), width)
    for layer, block in enumerate(body.h):
        entering = base[layer][positions]
        entering[patched] = clean[layer]
        batch = torch.cat([batch, entering[None]])
        q, k, v = _linear(block.ln_1(batch), block.attn.c_attn).tensor_split(3, -1)
        k, v = (
            torch.cat([old.expand(len(batch), -1, -1, -1), new.view(*new.shape[:2], heads, -1).transpose(1, 2)], 2)
            for old, new in ((keys[layer], k), (values[layer], v))
        )
        if layer == len(body.h) - 1:
            q, batch = q[:, last], batch[:, last]
        q = q.reshape(*q.shape[:2], heads, -1).transpose(1, 2)
        here = mask[last] if layer == len(body.h) - 1 else mask
        z = functional.scaled_dot_product_attention(q, k, v, attn_mask=here).transpose(1, 2).flatten(2)
        batch = batch + _linear(z, block.attn.c_proj)
        batch = batch + _linear(block.mlp.act(_linear(block.ln_2(batch), block.mlp.c_fc)), block.mlp.c_proj)
    weight = network.lm_head.weight
    read: Tensor = body.ln_f(batch) @ (weight[pair.answer_ids[0]] - weight[pair.foil_ids[0]])
    return read


def _linear(x: Tensor, conv: Any) -> Tensor:
    return torch.addmm(conv.bias, x.reshape(-1, x.shape[-1]), conv.weight).view(*x.shape[:-1], -1)


def _residuals(body: Any, ids: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Residuals before each block `[position, d_model]`, keys and values `[head, position, d_head]` of one prompt."""
    hidden = body.wte(torch.tensor(ids)) + body.wpe.weight[: len(ids)]
    residuals, keys, values = [], [], []
    for block in body.h:
        residuals.append(hidden)
        q, k, v = (
            part.reshape(len(ids), 12, -1).transpose(0, 1)
            for part in _linear(block.ln_1(hidden), block.attn.c_attn).tensor_split(3, -1)
        )
        keys.append(k)
        values.append(v)
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
        hidden = hidden + _linear(z, block.attn.c_proj)
        hidden = hidden + _linear(block.mlp.act(_linear(block.ln_2(hidden), block.mlp.c_fc)), block.mlp.c_proj)
    return residuals, keys, values


def matmul_rate() -> float:
    """FLOPs a second of a large fp32 matmul, best of three."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    best = min(_timed(lambda: a @ b)[0].wall for _ in range(3))
    return 2 * 1024 * 768 * 3072 / best


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that something took: by the clock, and of processor time."""

    wall: float
    cpu: float


def _timed(function: Callable[[], Tensor]) -> tuple[Spent, Tensor]:
    wall, cpu = time.perf_counter(), time.process_time()
    value = function()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), value


def main() -> None:
    """Run the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, pair = random_gpt2_small(), random_pair(options.tokens)
    plan = prepare(model, [pair]).plan
    contestants: dict[str, Callable[[LanguageModel, TokenizedPair], Tensor]] = {
        "one hooked forward a cell": hooked_one_by_one,
        "tracing.patching.sweep": ours,
        "written by hand, packed": written_by_hand,
    }
    times: dict[str, list[Spent]] = {name: [] for name in contestants}
    rates = []
    for _ in range(options.repetitions):
        cells = {}
        for name, contestant in contestants.items():
            rates.append(matmul_rate())
            spent, cells[name] = _timed(partial(contestant, model, pair))
            times[name].append(spent)
        reference = cells["one hooked forward a cell"]
        for name, values in cells.items():
            torch.testing.assert_close(values, reference, atol=1e-5, rtol=0, msg=name)
    report = _report(times, plan.cells, plan.flops, plan.naive_flops, max(rates), options)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"sweep_threads_{options.threads}.md").write_text(report, encoding="utf-8")
    print(report)


def _report(
    times: dict[str, list[Spent]],
    cells: int,
    flops: float,
    naive_flops: float,
    rate: float,
    options: argparse.Namespace,
) -> str:
    naive = times["one hooked forward a cell"]
    lines = [
        "# Activation-patching sweep, GPT-2-small shape",
        "",
        f"`python -m benchmarks.sweep`: {cells} `resid_pre` cells, {options.tokens} tokens, 1 pair, fp32, "
        f"{options.threads} threads, medians of {options.repetitions} interleaved repetitions "
        f"(load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {platform.machine()}). "
        "Cells agree to 1e-5. Other work may load the machine: read the ratios.",
        "",
        "| contestant | seconds, median (fastest) | times faster than hooks | CPU seconds, median | CPU, times less "
        "| fastest, of the FLOP floor |",
        "|---|---|---|---|---|---|",
    ]
    floor = flops / rate
    for name, spent in times.items():
        fastest = min(one.wall for one in spent)
        lines.append(
            f"| {name} | {_median(one.wall for one in spent):.2f} ({fastest:.2f}) | {_ratio(naive, spent, 'wall'):.1f} "
            f"| {_median(one.cpu for one in spent):.2f} | {_ratio(naive, spent, 'cpu'):.1f} | {fastest / floor:.2f} × |"
        )
    hand = times["written by hand, packed"]
    own = times["tracing.patching.sweep"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines += [
        "",
        f"Ours takes {_ratio(own, hand, 'wall'):.2f} × the time of the hand-written sweep and "
        f"{_ratio(own, hand, 'cpu'):.2f} × its processor time (medians of ratios). The plan is {flops / 1e9:.0f} GFLOP "
        f"against {naive_flops / 1e9:.0f} GFLOP of full forwards; at the best matmul rate seen "
        f"({rate / 1e9:.0f} GFLOP/s) the floor is {floor:.2f} s. Peak memory of the process {peak:.2f} GiB "
        "(the weights are 0.46 GiB).",
        "",
    ]
    return "\n".join(lines)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _ratio(slow: list[Spent], fast: list[Spent], clock: str) -> float:
    """Median over repetitions of one contestant's time through another's."""
    return _median(getattr(a, clock) / getattr(b, clock) for a, b in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main()
