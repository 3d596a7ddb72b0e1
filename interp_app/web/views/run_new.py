"""A new run: one page, prefilled from the address, with its cost before it is queued."""

from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from interp_app.catalog import selectors as catalog
from interp_app.catalog import shapes
from interp_app.core.errors import ServiceError
from interp_app.runs import estimates, planning, provenance, selectors, services
from interp_app.runs.models import Run
from interp_app.runs.queue import would_queue
from interp_app.runs.shapes import audience
from interp_app.web.forms.run import PREFIX, RunForm, initial_params, version_number
from interp_app.web.http import add_service_error, member_page
from interp_app.web.method_help import grouped_methods, help_blocks
from tracing import experiments
from tracing.experiments.registry import GROUPS, Method

# What an address of this page says about the form itself.
PAGE_QUERY: Final = frozenset({"method", "prompts", "model", "from"})


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def new_run(request: HttpRequest) -> HttpResponse:
    """GET: the form, prefilled by `model`, `prompts` (`<id>` or `<id>@<version>`), `method`, or a run to clone, `from`.

    POST: submit, or show the cost first (`action=preview`).
    """
    source = _cloned(request)
    method = _method(request, source)
    choices: dict[str, Any] = {
        "method": method,
        "models": list(catalog.allowed_models()),
        "prompt_sets": list(catalog.visible_prompt_sets(request.user)),
    }
    if request.method != "POST":
        form = RunForm(initial=_initial(request, method, source, choices["prompt_sets"]), **choices)
        _offer_version(form, str(form.initial.get("prompts", "")), request.user)
        return _form_page(request, form, source, choices)
    form = RunForm(request.POST, **choices)
    _offer_version(form, request.POST.get("prompts", ""), request.user)
    if not form.is_valid():
        return _form_page(request, form, source, choices)
    try:
        if request.POST.get("action") == "preview":
            return _form_page(request, form, source, choices, preview=_preview(request, form))
        run = _submit(request, form, source)
    except ServiceError as error:
        add_service_error(form, error, _renamed(form))
        return _form_page(request, form, source, choices)
    if run.reused_from_id:
        messages.success(request, "An identical run had succeeded, so its values are shown without computing again.")
    return redirect("web:run", run.pk)


def _submit(request: HttpRequest, form: RunForm, source: Run | None) -> Run:
    id_, number = form.prompt_version()
    return services.submit_run(
        owner=request.user,  # type: ignore[arg-type]
        model=catalog.model_by_slug(form.cleaned_data["model"]),
        prompts=catalog.version_for(request.user, id_, number),
        method=form.method.name,
        params=form.params(),
        title=form.cleaned_data["title"],
        visibility=form.cleaned_data["visibility"] or "lab",
        tags=form.tag_names(),
        force=form.cleaned_data["force"],
        cloned_from=source,
    )


def _preview(request: HttpRequest, form: RunForm) -> dict[str, Any]:
    """What the run would take, where it would queue, and whether its values are known already."""
    id_, number = form.prompt_version()
    model = catalog.model_by_slug(form.cleaned_data["model"])
    plan = planning.plan(
        model=model,
        prompts=catalog.version_for(request.user, id_, number),
        method=form.method.name,
        params=form.params(),
    )
    position, reason = would_queue(model, request.user)
    same = services.identical_run(request.user, plan.spec_hash)  # type: ignore[arg-type]
    estimate = estimates.of_plan(plan.method.name, model, plan.normalised, plan.cost)
    speedup = plan.cost.naive_flops / plan.cost.flops if plan.cost.flops else 1.0
    return {
        "cells": plan.cost.cells,
        "flops": plan.cost.flops,
        "speedup": speedup if speedup > 1.0 else None,
        "seconds": estimate.seconds if estimate else None,
        "position": position,
        "reason": reason,
        "reuse": same,
        "reuse_device": provenance.device_of(same) if same else "",
    }


def _cloned(request: HttpRequest) -> Run | None:
    wanted = request.GET.get("from", "")
    return selectors.run_detail(request.user, wanted) if wanted else None


def _method(request: HttpRequest, source: Run | None) -> Method:
    name = request.POST.get("method") or request.GET.get("method") or (source.method if source else "")
    return planning.find_method(name) if name else experiments.methods()[0]


def _initial(request: HttpRequest, method: Method, source: Run | None, prompt_sets: list[Any]) -> dict[str, Any]:
    """What the form shows first: a cloned run's values, overlaid by what the address names."""
    initial: dict[str, Any] = initial_params(method, source.spec if source and source.method == method.name else {})
    if source is not None:
        named = audience(source, request.user).prompts
        initial |= {
            "model": source.model.slug,
            "prompts": f"{source.prompts.prompt_set_id}@{source.prompts.number}" if named else "",
            "title": source.title,
            "visibility": source.visibility,
            "tags": ", ".join(tag.name for tag in source.tags.all()),
        }
    if request.GET.get("model"):
        initial["model"] = request.GET["model"]
    wanted = request.GET.get("prompts", "")
    if wanted and "@" not in wanted:
        newest = next((found.latest_number for found in prompt_sets if wanted in (str(found.pk), found.slug)), None)
        wanted = f"{wanted}@{newest}" if newest else ""
    if wanted:
        initial["prompts"] = wanted
    for name in method.spec.model_fields:
        # `?method=` and `?prompts=` say what the form is for; a parameter of that name is written with its prefix.
        given = PREFIX + name if name in PAGE_QUERY or PREFIX + name in request.GET else name
        if given in request.GET:
            values = request.GET.getlist(given)
            initial[PREFIX + name] = values if len(values) > 1 else values[0]
    return initial


def _offer_version(form: RunForm, value: str, user: Any) -> None:
    """Older versions and archived sets are no choices of their own; the one a clone or an address names is."""
    field: Any = form.fields["prompts"]
    id_, _, number = value.partition("@")
    if version_number(number) is None or any(value == known for known, _ in field.choices):
        return
    try:
        version = catalog.version_for(user, id_, version_number(number))
    except ServiceError:
        return
    label = f"{version.prompt_set.title} · v{version.number} · {version.n_pairs} pairs (not the newest)"
    field.choices = [(value, label), *field.choices]


def _renamed(form: RunForm) -> dict[str, str]:
    """Names of inputs in a service's error → names in this form."""
    renamed = {f"params.{name}": PREFIX + name for name in form.parameter_names}
    if "sites" in form.parameter_names:
        renamed["params"] = PREFIX + "sites"
    return renamed


def _form_page(
    request: HttpRequest,
    form: RunForm,
    source: Run | None,
    choices: dict[str, Any],
    preview: dict[str, Any] | None = None,
) -> HttpResponse:
    context = {
        "form": form,
        "method": form.method,
        "groups": grouped_methods(),
        "help": help_blocks(form.method.help),
        "source": source,
        "preview": preview,
        "ready": bool(choices["models"] and choices["prompt_sets"]),
        "no_models": not choices["models"],
        "props": _props(form, choices),
    }
    return render(request, "web/run_new.html", context, status=400 if form.errors else 200)


def _props(form: RunForm, choices: dict[str, Any]) -> dict[str, Any]:
    """What the `method-form` island starts from."""

    def value(name: str) -> Any:
        return form[name].value() or ""

    id_, _, number = str(value("prompts")).partition("@")
    return {
        "methods": [method_shape(method) for _, found in grouped_methods() for method in found],
        "groups": [{"key": key, "title": title} for key, title in GROUPS.items()],
        "models": [shapes.model(model) for model in choices["models"]],
        "promptSets": [shapes.prompt_set(found) for found in choices["prompt_sets"]],
        "initial": {
            "method": form.method.name,
            "model": value("model"),
            "prompts": {"id": id_, "version": version_number(number)} if version_number(number) else None,
            "params": {name: form[PREFIX + name].value() for name in form.parameter_names},
            "title": value("title"),
            "visibility": value("visibility") or "lab",
            "tags": [tag.strip() for tag in str(value("tags")).split(",") if tag.strip()],
        },
        "api": "/api/v1/",
    }


def method_shape(method: Method) -> dict[str, Any]:
    """A method with the JSON schema of its spec."""
    return {
        "name": method.name,
        "title": method.title,
        "summary": method.summary,
        "help": method.help,
        "group": method.group,
        "schema": method.spec.model_json_schema(),
    }
