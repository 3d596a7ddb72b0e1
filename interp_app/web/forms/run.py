"""The form of a new run, made from the method's pydantic spec: one input a field, with its title, help and limits.

The browser's `method-form` island draws the same schema; this is the form that works without scripts, and the one
place that turns posted texts into the parameters a service takes. Kinds of fields: a choice (`enum`), several choices
(an array of `enum`), whole and decimal numbers, lists of them (numbers with commas between them, `4-7` for a range),
switches and texts; an optional one may be left empty.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from django import forms

from interp_app.core.visibility import Visibility
from tracing.experiments.registry import Method

AXES: Final = frozenset({"layer", "head", "position", "span", "neuron", "example"})
PREFIX: Final = "param-"
RANGE: Final = re.compile(r"(\d{1,6})(?:-|–|\.\.)(\d{1,6})")
MOST_OF_A_RANGE: Final = 10_000
LIST_HELP: Final = {True: "Numbers with commas; 4-7 is a range.", False: "Separated by commas."}
TAGS_HELP: Final = "Words to file it under, separated by commas."


class RunForm(forms.Form):
    """What to run, on what, and how it is filed. Parameters of the method are added as `param-<name>`."""

    model = forms.ChoiceField(label="Model")
    prompts = forms.ChoiceField(label="Prompt set")
    title = forms.CharField(
        label="Title", max_length=160, required=False, help_text="Empty: method, prompt set and model."
    )
    visibility = forms.ChoiceField(
        label="Who may see it", choices=Visibility.choices, initial=Visibility.LAB, required=False
    )
    tags = forms.CharField(label="Tags", max_length=400, required=False, help_text=TAGS_HELP)
    force = forms.BooleanField(label="Compute again, even where an identical run has succeeded", required=False)

    def __init__(self, *args: Any, method: Method, models: list[Any], prompt_sets: list[Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method = method
        self.fields["model"].choices = [(model.slug, model.title) for model in models]  # type: ignore[attr-defined]
        self.fields["prompts"].choices = prompt_choices(prompt_sets)  # type: ignore[attr-defined]
        self.parameter_names = dict(self._add_parameters())

    def _add_parameters(self) -> list[tuple[str, bool]]:
        schema = self.method.spec.model_json_schema()
        added = []
        for name, declared in schema["properties"].items():
            prop = resolve(declared, schema)
            prop["only_if_text"] = only_if_text(prop, schema)
            self.fields[PREFIX + name] = form_field(name, prop)
            added.append((name, bool(prop.get("advanced")) or name == "seed"))
        return added

    @property
    def main_fields(self) -> list[forms.BoundField]:
        return [self[PREFIX + name] for name, advanced in self.parameter_names.items() if not advanced]

    @property
    def advanced_fields(self) -> list[forms.BoundField]:
        return [self[PREFIX + name] for name, advanced in self.parameter_names.items() if advanced]

    @property
    def advanced_open(self) -> bool:
        """Whether a folded field has an error, or another value than its default: that must not surprise."""
        properties = self.method.spec.model_json_schema()["properties"]
        return any(
            field.errors or _differs(field.value(), properties[field.name.removeprefix(PREFIX)].get("default"))
            for field in self.advanced_fields
            if field.name != f"{PREFIX}seed"
        )

    def params(self) -> dict[str, Any]:
        """Parameters for the service: what was left empty is left out, so that the spec's default applies."""
        found = {name: self.cleaned_data.get(PREFIX + name) for name in self.parameter_names}
        unset = {name for name, value in found.items() if value in (None, "")}
        unset |= {name for name in found if isinstance(self.fields[PREFIX + name], NumbersField) and not found[name]}
        return {name: value for name, value in found.items() if name not in unset}

    def prompt_version(self) -> tuple[str, int]:
        """Id and version number of the chosen prompt set."""
        id_, _, number = self.cleaned_data["prompts"].partition("@")
        return id_, int(number)

    def tag_names(self) -> list[str]:
        return [name.strip() for name in self.cleaned_data["tags"].split(",") if name.strip()]


def _differs(value: Any, default: Any) -> bool:
    """Whether an input's value is another than the default, empty ones being equal."""
    return (str(value) if value else "") != (str(default) if default else "")


class NumbersField(forms.CharField):
    """Numbers in one input: `0, 3, 4-7`. Cleans to a list; empty is an empty list, which stands for the default."""

    def __init__(self, *, whole: bool, **kwargs: Any) -> None:
        super().__init__(max_length=400, **kwargs)
        self.whole = whole

    def prepare_value(self, value: Any) -> Any:
        """A list, as a cloned run or a default has it, as text."""
        return ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        parts = [part for part in re.split(r"[,;\s]+", str(self.prepare_value(value) or "")) if part]
        return [number for part in parts for number in self._numbers(part)]

    def validate(self, value: Any) -> None:
        """Only whether it is required: a list has no length of text."""
        if self.required and not value:
            raise forms.ValidationError(self.error_messages["required"], code="required")

    def run_validators(self, value: Any) -> None:
        """None apply to a list."""

    def _numbers(self, part: str) -> list[float]:
        found = RANGE.fullmatch(part) if self.whole else None
        if found:
            low, high = int(found[1]), int(found[2])
            if low <= high < low + MOST_OF_A_RANGE:
                return list(range(low, high + 1))
        try:
            return [int(part) if self.whole else float(part)]
        except ValueError:
            kind = "a whole number or a range such as 4-7" if self.whole else "a number"
            raise forms.ValidationError(f"{part!r} is not {kind}.", code="invalid") from None


def version_number(text: str) -> int | None:
    """The number of a version in an address; None where the text is none that a version could have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def prompt_choices(prompt_sets: list[Any]) -> list[tuple[str, str]]:
    """The newest version of each set as a choice."""
    return [
        (f"{found.pk}@{found.latest_number}", f"{found.title} · v{found.latest_number} · {found.latest_pairs} pairs")
        for found in prompt_sets
        if found.latest_number
    ]


def initial_params(method: Method, params: Mapping[str, Any]) -> dict[str, Any]:
    """Initial values of the parameter inputs: the defaults of the schema, overlaid with `params` (a cloned run's)."""
    schema = method.spec.model_json_schema()
    properties = schema["properties"]
    defaults = {name: prop.get("default") for name, prop in properties.items()}
    known = {name: value for name, value in params.items() if name in properties}
    return {PREFIX + name: value for name, value in {**defaults, **known}.items()}


def resolve(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A property with `$ref` followed and `X or null` reduced to X, marked `optional`."""
    found = dict(prop)
    if "$ref" in found:
        found = {**schema["$defs"][found.pop("$ref").rsplit("/", 1)[-1]], **found}
    if "anyOf" in found:
        options = [dict(option) for option in found.pop("anyOf")]
        kinds = [option for option in options if option.get("type") != "null"]
        found = {**resolve(kinds[0], schema), **found, "optional": len(kinds) < len(options)}
    return found


def only_if_text(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """When a field has an effect at all, where its `only_if` names other fields and the values they must have."""
    parts = []
    for name, values in prop.get("only_if", {}).items():
        title = schema["properties"].get(name, {}).get("title", name)
        parts.append(f"“{title}” is {' or '.join('on' if one is True else choice_label(str(one)) for one in values)}")
    return f"Used only where {' and '.join(parts)}." if parts else ""


def form_field(name: str, prop: Mapping[str, Any]) -> forms.Field:
    """The input of one property."""
    shared: dict[str, Any] = {
        "label": prop.get("title") or name.replace("_", " ").capitalize(),
        "help_text": " ".join(filter(None, [prop.get("description", ""), prop.get("only_if_text", "")])),
        "required": not prop.get("optional") and "default" not in prop,
    }
    kind = prop.get("type")
    items = prop.get("items", {})
    if kind == "array" and "enum" in items:
        return forms.MultipleChoiceField(**shared, choices=_choices(items["enum"]), widget=forms.CheckboxSelectMultiple)
    if kind == "array":
        item: dict[str, Any] = items or next(iter(prop.get("prefixItems", [])), {})
        shared |= {"help_text": f"{shared['help_text']} {LIST_HELP[item.get('type') == 'integer']}".strip()}
        return NumbersField(**shared, whole=item.get("type") == "integer")
    if "enum" in prop:
        empty = [("", "automatic")] if prop.get("optional") else []
        return forms.ChoiceField(**shared, choices=[*empty, *_choices(prop["enum"])])
    if kind in ("integer", "number"):
        limits: dict[str, Any] = {"min_value": prop.get("minimum"), "max_value": prop.get("maximum")}
        made = forms.IntegerField if kind == "integer" else forms.FloatField
        return made(**shared, **limits)
    if kind == "boolean":
        return forms.BooleanField(**{**shared, "required": False})
    return forms.CharField(**shared, max_length=prop.get("maxLength", 400))


def _choices(values: list[Any]) -> list[tuple[str, str]]:
    return [(str(value), choice_label(str(value))) for value in values]


def choice_label(value: str) -> str:
    """The field's own names (`resid_pre`) stay; only separators of words that are no names become spaces."""
    parts = value.split("_")
    return " × ".join(parts) if len(parts) > 1 and AXES.issuperset(parts) else value
