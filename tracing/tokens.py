"""Text to token ids and back, without torch: the web process shows the very tokens that a worker will run on.

Wraps a `tokenizers.Tokenizer` (the fast tokenizer file every current Hugging Face model ships).
"""

from functools import lru_cache
from pathlib import Path
from typing import Final, Self

from tokenizers import Tokenizer as FastTokenizer

from tracing.errors import ModelError

MASKS: Final = ("[MASK]", "<mask>")


class Tokens:
    """A tokenizer reduced to what experiments need: ids, the text of each id, and special-token marks."""

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        self._fast.no_padding()
        self._fast.no_truncation()
        self.special_ids = frozenset(id_ for id_, token in fast.get_added_tokens_decoder().items() if token.special)
        unknown = getattr(fast.model, "unk_token", None)
        self.unknown_id: int | None = fast.token_to_id(unknown) if unknown else None
        """What stands for every word outside the vocabulary, in tokenizers that have such a token."""
        masks = (fast.token_to_id(text) for text in MASKS)
        self.mask_id: int | None = next((id_ for id_ in masks if id_ in self.special_ids), None)
        """What a masked language model fills in, in tokenizers that have such a token."""

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read `tokenizer.json` of a model folder. Raises `ModelError` where it is missing or unreadable."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"The model folder {Path(folder).name!r} has no tokenizer.json.",
                remedy="Save a fast tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(folder).",
            )
        try:
            return cls(FastTokenizer.from_file(str(path)))
        except Exception as error:
            raise ModelError(
                f"The tokenizer.json of {Path(folder).name!r} cannot be read: {error}.",
                remedy="Save the tokenizer again with a current transformers version.",
            ) from error

    def __repr__(self) -> str:
        return f"Tokens({self._fast.get_vocab_size()} ids, {len(self.special_ids)} special)"

    def fast(self) -> FastTokenizer:
        """A copy of the wrapped tokenizer, which its user may set to pad or cut off."""
        return FastTokenizer.from_str(self._fast.to_str())

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`; with `special`, those the model expects around a prompt (BOS) included."""
        return list(self._fast.encode(text, add_special_tokens=special).ids)

    def texts(self, ids: list[int] | tuple[int, ...]) -> list[str]:
        """The text each id stands for, leading spaces kept (`' Mary'`), special tokens by their name."""
        return [self._text(id_) for id_ in ids]

    def _text(self, id_: int) -> str:
        piece = self._fast.id_to_token(id_)
        if piece is None:
            return f"<id {id_}>"
        if id_ in self.special_ids:
            return piece
        decoder = self._fast.decoder
        text = decoder.decode([piece]) if decoder is not None else piece
        # SentencePiece decoders drop the leading space of a first piece: the mark in the piece itself tells.
        if piece.startswith("▁") and not text.startswith(" "):
            text = " " + text
        return text or piece

    @property
    def vocab_size(self) -> int:
        return int(self._fast.get_vocab_size(with_added_tokens=True))


@lru_cache(maxsize=16)
def cached_tokens(folder: str, modified_ns: int) -> Tokens:
    """`Tokens.from_folder`, kept; `modified_ns` (of tokenizer.json) makes a replaced file read again."""
    del modified_ns
    return Tokens.from_folder(folder)
