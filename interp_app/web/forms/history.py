"""The history's filters: all of them live in the address, so that a link shows what its sender saw."""

from datetime import date, datetime, time, timedelta
from typing import Any, Final

from django import forms
from django.http import QueryDict
from django.utils import timezone

from interp_app.runs.models import Status
from interp_app.runs.selectors import HistoryFilters

SORT_LABELS: Final = (
    ("-created_at", "Newest first"),
    ("created_at", "Oldest first"),
    ("-finished_at", "Last finished first"),
    ("title", "Title A–Z"),
    ("status", "Status"),
)
ANY: Final = ("", "Any")


class HistoryForm(forms.Form):
    """One input a filter; unknown values are reported beside their input and then ignored."""

    q = forms.CharField(label="Search titles and prompt sets", required=False, max_length=120)
    status = forms.ChoiceField(label="Status", required=False, choices=[ANY, *Status.choices])
    model = forms.ChoiceField(label="Model", required=False)
    method = forms.ChoiceField(label="Method", required=False)
    prompts = forms.ChoiceField(label="Prompt set", required=False)
    owner = forms.CharField(label="Owner", required=False, max_length=150)
    tag = forms.CharField(label="Tag", required=False, max_length=40)
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    sort = forms.ChoiceField(label="Order", required=False, choices=SORT_LABELS)
    archived = forms.BooleanField(label="Archived runs", required=False)

    def __init__(self, data: QueryDict, *, models: list[Any], methods: list[Any], prompt_sets: list[Any]) -> None:
        super().__init__(data)
        choices: dict[str, list[tuple[str, str]]] = {
            "model": [(model.slug, model.title) for model in models],
            "method": [(method.name, method.title) for method in methods],
            "prompts": [(str(found.pk), found.title) for found in prompt_sets],
        }
        for name, values in choices.items():
            self.fields[name].choices = [ANY, *values]  # type: ignore[attr-defined]

    def filters(self) -> HistoryFilters:
        """What the selector takes; an input with an error counts as empty. Dates mean whole days in UTC."""
        self.is_valid()
        found = self.cleaned_data
        until = found.get("until")
        return HistoryFilters(
            **{name: found.get(name) or "" for name in ("q", "status", "model", "prompts", "method", "tag", "owner")},
            archived=bool(found.get("archived")),
            since=_start(found.get("since")),
            until=_start(until + timedelta(days=1)) if until and until < date.max else None,
            sort=found.get("sort") or "-created_at",
        )

    def chips(self) -> list[tuple[str, str]]:
        """Label and address without it, for each filter in force."""
        self.is_valid()
        shown: list[tuple[str, str]] = []
        asked: Any = self.data
        for name, value in self.cleaned_data.items():
            if not value or name == "sort":
                continue
            query = asked.copy()
            query.pop(name, None)
            query.pop("page", None)
            label = self.fields[name].label
            text = str(label) if name == "archived" else f"{label}: {self._shown(name, value)}"
            shown.append((text, query.urlencode()))
        return shown

    def _shown(self, name: str, value: Any) -> str:
        choices: Any = getattr(self.fields[name], "choices", ())
        return str(dict(choices).get(value, value))


def _start(day: Any) -> datetime | None:
    return datetime.combine(day, time.min, tzinfo=timezone.get_default_timezone()) if day else None
