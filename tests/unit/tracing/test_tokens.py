"""Text to ids and back without torch."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from tracing.errors import ModelError
from tracing.tokens import Tokens


@pytest.fixture
def byte_level() -> Tokens:
    """A GPT-2-like tokenizer with a beginning-of-sequence token."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = {**letters, "Ma": len(letters), "ĠMa": len(letters) + 1}
    fast = Tokenizer(models.BPE(words, [("M", "a"), ("Ġ", "Ma")]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken("<bos>", special=True)])
    bos = fast.token_to_id("<bos>")
    fast.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    fast.enable_padding(length=12)
    fast.enable_truncation(2)
    return Tokens(fast)


def test_special_tokens_stand_around_prompts_and_not_around_answers(byte_level: Tokens) -> None:
    assert byte_level.texts(byte_level.encode(" Ma")) == ["<bos>", " Ma"]
    assert byte_level.texts(byte_level.encode(" Ma", special=False)) == [" Ma"]


def test_padding_and_truncation_of_the_file_are_ignored(byte_level: Tokens) -> None:
    assert len(byte_level.encode("Ma Ma Ma Ma", special=False)) == 4


def test_texts_of_tokens_join_to_the_text(byte_level: Tokens) -> None:
    assert "".join(byte_level.texts(byte_level.encode("Ma Ma!\n", special=False))) == "Ma Ma!\n"


def test_part_of_a_character_and_an_unknown_id_have_a_text(byte_level: Tokens) -> None:
    first_byte = byte_level.encode("é", special=False)[:1]
    assert byte_level.texts(first_byte) == ["\ufffd"]
    assert byte_level.texts([99_999]) == ["<id 99999>"]


def test_a_folder_without_tokenizer_says_how_to_save_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json.*save_pretrained"):
        Tokens.from_folder(tmp_path)


def test_a_broken_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        Tokens.from_folder(tmp_path)
