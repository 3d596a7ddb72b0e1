"""Prompt pairs as CSV that an upload reads back to the same pairs, and that no spreadsheet runs.

A cell that a spreadsheet would take for a formula gets a quote (') in front. So that this can be undone without
touching the texts of others ("'s" stays "'s"), the quote is added where any quotes and spaces stand before a character
that begins a formula, and one is taken away where a quote, any more of them and spaces do.
"""

import csv
import io
import re
from collections.abc import Sequence
from typing import Final

from tracing.prompts import PromptPair

HEADER: Final = ("clean", "corrupted", "answer", "foil", "label")
LONGEST_CELL: Final = 100_000
"""Readers of CSV refuse longer cells (Python's at 131,072 characters)."""
_RISKY: Final = re.compile(r"'* *[=+\-@\t\r\n]")
_QUOTED: Final = re.compile(r"'+ *[=+\-@\t\r\n]")


def quoted(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _RISKY.match(text) else text


def unquoted(cell: str) -> str:
    """The text of which `cell` was made."""
    return cell[1:] if _QUOTED.match(cell) else cell


def joined(words: Sequence[str]) -> str:
    """Several answers as one cell."""
    return "|".join(words)


def split(cell: str) -> list[str]:
    return [word for word in cell.split("|") if word]


def fit_csv(pairs: Sequence[PromptPair]) -> bool:
    """Whether CSV can hold these pairs: one whose answer has a `|` in it would come back as two answers, and spans have
    no column."""
    return not any(pair.spans for pair in pairs) and all(
        all(words) and "|" not in "".join(words) and len(joined(words)) <= LONGEST_CELL
        for pair in pairs
        for words in (pair.answer, pair.foil)
    )


def csv_of(pairs: Sequence[PromptPair]) -> str:
    """The pairs, which `fit_csv`, with a header."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    for pair in pairs:
        cells = (pair.clean, pair.corrupted, joined(pair.answer), joined(pair.foil), pair.label)
        writer.writerow([quoted(cell) for cell in cells])
    return out.getvalue()
