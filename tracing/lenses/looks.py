"""The numbers that a lens keeps of logits, in as few passes over the vocabulary as they need.

Probability, entropy and KL divergence share one exponential: with m the largest logit, x = logits − m and e = exp x,

    p = e / Σe,    entropy = log Σe − Σ e x / Σe,    KL(final ‖ p) = Σ p_final log p_final − Σ p_final x + log Σe

On the CPU rows are taken a few at a time, so that what one pass writes is still in the cache when the next one reads
it; buffers are the same for every layer.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tracing.metrics import Targets, best_answer, get

BLOCK_NUMBERS: Final = 2**19
"""Logits of a block on the CPU: its few buffers stay in a cache of some megabytes."""
SHARED: Final = frozenset({"probability", "kl", "entropy"})
"""Looks at the distribution, which share the exponential."""
Measure = Callable[[Tensor, Targets | None], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was seen of some places' logits."""

    values: dict[str, Tensor]
    """By look, `[place]`."""
    ids: Tensor
    """The top tokens of the places that are shown, `[shown, k]`."""
    probabilities: Tensor


class Looks:
    """Looks at the logits of some places, layer after layer; `final` `[place, vocab]` are the model's own.

    `measure` is the metric, where it is one of the looks. `shown` are the places whose `top` tokens are kept, in order.
    """

    def __init__(
        self,
        looks: Collection[str],
        final: Tensor,
        targets: Targets | None,
        measure: Measure,
        shown: Sequence[int],
        top: int,
    ) -> None:
        self.looks, self.targets, self.measure, self.top = looks, targets, measure, top
        self.shown = tuple(shown) if top else ()
        places, vocabulary = final.shape
        size = max(1, BLOCK_NUMBERS // vocabulary) if final.device.type == "cpu" else places
        self.blocks = [slice(lo, min(lo + size, places)) for lo in range(0, places, size)]
        self._work = [torch.empty_like(final[: min(size, places)]) for _ in range(3 if self._distributed else 1)]
        self._shares: Tensor | None = None
        self._own: list[Tensor] = []
        """Σ p log p of the model's own distribution, a block each."""
        if "kl" in looks:
            self._shares = torch.empty_like(final)
            for block in self.blocks:
                shifted, raised, total = self._raised(final[block])
                self._own.append(self._dot(raised, shifted) / total - total.log())
                torch.div(raised, total[:, None], out=self._shares[block])

    @property
    def _distributed(self) -> bool:
        return bool(SHARED & set(self.looks)) or bool(self.shown)

    def __call__(self, logits: Tensor) -> Seen:
        """What is seen of logits `[place, vocab]`."""
        parts = [self._block(number, block, logits[block]) for number, block in enumerate(self.blocks)]
        return Seen(
            {look: torch.cat([part.values[look] for part in parts]) for look in parts[0].values},
            torch.cat([part.ids for part in parts]),
            torch.cat([part.probabilities for part in parts]),
        )

    def _block(self, number: int, block: slice, logits: Tensor) -> Seen:
        targets = self.targets and self.targets.rows(block.start, block.stop)
        found = {}
        if "metric" in self.looks:
            found["metric"] = self.measure(logits, targets)
        if "rank" in self.looks and targets is not None:
            # Counted as numbers: sums of booleans are widened to eight bytes each first.
            above = torch.gt(logits, best_answer(logits, targets)[:, None], out=self._work[0][: len(logits)])
            found["rank"] = above.sum(-1)
        ids, probabilities = logits.new_empty((0, self.top), dtype=torch.long), logits.new_empty((0, self.top))
        if not self._distributed:
            return Seen(found, ids, probabilities)
        shifted, raised, total = self._raised(logits)
        if "probability" in self.looks and targets is not None:
            counts = torch.tensor([len(one) for one in targets.answers], device=logits.device)
            found["probability"] = get("logit")(raised, targets) * counts / total  # the mean over answers, times them
        if "kl" in self.looks:
            assert self._shares is not None
            found["kl"] = self._own[number] - self._dot(self._shares[block], shifted) + total.log()
        if "entropy" in self.looks:
            found["entropy"] = total.log() - self._dot(raised, shifted) / total
        rows = [place - block.start for place in self.shown if block.start <= place < block.stop]
        if rows:
            # Of logits, not of their exponentials: far below the largest those are all nothing.
            best = (shifted if len(rows) == len(shifted) else shifted[rows]).topk(self.top)
            ids, probabilities = best.indices, best.values.exp() / total[rows, None]
        return Seen(found, ids, probabilities)

    def _raised(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, e and Σe; the first two are buffers."""
        shifted, raised = (work[: len(logits)] for work in self._work[:2])
        torch.sub(logits, logits.amax(-1, keepdim=True), out=shifted)
        torch.exp(shifted, out=raised)
        return shifted, raised, raised.sum(-1)

    def _dot(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.mul(one, other, out=self._work[2][: len(one)]).sum(-1)
