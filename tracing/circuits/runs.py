"""The unpatched runs that edges are taken from: what every source wrote, and what every block was called with.

1. Pairs of one length are one group; a group is cut into parts whose sources fit in memory.
2. The base run (noising: clean; denoising: corrupted) keeps the residual stream at every block and all writes.
3. The ablated values are another run's writes: the pair's other prompt, another pair's, their mean, or zero.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor

from tracing.circuits.parts import Block
from tracing.engines.hooks import first_argument, hooks, main_output
from tracing.errors import PromptError, SpecError, Stopped
from tracing.metrics import Targets
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair

Ablation = Literal["interchange", "zero", "mean", "resample"]
Direction = Literal["noising", "denoising"]
ABLATIONS: Final = ("interchange", "zero", "mean", "resample")
BYTES: Final = 2**28
"""About how much the sources of one part of a group may take."""


@dataclass(slots=True)
class Writes:
    """What the sources of one run wrote, lists by layer: `[pair, T, d_model]`; `z` `[pair, T, head, d_head]`."""

    embedding: Tensor
    z: list[Tensor] = field(default_factory=list)
    mlp: list[Tensor] = field(default_factory=list)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Writes":
        """The same function of every tensor."""
        return Writes(change(self.embedding), [change(z) for z in self.z], [change(m) for m in self.mlp])

    def rows(self, count: int) -> "Writes":
        """The writes of one row for a batch of `count`."""
        return self.map(lambda value: value.expand(count, *value.shape[1:]))


@dataclass(slots=True)
class Run:
    """One run: `residual[layer]` enters block `layer`, the last one the final norm. All `[pair, T, d_model]`."""

    writes: Writes
    residual: list[Tensor] = field(default_factory=list)
    middle: list[Tensor] = field(default_factory=list)
    """What each MLP's copy of the residual stream is (before its norm)."""
    attention: list[Tensor] = field(default_factory=list)
    """What attention adds to the residual stream."""
    before_norm: list[Tensor] = field(default_factory=list)
    """Sandwich norms: the heads' sum (with bias) that the post norm gets."""


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one block beside the residual stream, for one row."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def rows(self, count: int) -> "Call":
        """The same for a batch of `count` rows of the same length without padding."""
        return Call(
            tuple(_expanded("", one, count) for one in self.args),
            {name: _expanded(name, one, count) for name, one in self.kwargs.items()},
        )


def _expanded(name: str, value: Any, count: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_expanded(name, one, count) for one in value)
    if isinstance(value, dict):
        return {key: _expanded(key, one, count) for key, one in value.items()}
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    if name == "alibi":  # [row · head, 1, position]
        return value.repeat(count, *[1] * (value.dim() - 1))
    return value.expand(count, *value.shape[1:]) if value.shape[0] == 1 else value


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Pairs of one length that run together."""

    numbers: tuple[int, ...]
    """Places in the caller's list."""
    members: tuple[TokenizedPair, ...]
    base: Run
    ablated: Writes
    calls: list[Call]
    targets: Targets
    clean_final: Tensor
    """The clean run's final residual stream, `[pair, T, d_model]`."""
    other_final: Tensor
    """That of the pair's other prompt."""


def parts(
    model: LanguageModel,
    blocks: Sequence[Block],
    pairs: Sequence[TokenizedPair],
    *,
    ablation: Ablation = "interchange",
    direction: Direction = "noising",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Part]:
    """Run the baselines of each part, one after another.

    Raises `PromptError` where resampling has no other pair of the same length, `Stopped` between two runs.
    """
    groups: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(pair.length, []).append(number)
    for length, numbers in groups.items():
        calls = block_calls(model, pairs[numbers[0]].clean_ids)
        at_once = _at_once(model, length)
        partner = _partners(numbers, seed) if ablation == "resample" else {}
        mean = None
        if ablation == "mean":
            mean = _mean(model, blocks, [_ids(pairs[n], direction, source=True) for n in numbers], at_once)
        for lo in range(0, len(numbers), at_once):
            if should_stop is not None and should_stop():
                raise Stopped
            own = tuple(numbers[lo : lo + at_once])
            members = tuple(pairs[n] for n in own)
            base = run(model, blocks, [_ids(pair, direction, source=False) for pair in members])
            others = run(model, blocks, [_ids(pair, direction, source=True) for pair in members])
            ablated = others.writes
            if ablation == "zero":
                ablated = others.writes.map(torch.zeros_like)
            elif mean is not None:
                ablated = mean.rows(len(own))
            elif partner:
                ids = [_ids(pairs[partner[n]], direction, source=True) for n in own]
                ablated = run(model, blocks, ids).writes
            clean = base if direction == "noising" else others
            yield Part(
                own, members, base, ablated, calls, Targets.of(members), clean.residual[-1], others.residual[-1]
            )  # fmt: skip


def check_options(ablation: str, direction: str, batch: Any = "auto") -> None:
    """Raises `SpecError` for an unknown ablation or direction, or a batch of no size."""
    if batch != "auto" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise SpecError(f"{batch!r} is no batch size.", remedy='Use "auto" or a number of rows from 1 up.')
    if ablation not in ABLATIONS:
        raise SpecError(f"Unknown ablation {ablation!r}.", remedy=f"Use one of {', '.join(ABLATIONS)}.")
    if direction not in ("noising", "denoising"):
        raise SpecError(f"Unknown direction {direction!r}.", remedy='Use "denoising" or "noising".')


def _ids(pair: TokenizedPair, direction: str, *, source: bool) -> tuple[int, ...]:
    return pair.corrupted_ids if (direction == "noising") == source else pair.clean_ids


def _at_once(model: LanguageModel, length: int) -> int:
    facts = model.facts
    sources = 1 + facts.n_layers * (facts.n_heads + 1)
    return max(1, BYTES // (sources * length * facts.d_model * model.dtype.itemsize))


def _partners(numbers: Sequence[int], seed: int) -> dict[int, int]:
    """Another pair of the group for each, by a seeded rotation of a seeded order."""
    if len(numbers) < 2:
        raise PromptError(
            "Resampling takes values from another pair of the same length, and there is only one.",
            remedy='Add pairs of that length, or use ablation="interchange".',
        )
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed)).tolist()
    return {numbers[a]: numbers[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}


def _mean(model: LanguageModel, blocks: Sequence[Block], ids: Sequence[tuple[int, ...]], at_once: int) -> Writes:
    """The mean over prompts at each position, with a pair axis of length one."""
    total: Writes | None = None
    for lo in range(0, len(ids), at_once):
        found = run(model, blocks, ids[lo : lo + at_once]).writes.map(lambda value: value.sum(0, keepdim=True))
        if total is None:
            total = found
            continue
        total = Writes(
            total.embedding + found.embedding,
            [a + b for a, b in zip(total.z, found.z, strict=True)],
            [a + b for a, b in zip(total.mlp, found.mlp, strict=True)],
        )
    assert total is not None
    return total.map(lambda value: value / len(ids))


@torch.inference_mode()
def run(model: LanguageModel, blocks: Sequence[Block], ids: Sequence[Sequence[int]]) -> Run:
    """One forward of prompts of one length that keeps every source's write."""
    found = Run(Writes(torch.empty(0)))
    rows = len(ids)
    with hooks() as registered:
        registered.after(
            model.part(model.adapter.embeddings[0]),
            lambda output: setattr(found.writes, "embedding", main_output(output).clone()),
        )
        for block in blocks:
            _watch(registered, block, found, model, rows)
        registered.after(blocks[-1].module, lambda output: found.residual.append(main_output(output).clone()))
        call_backbone(model, torch.tensor([list(row) for row in ids], device=model.device))
    return found


def _watch(registered: Any, block: Block, found: Run, model: LanguageModel, rows: int) -> None:
    facts = model.facts

    def shaped(value: Tensor) -> Tensor:
        return value.reshape(rows, -1, value.shape[-1]).clone()

    def z(args: Any, kwargs: Any) -> None:
        found.writes.z.append(torch.unflatten(shaped(first_argument(args, kwargs)), -1, (facts.n_heads, facts.d_head)))

    def middle(args: Any, kwargs: Any) -> None:
        # Blocks that share a norm hand the MLP the normed stream; its copy is then the block's own input.
        value = found.residual[-1] if block.shared_norm is not None else shaped(first_argument(args, kwargs))
        found.middle.append(value)

    registered.before(block.module, lambda a, k: found.residual.append(first_argument(a, k).clone()))
    registered.before(block.out_proj, z)
    registered.before(block.mlp_entrance, middle)
    registered.after(block.attn_exit, lambda output: found.attention.append(shaped(main_output(output))))
    registered.after(block.mlp_exit, lambda output: found.writes.mlp.append(shaped(main_output(output))))
    if block.post_norm is not None:
        registered.before(block.post_norm, lambda a, k: found.before_norm.append(first_argument(a, k).clone()))


@torch.inference_mode()
def block_calls(model: LanguageModel, ids: Sequence[int]) -> list[Call]:
    """What each block is called with beside the residual stream, for one row as long as `ids`."""
    found: list[Call] = []

    def keep(args: Any, kwargs: Any) -> None:
        named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        found.append(Call(tuple(args[1:]), named))

    with hooks() as registered:
        for block in model.block_modules:
            registered.before(block, keep)
        call_backbone(model, torch.tensor([list(ids)], device=model.device))
    return found


def call_backbone(model: LanguageModel, ids: Tensor) -> None:
    """Run the blocks and what stands before them, as the model itself does."""
    adapter, backbone = model.adapter, model.part(model.adapter.backbone)
    if adapter.input_name:
        backbone(**{adapter.input_name: ids}, use_cache=False)
    else:
        backbone(ids)
