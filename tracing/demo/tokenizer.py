"""The demo model's tokenizer: one token a word, the leading space included.

Landmark names of several words are one token each, years are two digits and two digits, and
decoding is plain concatenation, so any text over the vocabulary survives a round trip.
"""

import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tracing.demo import corpus

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
PUNCTUATION = (",", ".")
N_POSITIONS = 128


def vocabulary() -> list[str]:
    """Every token, in the order of its id."""
    years = [f"{year:02d}" for year in range(100)]
    centuries = [f" {century}" for century in range(10, 21)]
    return [
        END_OF_TEXT,
        UNKNOWN,
        *PUNCTUATION,
        *corpus.opening_words(),
        *years,
        *centuries,
        *corpus.spaced_words(),
    ]


def split_pattern() -> str:
    """What one token looks like: a name of several words, a word, two digits, or a mark."""
    names = sorted((word for word in corpus.spaced_words() if " " in word[1:]), key=len)
    longest_first = "|".join(re.escape(name) for name in reversed(names))
    return rf"(?:{longest_first})(?!\w)| ?[A-Za-z]+| ?[0-9][0-9]?|[^\sA-Za-z0-9]|\s"


def build_tokenizer() -> Tokenizer:
    """The tokenizer itself, with no file read or written."""
    ids = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(split_pattern()), "removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT, UNKNOWN])
    return tokenizer


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The id that opens, closes and pads. Raises KeyError for a foreign tokenizer."""
    found: int | None = tokenizer.token_to_id(END_OF_TEXT)
    if found is None:
        raise KeyError(END_OF_TEXT)
    return found


def save_tokenizer(directory: Path) -> None:
    """Write `tokenizer.json` and the configuration `AutoTokenizer` needs."""
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=build_tokenizer(),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=UNKNOWN,
        model_max_length=N_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(directory)
