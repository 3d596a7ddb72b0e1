"""How the tokens of many rows lie side by side in one batch.

A row runs positions start … answer; those before it stand in the cache. Rows are laid into *bins* of one width C, each
bin a sequence of the batch: wide bins waste attention on masked keys, narrow ones leave gaps, so the width is chosen by
the cost of a token and of a key. Rows of equal length become sequences of their own, and the rows of a layer ×
position map (lengths 1 … T) pair up without gaps in bins of T + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The tokens of R rows in B bins of C places; all tensors on the CPU."""

    rows: Tensor
    """The row of each place, `[B · C]`; −1 in a gap."""
    positions: Tensor
    """The position of each place, `[B · C]`; a gap has the answer's."""
    bins: int
    answers: Tensor
    """The place of each row's answer token, `[R]`."""
    prefix: int
    """How many unpatched positions stand before each bin as keys."""
    seen: Tensor
    """Which keys a place may look at, `[B, C, prefix + C]`; a gap looks at itself, so that it stays a number."""

    @property
    def width(self) -> int:
        """Places of a bin."""
        return len(self.rows) // self.bins

    def places(self, patched: Tensor) -> Tensor:
        """The places whose (row, position) is true in `patched` `[R, position]`, in rising order."""
        inside = patched[self.rows.clamp_min(0), self.positions] & (self.rows >= 0)
        return inside.nonzero()[:, 0]


@lru_cache(maxsize=64)
def packed(starts: tuple[int, ...], answer: int, token_cost: float, key_cost: float, widest: int) -> Layout:
    """Rows from `starts` to `answer` in bins of at most `widest` places, or one row where that is longer.

    `token_cost` is what a token costs without attention, `key_cost` what it costs to look at one key more.
    """
    sizes = [answer + 1 - start for start in starts]
    bins = _bins(sizes, max(starts), token_cost, key_cost, widest)
    width = max(sum(sizes[row] for row in one) for one in bins)
    rows = torch.full((len(bins), width), -1)
    positions = torch.full((len(bins), width), answer)
    answers = torch.zeros(len(starts), dtype=torch.long)
    for number, one in enumerate(bins):
        place = 0
        for row in one:
            rows[number, place : place + sizes[row]] = row
            positions[number, place : place + sizes[row]] = torch.arange(starts[row], answer + 1)
            place += sizes[row]
            answers[row] = number * width + place - 1
    first, prefix = torch.tensor(starts)[rows.clamp_min(0)], max(starts)
    gap = rows < 0
    before = (torch.arange(prefix) < first[:, :, None]) & ~gap[:, :, None]
    own = (rows[:, :, None] == rows[:, None, :]) & (positions[:, None, :] <= positions[:, :, None])
    own = torch.where(gap[:, :, None], torch.eye(width, dtype=torch.bool), own)
    return Layout(rows.flatten(), positions.flatten(), len(bins), answers, prefix, torch.cat([before, own], 2))


def whole(rows: int, length: int, answer: int) -> Layout:
    """Full-length rows, a bin each; what a place sees is up to the model."""
    places = torch.arange(rows * length)
    answers = torch.arange(rows) * length + answer
    return Layout(places // length, places % length, rows, answers, 0, torch.empty(0, dtype=torch.bool))


def _bins(sizes: Sequence[int], prefix: int, token_cost: float, key_cost: float, widest: int) -> list[list[int]]:
    """Rows by bin: of the numbers of bins tried, the one whose places and keys cost least."""
    total, longest = sum(sizes), max(sizes)
    most = max(1, total // longest)
    tried = {most, *(max(1, most >> shift) for shift in range(1, most.bit_length() + 1))}
    best: tuple[float, list[list[int]]] | None = None
    for count in sorted(tried, reverse=True):
        width = max(longest, -(-total // count))
        if width > max(widest, longest) and best is not None:
            break
        bins = _fill(sizes, width)
        used = max(sum(sizes[row] for row in one) for one in bins)
        cost = len(bins) * used * (token_cost + key_cost * (prefix + used))
        if best is None or cost < best[0]:
            best = cost, bins
    assert best is not None
    return best[1]


def _fill(sizes: Sequence[int], width: int) -> list[list[int]]:
    """First fit, longest rows first."""
    bins: list[list[int]] = []
    room: list[int] = []
    # The first bin with room for a size only moves on while sizes shrink, so full bins are not looked at again.
    first = 0
    for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
        size = sizes[row]
        number = next((n for n in range(first, len(bins)) if room[n] >= size), len(bins))
        if number == len(bins):
            bins.append([])
            room.append(width)
        bins[number].append(row)
        room[number] -= size
        while first < len(bins) and not room[first]:
            first += 1
    return bins
