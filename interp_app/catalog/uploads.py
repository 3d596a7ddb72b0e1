"""Prompt pairs from what people upload or type: JSON Lines or CSV, with limits, and errors that name the row.

JSONL: one object a line with the fields of a pair (`answer` and `foil` may be lists).
CSV: a header with clean, corrupted, answer and optionally foil and label; several answers are separated by `|`; the
quote that a download puts before a formula is taken away again.
Leading spaces are kept everywhere: they are part of the tokens.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from pydantic import ValidationError

from interp_app.catalog import csv_pairs
from interp_app.core.errors import ServiceError
from tracing.prompts import PromptPair

MAX_UPLOAD_BYTES = 5 * 2**20
MAX_PAIRS = 10_000
MAX_PROMPT_BYTES = 4096
MAX_WORDS = 64
"""Answers or foils of one pair."""
REQUIRED = ("clean", "corrupted", "answer")
COLUMNS = (*REQUIRED, "foil", "label")


def read_upload(file: IO[bytes], name: str) -> list[PromptPair]:
    """Parse an uploaded file, chosen by its suffix. Never reads more than the limit. Raises `ServiceError`."""
    data = file.read(MAX_UPLOAD_BYTES + 1)
    if len(data) > MAX_UPLOAD_BYTES:
        raise _error(
            "upload_too_large",
            f"The file is larger than {MAX_UPLOAD_BYTES // 2**20} MB.",
            f"Split it: a prompt set holds up to {MAX_PAIRS:,} pairs.",
            status=413,
        )
    return parse(data, name)


def parse(data: bytes, name: str) -> list[PromptPair]:
    """Pairs from the bytes of a `.csv`, `.jsonl` or `.ndjson` file. Raises `ServiceError`."""
    suffix = PurePosixPath(name.lower()).suffix
    if suffix not in (".csv", ".jsonl", ".ndjson"):
        raise _error("upload_type", f"{name!r} is neither CSV nor JSON Lines.", "Upload a .csv or a .jsonl file.")
    text = _decode(data)
    return pairs_from_rows(_csv_rows(text) if suffix == ".csv" else _jsonl_rows(text))


def pairs_from_rows(rows: Iterable[tuple[int, Any]]) -> list[PromptPair]:
    """Checked pairs from (row number, object) couples, e.g. `enumerate(json_list, start=1)`. Raises `ServiceError`."""
    pairs: list[PromptPair] = []
    for number, row in rows:
        if len(pairs) >= MAX_PAIRS:
            raise _error(
                "too_many_pairs", f"There are more than {MAX_PAIRS:,} pairs.", "Split them over several prompt sets."
            )
        pairs.append(_pair(number, row))
    if not pairs:
        raise _error("no_pairs", "There are no prompt pairs.", "Add at least one clean/corrupted pair.")
    return pairs


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _error(
            "upload_encoding",
            f"The file is not UTF-8: byte 0x{data[error.start]:02x} on line {line} cannot be read.",
            "Save it as UTF-8 (in a spreadsheet: “CSV UTF-8”).",
        ) from error
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise _error("upload_encoding", f"The file has a zero byte on line {line}.", "Save it as UTF-8 text.")
    return text


def _jsonl_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise _row_error(number, f"is not a JSON object ({reason})") from error


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(header)
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise _row_error(reader.line_num, f"has {len(values)} cells, the header has {len(header)}")
            row: dict[str, Any] = dict(zip(header, map(csv_pairs.unquoted, values), strict=True))
            for name in ("answer", "foil"):
                if name in row:
                    row[name] = csv_pairs.split(row[name])
            yield reader.line_num, row
    except csv.Error as error:
        raise _row_error(reader.line_num, f"is not valid CSV ({error})") from error


def _check_header(header: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown or len(set(header)) != len(header):
        problems = [
            f"lacks {', '.join(missing)}" if missing else "",
            f"has unknown columns {', '.join(repr(name) for name in unknown)}" if unknown else "",
            "names a column twice" if len(set(header)) != len(header) else "",
        ]
        raise _error(
            "upload_header",
            f"The CSV header {' and '.join(problem for problem in problems if problem)}.",
            f"Its first line must name the columns {', '.join(REQUIRED)} and may name foil and label.",
        )


def _pair(number: int, row: Any) -> PromptPair:
    if not isinstance(row, dict):
        raise _row_error(number, "is not an object with clean, corrupted and answer")
    try:
        pair = PromptPair.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "row"
        raise _row_error(number, f"is wrong at {where}: {first['msg']}") from error
    words = [one for where in pair.spans for one in (where[0], *_words(where[1]))]
    texts = (pair.clean, pair.corrupted, *pair.answer, *pair.foil, pair.label, *words)
    for text in texts:
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_PROMPT_BYTES:
            raise _row_error(number, f"has a text of {size:,} bytes; at most {MAX_PROMPT_BYTES:,} are allowed")
        if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise _row_error(number, "has a character that is not text (a zero byte or half a surrogate pair)")
    if max(len(pair.answer), len(pair.foil), len(pair.spans)) > MAX_WORDS:
        raise _row_error(number, f"has more than {MAX_WORDS} answers, foils or spans")
    return pair


def _words(where: object) -> list[str]:
    """The texts in what says where a span lies."""
    parts = where if isinstance(where, tuple) else (where,)
    return [part for part in parts if isinstance(part, str)]


def _row_error(number: int, problem: str) -> ServiceError:
    return _error("upload_row", f"Row {number} {problem}.", "Correct that row and upload the file again.")


def _error(code: str, message: str, remedy: str, *, status: int = 400) -> ServiceError:
    return ServiceError(code, message, remedy, fields={"pairs": [f"{message} {remedy}"]}, status=status)
