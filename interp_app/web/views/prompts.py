"""Prompt sets: the list, a version with its tokens and alignment, downloads, making one and adding versions."""

from typing import Any, Final

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from interp_app.catalog import csv_pairs, selectors, services, shapes
from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.catalog.uploads import MAX_UPLOAD_BYTES
from interp_app.core.errors import ServiceError, not_allowed
from interp_app.web.forms.prompts import PromptSetForm, rows_from_pairs, rows_from_post, text_from_pairs
from interp_app.web.http import add_service_error, member_page, page, tell
from interp_app.web.pair_tables import pair_lines, problems_by_pair, version_problems

PAIRS_A_PAGE: Final = 50
EDIT_BY_HAND_UP_TO: Final = 12
NO_CSV: Final = "An answer of these pairs has a “|” in it, which separates answers in CSV."


@require_safe
@page
def prompt_sets(request: HttpRequest) -> HttpResponse:
    """Every prompt set the visitor may see."""
    archived = request.GET.get("archived") == "1"
    found = selectors.visible_prompt_sets(request.user, archived=archived)
    query = request.GET.get("q", "").strip()[:120]
    if query:
        found = found.filter(title__icontains=query)
    listed = Paginator(found.order_by("title", "id"), 50).get_page(request.GET.get("page"))
    return render(request, "web/prompts.html", {"page": listed, "q": query, "archived": archived})


@require_safe
@page
def latest(request: HttpRequest, id_: Any) -> HttpResponse:
    """The newest version has an address of its own, so that a link never changes its content."""
    version = selectors.version_for(request.user, id_)
    return redirect("web:prompt_version", id_, version.number)


@require_safe
@page
def prompt_version(request: HttpRequest, id_: Any, number: int) -> HttpResponse:
    """One version: its pairs as one model's tokens, what is wrong with them, and its sisters."""
    version = selectors.version_for(request.user, id_, number)
    models = list(selectors.allowed_models()) if getattr(request.user, "in_lab", False) else []
    model = _chosen_model(models, request.GET.get("model", ""))
    pairs = selectors.pairs_of(version)
    shown = Paginator(pairs, PAIRS_A_PAGE).get_page(request.GET.get("page"))
    context: dict[str, Any] = {
        "version": version,
        "prompt_set": version.prompt_set,
        "versions": version.prompt_set.versions.defer("pairs").select_related("created_by"),
        "models": models,
        "model": model,
        "shown": shown,
        "fit_csv": csv_pairs.fit_csv(pairs),
        "can_edit": PromptSet.objects.editable_by(request.user).filter(pk=version.prompt_set_id).exists(),
        **_checked_lines(model, version, list(shown.object_list), max(shown.start_index() - 1, 0)),
    }
    return render(request, "web/prompt_version.html", context)


def _checked_lines(
    model: ModelSource | None, version: PromptSetVersion, pairs: list[Any], start: int
) -> dict[str, Any]:
    """Table lines of `pairs`, the first of which is pair `start + 1`, and the problems of the whole version."""
    plain = {"lines": pair_lines(pairs, None, start), "problems": None, "problem_pairs": 0}
    if model is None:
        return plain
    try:
        view = selectors.tokenised(model, pairs)
        problems = version_problems(model, version)
    except ServiceError as error:
        return {**plain, "tokenizer_error": error}
    lines = pair_lines(pairs, view, start, problems=problems)
    return {"lines": lines, "problems": problems, "problem_pairs": len(problems_by_pair(problems))}


def _chosen_model(models: list[ModelSource], slug: str) -> ModelSource | None:
    chosen = next((model for model in models if model.slug == slug), None)
    return chosen or (models[0] if models else None)


@require_safe
@page
def download(request: HttpRequest, id_: Any, number: int, suffix: str) -> HttpResponse:
    """The pairs of a version as CSV or JSON Lines, in the form an upload takes."""
    if suffix not in ("csv", "jsonl"):
        raise Http404
    version = selectors.version_for(request.user, id_, number)
    pairs = selectors.pairs_of(version)
    if suffix == "jsonl":
        response = HttpResponse(text_from_pairs(pairs), content_type="application/x-ndjson; charset=utf-8")
    elif csv_pairs.fit_csv(pairs):
        response = HttpResponse(csv_pairs.csv_of(pairs), content_type="text/csv; charset=utf-8")
    else:
        raise ServiceError("no_csv", NO_CSV, "Download them as JSON Lines.", status=409)
    name = version.prompt_set.slug or f"prompts-{version.prompt_set_id}"
    response["Content-Disposition"] = f'attachment; filename="{name}-v{version.number}.{suffix}"'
    return response


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def new_prompt_set(request: HttpRequest) -> HttpResponse:
    """Make a prompt set by hand, from a text or from a file."""
    if request.method != "POST":
        return _form_page(request, PromptSetForm(models=list(selectors.allowed_models())), None)
    form = _posted_form(request)
    if not _may_save(request, form):
        return _form_page(request, form, None)
    try:
        made = services.create_prompt_set(
            owner=request.user,  # type: ignore[arg-type]
            title=form.cleaned_data["title"],
            description=form.cleaned_data["description"],
            visibility=form.cleaned_data["visibility"] or "lab",
            note=form.cleaned_data["note"],
            pairs=form.pairs,
        )
    except ServiceError as error:
        add_service_error(form, error, {"pairs": "pairs_text"})
        return _form_page(request, form, None)
    messages.success(request, f"Saved: {len(form.pairs)} pairs as version 1.")
    return redirect("web:prompt_version", made.pk, 1)


@require_http_methods(["GET", "HEAD", "POST"])
@member_page
def edit_prompt_set(request: HttpRequest, id_: Any) -> HttpResponse:
    """Write the next version of a set, starting from the newest one."""
    version = selectors.version_for(request.user, id_)
    prompt_set = version.prompt_set
    if not PromptSet.objects.editable_by(request.user).filter(pk=prompt_set.pk).exists():
        raise not_allowed("This prompt set belongs to someone else.", "Download its pairs and make a set of your own.")
    if request.method != "POST":
        return _form_page(request, _form_of(version), version)
    form = _posted_form(request)
    if not _may_save(request, form):
        return _form_page(request, form, version)
    try:
        services.update_prompt_set(
            prompt_set=prompt_set,
            actor=request.user,  # type: ignore[arg-type]
            title=form.cleaned_data["title"],
            description=form.cleaned_data["description"],
            visibility=form.cleaned_data["visibility"] or prompt_set.visibility,
        )
        saved = services.add_version(
            prompt_set=prompt_set,
            actor=request.user,  # type: ignore[arg-type]
            pairs=form.pairs,
            note=form.cleaned_data["note"],
        )
    except ServiceError as error:
        add_service_error(form, error, {"pairs": "pairs_text"})
        return _form_page(request, form, version)
    same = saved.number == version.number
    messages.success(request, "The pairs did not change." if same else f"Saved as version {saved.number}.")
    return redirect("web:prompt_version", prompt_set.pk, saved.number)


@require_POST
@member_page
def archive(request: HttpRequest, id_: Any) -> HttpResponse:
    """Take a set out of the lists, or put it back. Runs that used it keep it."""
    prompt_set = selectors.prompt_set_for(request.user, id_)
    archived = request.POST.get("archived") == "1"
    try:
        services.update_prompt_set(prompt_set=prompt_set, actor=request.user, archived=archived)  # type: ignore[arg-type]
    except ServiceError as error:
        tell(request, error)
    else:
        messages.success(
            request, "Archived. It is out of the lists; runs keep it." if archived else "Back in the lists."
        )
    return redirect("web:prompt_latest", id_)


def _posted_form(request: HttpRequest) -> PromptSetForm:
    rows = rows_from_post(request.POST, more=request.POST.get("action") == "more")
    models = list(selectors.allowed_models())
    return PromptSetForm(request.POST, request.FILES, models=models, rows=rows)


def _form_of(version: PromptSetVersion) -> PromptSetForm:
    pairs = selectors.pairs_of(version)
    few = len(pairs) <= EDIT_BY_HAND_UP_TO
    by_hand = few and csv_pairs.fit_csv(pairs) and not any(pair.label for pair in pairs)
    prompt_set = version.prompt_set
    return PromptSetForm(
        models=list(selectors.allowed_models()),
        rows=rows_from_pairs(pairs) if by_hand else None,
        initial={
            "title": prompt_set.title,
            "description": prompt_set.description,
            "visibility": prompt_set.visibility,
            "pairs_text": "" if by_hand else text_from_pairs(pairs),
        },
    )


def _may_save(request: HttpRequest, form: PromptSetForm) -> bool:
    """Valid, meant to be saved, and either aligned for the chosen model or saved knowingly all the same."""
    action = request.POST.get("action", "save")
    if action == "more":
        form.say_nothing()
        return False
    if not form.is_valid():
        return False
    problems = _alignment(form)
    return action == "save" and (not problems or form.cleaned_data["save_anyway"])


def _alignment(form: PromptSetForm) -> list[Any]:
    """Check the pairs with the chosen tokenizer; the form's page then shows tokens and problems."""
    slug = form.cleaned_data.get("model")
    if not slug:
        return []
    try:
        view = selectors.tokenised(selectors.model_by_slug(slug), form.pairs)
    except ServiceError as error:
        form.add_error("model", str(error))
        return [error]
    form.checked_lines = pair_lines(form.pairs[:PAIRS_A_PAGE], view, 0, problems=view.problems)
    form.problems = view.problems
    return list(view.problems)


def _form_page(request: HttpRequest, form: PromptSetForm, version: PromptSetVersion | None) -> HttpResponse:
    failed = form.is_bound and request.POST.get("action", "save") == "save"
    models = [shapes.model(model) for model in selectors.allowed_models()]
    check = {"models": models, "api": "/api/v1/", "max_bytes": MAX_UPLOAD_BYTES}
    context = {"form": form, "version": version, "check_props": check}
    return render(request, "web/prompt_form.html", context, status=400 if failed else 200)
