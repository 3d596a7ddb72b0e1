"""The form of a prompt set: what it is, and its pairs by hand, pasted or uploaded.

The pairs come from one of three places: rows typed by hand, a text (CSV with a header, or JSON Lines), or a file. What
was typed or uploaded is shown again when something is wrong, and every complaint names the row.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.forms.utils import ErrorDict
from django.http import QueryDict

from interp_app.catalog.csv_pairs import joined, split
from interp_app.catalog.uploads import MAX_UPLOAD_BYTES, parse, read_upload
from interp_app.core.errors import ServiceError
from interp_app.core.visibility import Visibility
from interp_app.web.pair_tables import PairLine
from tracing.prompts import PairProblem, PromptPair

ROWS: Final = 4
MORE_ROWS: Final = 6
MAX_ROWS: Final = 60
CELLS: Final = ("clean", "corrupted", "answer", "foil")
SHOWN_AGAIN_BYTES: Final = 2 * 2**20
"""A faulty upload up to this size comes back in the text box, to be corrected there."""


@dataclass(frozen=True, slots=True)
class HandRow:
    """One pair as typed: the texts of its cells, several answers separated by `|`."""

    number: int
    clean: str = ""
    corrupted: str = ""
    answer: str = ""
    foil: str = ""

    @property
    def filled(self) -> bool:
        return any((self.clean, self.corrupted, self.answer, self.foil))

    def as_pair(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "corrupted": self.corrupted,
            "answer": split(self.answer),
            "foil": split(self.foil),
        }


class PromptSetForm(forms.Form):
    """Title and description belong to the set; `note` to the version; `model` is whose tokenizer checks the pairs."""

    title = forms.CharField(label="Title", max_length=120, help_text="What the prompts ask for, e.g. “Capitals”.")
    description = forms.CharField(
        label="Description",
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Which behaviour it isolates, and what differs between clean and corrupted.",
    )
    visibility = forms.ChoiceField(
        label="Who may see it", choices=Visibility.choices, initial=Visibility.LAB, required=False
    )
    note = forms.CharField(label="Note to this version", max_length=200, required=False)
    model = forms.ChoiceField(
        label="Check with the tokenizer of", required=False, help_text="Pairs must line up token by token for a model."
    )
    pairs_text = forms.CharField(
        label="CSV or JSON Lines",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 8, "class": "code", "spellcheck": "false", "wrap": "off"}),
        help_text="CSV: a first line clean,corrupted,answer,foil; several answers separated by |. "
        'JSON Lines: {"clean": "…", "corrupted": "…", "answer": " Paris", "foil": " Rome"} a line. '
        "Leading spaces count.",
    )
    file = forms.FileField(
        label="Upload a file",
        required=False,
        help_text=f".csv or .jsonl in UTF-8, up to {MAX_UPLOAD_BYTES >> 20} MB.",
        widget=forms.FileInput(attrs={"accept": ".csv,.jsonl,.ndjson"}),
    )
    save_anyway = forms.BooleanField(label="Save although some pairs cannot be patched with this model", required=False)

    def __init__(self, *args: Any, models: list[Any], rows: list[HandRow] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["model"].choices = [(model.slug, model.title) for model in models]  # type: ignore[attr-defined]
        self.rows = rows or [HandRow(number) for number in range(1, ROWS + 1)]
        self.pairs: list[PromptPair] = []
        self.checked_lines: list[PairLine] = []
        self.problems: list[PairProblem] = []

    def say_nothing(self) -> None:
        """Show what was typed without judging it yet."""
        self._errors = ErrorDict()

    def clean(self) -> dict[str, Any]:
        """Parse the pairs from the one place that holds some."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        typed = [row for row in self.rows if row.filled]
        upload: UploadedFile | None = cleaned.get("file")
        text = cleaned.get("pairs_text") or ""
        if sum((bool(typed), bool(text.strip()), upload is not None)) > 1:
            self.add_error(None, "There are pairs in more than one place: keep the rows, the text or the file.")
            return cleaned
        try:
            if upload is not None:
                self.pairs = self._from_upload(upload)
            elif text.strip():
                self.pairs = parse(text.encode("utf-8", "surrogatepass"), f"pasted.{text_format(text)}")
            else:
                self.pairs = self._from_rows(typed)
        except ServiceError as error:
            self.add_error("file" if upload is not None else "pairs_text" if text.strip() else None, str(error))
        return cleaned

    def _from_rows(self, typed: list[HandRow]) -> list[PromptPair]:
        if not typed:
            raise ServiceError(
                "no_pairs", "There are no prompt pairs yet.", "Fill a row, paste a text or choose a file."
            )
        problems = [
            f"Row {row.number}: the {name} is empty." for row in typed for name in CELLS[:3] if not getattr(row, name)
        ]
        if problems:
            raise ServiceError("row_incomplete", " ".join(problems[:6]), "Fill it, or empty the whole row.")
        lines = "\n".join(json.dumps(row.as_pair()) for row in typed)
        return parse(lines.encode(), "rows.jsonl")

    def _from_upload(self, upload: UploadedFile) -> list[PromptPair]:
        try:
            return read_upload(upload, upload.name or "")
        except ServiceError as error:
            self._show_again(upload, error)
            raise

    def _show_again(self, upload: UploadedFile, error: ServiceError) -> None:
        """A browser cannot be told to keep a chosen file, so a small one comes back as text."""
        if error.code not in ("upload_row", "upload_header") or (upload.size or 0) > SHOWN_AGAIN_BYTES:
            return
        upload.seek(0)
        data: Any = QueryDict(mutable=True)
        data.update(self.data)
        data["pairs_text"] = upload.read().decode("utf-8-sig")
        self.data = data


def text_format(text: str) -> str:
    """`jsonl` where the text begins like JSON, else `csv`."""
    return "jsonl" if text.lstrip().startswith(("{", "[")) else "csv"


def rows_from_post(data: QueryDict, *, more: bool) -> list[HandRow]:
    """The rows of a posted form as typed, `MORE_ROWS` empty ones added where the user asked for more."""
    numbers = range(1, MAX_ROWS + 1)
    rows = [
        HandRow(number, **{name: data.get(f"row-{number}-{name}", "") for name in CELLS})
        for number in numbers
        if f"row-{number}-clean" in data
    ]
    start = rows[-1].number if rows else 0
    extra = MORE_ROWS if more else 0
    rows += [HandRow(number) for number in range(start + 1, min(start + extra, MAX_ROWS) + 1)]
    return rows


def rows_from_pairs(pairs: list[PromptPair]) -> list[HandRow]:
    """Rows holding these pairs, which fit CSV, for editing a small set by hand."""
    return [
        HandRow(number, pair.clean, pair.corrupted, joined(pair.answer), joined(pair.foil))
        for number, pair in enumerate(pairs, start=1)
    ]


def text_from_pairs(pairs: list[PromptPair]) -> str:
    """JSON Lines of these pairs, for editing a large set as text."""
    return "".join(f"{json.dumps(as_row(pair), ensure_ascii=False)}\n" for pair in pairs)


def as_row(pair: PromptPair) -> dict[str, Any]:
    """A pair as one line of a download: one answer as a string, several as a list, nothing that is empty."""
    row: dict[str, Any] = {"clean": pair.clean, "corrupted": pair.corrupted}
    for name in ("answer", "foil"):
        words: tuple[str, ...] = getattr(pair, name)
        if words:
            row[name] = words[0] if len(words) == 1 else list(words)
    if pair.label:
        row["label"] = pair.label
    if pair.spans:
        row["spans"] = pair.model_dump(mode="json")["spans"]
    return row
