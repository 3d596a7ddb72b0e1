"""Token text as people can read it: leading spaces, line ends and invisible characters become visible glyphs.

The browser code does the same for figures (`frontend/src/core`); both only ever make text, never markup.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}
_SPECIAL_NAMES = {
    "<|endoftext|>": "eos",
    "<|begin_of_text|>": "bos",
    "<|end_of_text|>": "eos",
    "<s>": "bos",
    "</s>": "eos",
}
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp", "Zs"})


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a token's text; `glyph` marks a stand-in for a character one cannot see."""

    text: str
    glyph: bool


@dataclass(frozen=True, slots=True)
class TokenChip:
    """A token ready for a template: its pieces, whether it is special, whether the other prompt differs here."""

    pieces: tuple[Piece, ...]
    special: bool
    differs: bool
    hint: str


def pieces(text: str) -> tuple[Piece, ...]:
    """`' Mary'` → `·` as a glyph, `Mary` as text. A space inside a token stays a space, one at its edge does not."""
    found: list[Piece] = []
    for index, character in enumerate(text):
        inner_space = character == " " and text[:index].strip(" ") and text[index:].strip(" ")
        shown = None if inner_space else _glyph(character)
        if shown is not None:
            found.append(Piece(shown, glyph=True))
        elif found and not found[-1].glyph:
            found[-1] = Piece(found[-1].text + character, glyph=False)
        else:
            found.append(Piece(character, glyph=False))
    return tuple(found)


def special_pieces(text: str) -> tuple[Piece, ...]:
    """`<|endoftext|>` → `‹eos›`, so that a special token cannot be taken for its letters."""
    name = _SPECIAL_NAMES.get(text) or "".join(piece.text for piece in pieces(text.strip("<>|[]"))) or text
    return (Piece(f"‹{name}›", glyph=False),)


def chips(
    ids: Sequence[int], texts: Sequence[str], differs: Sequence[bool], special_ids: Iterable[int]
) -> list[TokenChip]:
    """The tokens of one prompt; positions past `differs` count as different (the other prompt is shorter)."""
    special = frozenset(special_ids)
    return [
        TokenChip(
            pieces=special_pieces(text) if id_ in special else pieces(text),
            special=id_ in special,
            differs=differs[position] if position < len(differs) else True,
            hint=f"position {position}, id {id_}, {text!r}",
        )
        for position, (id_, text) in enumerate(zip(ids, texts, strict=True))
    ]


def _glyph(character: str) -> str | None:
    known = _VISIBLE.get(character)
    if known is not None:
        return known
    if unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return f"U+{ord(character):04X}"
    return None
