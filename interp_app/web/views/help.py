"""Help: the way from prompts to a map, the keyboard, and a page for each method made from its registration."""

from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from interp_app.web.forms.run import resolve
from interp_app.web.method_help import grouped_methods, help_blocks
from tracing import experiments
from tracing.errors import SpecError


@dataclass(frozen=True, slots=True)
class SpecRow:
    """One parameter of a method, for the table of its help page."""

    name: str
    title: str
    help: str
    values: str
    default: str


@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """What the dashboard does, and how to read what it shows."""
    return render(request, "web/help.html", {"groups": grouped_methods()})


@require_safe
def shortcuts(request: HttpRequest) -> HttpResponse:
    """Every key a figure answers to."""
    return render(request, "web/shortcuts.html")


@require_safe
def method(request: HttpRequest, name: str) -> HttpResponse:
    """What a method computes, its formula, when not to trust it, and its parameters."""
    try:
        found = experiments.get(name)
    except SpecError as error:
        raise Http404(str(error)) from error
    context = {"method": found, "blocks": help_blocks(found.help), "rows": spec_rows(found)}
    return render(request, "web/method.html", context)


def spec_rows(found: Any) -> list[SpecRow]:
    """The parameters of a method as its JSON schema describes them."""
    schema = found.spec.model_json_schema()
    return [_spec_row(name, resolve(declared, schema)) for name, declared in schema["properties"].items()]


def _spec_row(name: str, prop: dict[str, Any]) -> SpecRow:
    choices = prop.get("enum") or prop.get("items", {}).get("enum")
    if choices:
        values = ", ".join(str(choice) for choice in choices)
    else:
        values = str(prop.get("type", "text"))
        low, high = prop.get("minimum"), prop.get("maximum")
        values += f", {low} to {high}" if low is not None and high is not None else ""
    default = prop.get("default")
    shown = ", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
    return SpecRow(
        name=name,
        title=prop.get("title", name),
        help=prop.get("description", ""),
        values=values,
        default="automatic" if default is None else shown,
    )
