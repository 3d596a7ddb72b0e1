"""Axes of looks: layers, and positions of prompts of any lengths, lined up at their first or last token."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tracing.errors import SpecError
from tracing.events import Axis, Tick
from tracing.lenses.prompts import Prompt, is_whole

Positions = Literal["start", "end"]


def layers_axis(layers: Sequence[int], *more: str) -> Axis:
    """One tick a layer, then ticks of their own names."""
    return Axis("layer", "layer", (*(Tick(str(layer)) for layer in layers), *(Tick(name) for name in more)))


def heads_axis(heads: Sequence[int]) -> Axis:
    """One tick a query head."""
    return Axis("head", "head", tuple(Tick(str(head)) for head in heads))


def positions_axis(prompts: Sequence[Prompt], positions: Positions) -> Axis:
    """One tick a position; texts are those of the first prompt that has it, `varies` where others have another."""
    longest = max(prompt.length for prompt in prompts)
    ticks = []
    for column in range(longest):
        here = [
            prompt.tokens[column - shift(prompt.length, longest, positions)]
            for prompt in prompts
            if 0 <= column - shift(prompt.length, longest, positions) < prompt.length
        ]
        ticks.append(Tick(here[0], varies=len(set(here)) > 1 or len(here) < len(prompts)))
    uneven = len({prompt.length for prompt in prompts}) > 1
    return Axis("position", f"position from the {positions}" if uneven else "position", tuple(ticks))


def shift(length: int, longest: int, positions: Positions) -> int:
    """The column of a prompt's first token."""
    return longest - length if positions == "end" else 0


def chosen(numbers: Any, count: int, what: str) -> tuple[int, ...]:
    """Layers or heads (one or several) as numbers from 0; None means all, negative ones count from the end.

    Raises `SpecError` for one that does not exist, is named twice, or where there is none.
    """
    if numbers is None:
        return tuple(range(count))
    listed = list(numbers) if isinstance(numbers, Iterable) else [numbers]
    found = tuple(int(one) % count for one in listed if is_whole(one) and -count <= one < count)
    if len(found) < len(listed) or len(set(found)) < len(found) or not found:
        raise SpecError(
            f"{what}s {listed} are not different {what}s of this model, which has {count}.",
            remedy=f"Give some of 0 to {count - 1}, each once.",
        )
    return found
