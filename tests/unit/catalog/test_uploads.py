"""Uploads of prompt pairs: what is read, and what is refused in which words."""

import contextlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_app.catalog import csv_pairs
from interp_app.catalog.uploads import MAX_PAIRS, MAX_UPLOAD_BYTES, parse, read_upload
from interp_app.core.errors import ServiceError
from tests import tiny

CSV = "clean,corrupted,answer,foil,label\nA b,A c, x,y|z,one\n"


def refused(data: bytes, name: str = "pairs.csv") -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        parse(data, name)
    assert raised.value.fields["pairs"]
    return raised.value


def test_csv_keeps_leading_spaces_and_splits_several_answers():
    (pair,) = parse(CSV.encode(), "pairs.csv")
    assert (pair.clean, pair.answer, pair.foil, pair.label) == ("A b", (" x",), ("y", "z"), "one")


def test_csv_reads_quoted_line_breaks_and_a_byte_order_mark():
    text = '\ufeffclean,corrupted,answer\n"a\nb","a ""c""",x\n'
    (pair,) = parse(text.encode(), "PAIRS.CSV")
    assert (pair.clean, pair.corrupted) == ("a\nb", 'a "c"')


def test_jsonl_takes_one_or_several_answers_and_skips_blank_lines():
    lines = ['{"clean":"a","corrupted":"b","answer":" x"}', "", '{"clean":"a","corrupted":"b","answer":[" x","y"]}']
    assert [pair.answer for pair in parse("\n".join(lines).encode(), "pairs.jsonl")] == [(" x",), (" x", "y")]


@given(st.lists(st.sampled_from(tiny.pairs(12)), min_size=1, max_size=8))
def test_what_is_written_as_jsonl_is_read_back(pairs):
    text = "\n".join(pair.model_dump_json() for pair in pairs)
    assert parse(text.encode(), "pairs.jsonl") == pairs


@given(st.binary(max_size=300), st.sampled_from(["x.csv", "x.jsonl"]))
def test_no_bytes_raise_anything_but_a_service_error(data, name):
    with contextlib.suppress(ServiceError):
        assert parse(data, name)


def test_twenty_megabytes_are_refused_without_reading_them_all():
    file = io.BytesIO(b"x" * (20 * 2**20))
    with pytest.raises(ServiceError) as raised:
        read_upload(file, "pairs.csv")
    assert (raised.value.code, raised.value.status) == ("upload_too_large", 413)
    assert file.tell() <= MAX_UPLOAD_BYTES + 1


def test_a_wrong_encoding_names_the_line_and_the_byte():
    error = refused("clean,corrupted,answer\na,b,c\nCafé,b,c\n".encode("latin-1"))
    assert error.code == "upload_encoding"
    assert "0xe9 on line 3" in error.message


def test_utf_16_is_refused_as_an_encoding():
    assert refused("clean,corrupted,answer\na,b,c\n".encode("utf-16")).code == "upload_encoding"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("clean,answer", "lacks corrupted"),
        ("prompt,corrupted,answer", "lacks clean and has unknown columns 'prompt'"),
        ("clean,clean,corrupted,answer", "names a column twice"),
        ("", "lacks clean, corrupted, answer"),
    ],
)
def test_a_bad_header_says_what_is_wrong_with_it(header, words):
    error = refused(f"{header}\na,b,c\n".encode())
    assert error.code == "upload_header"
    assert words in error.message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,b", "Row 3 has 2 cells, the header has 3"),
        ("a,b,c,d", "Row 3 has 4 cells"),
        ('a,"b,c', "Row 3 is not valid CSV"),
        (f"{'a' * 5000},b,c", "Row 3 has a text of 5,000 bytes; at most 4,096 are allowed"),
    ],
)
def test_a_bad_csv_row_is_named_by_its_number(row, words):
    error = refused(f"clean,corrupted,answer\na,b,c\n{row}\n".encode())
    assert error.code == "upload_row"
    assert words in error.message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Row 2 is not a JSON object"),
        ("[1]", "Row 2 is not an object"),
        ('{"clean":"a","corrupted":"b"}', "Row 2 is wrong at answer"),
        ('{"clean":"a","corrupted":"b","answer":"c","extra":1}', "Row 2 is wrong at extra"),
        ('{"clean":1,"corrupted":"b","answer":"c"}', "Row 2 is wrong at clean"),
        ('{"clean":"\\u0000","corrupted":"b","answer":"c"}', "Row 2 has a character that is not text"),
        ('{"clean":"\\ud800","corrupted":"b","answer":"c"}', "Row 2 has a character that is not text"),
        ("[" * 100_000, "Row 2 is not a JSON object"),
    ],
)
def test_a_bad_jsonl_row_is_named_by_its_number(line, words):
    good = '{"clean":"a","corrupted":"b","answer":"c"}'
    assert words in refused(f"{good}\n{line}\n".encode(), "pairs.jsonl").message


def test_more_pairs_than_allowed_are_refused():
    line = json.dumps({"clean": "a", "corrupted": "b", "answer": "c"})
    error = refused("\n".join([line] * (MAX_PAIRS + 1)).encode(), "pairs.jsonl")
    assert error.code == "too_many_pairs"


def test_an_empty_file_and_another_type_are_refused():
    assert refused(b"", "pairs.jsonl").code == "no_pairs"
    assert refused(b"clean,corrupted,answer\n").code == "no_pairs"
    assert refused(b"x", "pairs.xlsx").code == "upload_type"


def test_named_spans_come_with_json_lines_and_have_no_column() -> None:
    row = {"clean": "a b", "corrupted": "c b", "answer": "d", "spans": {"S": "a", "END": -1}}
    [pair] = parse(json.dumps(row).encode(), "pairs.jsonl")
    assert dict(pair.spans) == {"S": "a", "END": -1}
    assert not csv_pairs.fit_csv([pair])
    assert csv_pairs.fit_csv([pair.model_copy(update={"spans": ()})])
    with pytest.raises(ServiceError, match="not text"):
        parse(json.dumps({**row, "spans": {"S": "a\x00"}}).encode(), "pairs.jsonl")
