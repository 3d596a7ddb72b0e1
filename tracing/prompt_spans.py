"""Named spans of a prompt, from what a user writes to token positions. Torch-free.

A span is a word (or words) of the clean prompt, its n-th occurrence, one position, or a range of positions. Both
prompts of a pair are aligned, so a span is the same positions in both.
"""

from collections.abc import Sequence

Where = str | int | tuple[str, int] | tuple[int, int | None]
"""A word, a position, (word, occurrence from 1), or (first position, position behind the last or None)."""
Span = tuple[str, int, int]
"""Name, first position, the position behind the last one."""
Problem = tuple[str, str]
"""What is wrong, and what to do."""


def resolve(spans: Sequence[tuple[str, Where]], texts: Sequence[str]) -> tuple[tuple[Span, ...], list[Problem]]:
    """The spans that lie in a prompt of the tokens `texts`, and a problem for each of the others."""
    found: list[Span] = []
    problems: list[Problem] = []
    for name, where in spans:
        place = _place(name, where, texts)
        if not name.strip() or name in [one for one, _, _ in found]:
            problems.append((f"the span name {name!r} is empty or given twice.", "Give each span a name of its own."))
        elif isinstance(place, str):
            problems.append((place, f"The tokens are {' | '.join(map(repr, texts))}."))
        else:
            found.append((name, *place))
    return tuple(found), problems


def _place(name: str, where: Where, texts: Sequence[str]) -> tuple[int, int] | str:
    if isinstance(where, str):
        places = _occurrences(where, texts)
        if len(places) == 1:
            return places[0]
        times = f"is there {len(places)} times: write ({where!r}, 1) for the first" if places else "is no whole tokens"
        return f"the span {name}: {where!r} {times}."
    if isinstance(where, tuple) and isinstance(where[0], str):
        word, number = where
        places = _occurrences(word, texts)
        if 1 <= number <= len(places):
            return places[number - 1]
        return f"the span {name}: {word!r} is there {len(places)} times, so it has no occurrence {number}."
    first, end = (where, where + 1 or None) if isinstance(where, int) else (int(where[0]), where[1])
    start = first + len(texts) if first < 0 else first
    stop = len(texts) if end is None else end + len(texts) if end < 0 else end
    if 0 <= start < stop <= len(texts):
        return start, stop
    shown = first if isinstance(where, int) else f"({first}, {end})"
    return f"the span {name}: {shown} is no place in a prompt of {len(texts)} tokens."


def _occurrences(word: str, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Runs of tokens that are exactly these words, up to spaces around them, in order."""
    pieces = [text.removeprefix("##") if text.startswith("##") and len(text) > 2 else text for text in texts]
    wanted = word.strip()
    found = []
    for start in range(len(pieces)):
        text = ""
        for end in range(start, len(pieces)):
            text += pieces[end]
            if text.strip() == wanted and pieces[start].strip() and pieces[end].strip():
                found.append((start, end + 1))
            if len(text.strip()) > len(wanted):
                break
    return found
