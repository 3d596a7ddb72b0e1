"""The models the lab allows, and what is known of each without loading it."""

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from interp_app.catalog import selectors as catalog
from interp_app.runs import selectors
from interp_app.web.http import lab_page
from tracing import experiments
from tracing.experiments.registry import Method
from tracing.families.facts import is_sweepable

LAST_RUNS: Final = 10
SITE_HELP: Final = {
    "resid_pre": "residual stream before a block",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream after a block",
    "attn_out": "what attention adds to the stream",
    "mlp_out": "what the MLP adds to the stream",
    "z": "each head's output before the output projection",
    "embed": "token (and position) embedding",
    "q": "queries of each head",
    "k": "keys of each head",
    "v": "values of each head",
    "pattern": "attention weights of each head",
    "head_out": "what each head adds to the stream",
    "logits": "the model's output",
    "scores": "attention before the softmax, masked",
    "q_rot": "queries as attention uses them, rotated",
    "k_rot": "keys as attention uses them, rotated",
    "mixer_out": "what the mixer adds to the stream",
    "cross_out": "what attention to the encoder adds to the stream",
}


@require_safe
@lab_page
def models(request: HttpRequest) -> HttpResponse:
    """All allowed models, and on which workers they are warm."""
    warm = {slug for worker in selectors.online_workers() for slug in worker.models_warm}
    available = {slug for worker in selectors.online_workers() for slug in worker.models_available}
    rows = [(model, model.slug in warm, model.slug in available) for model in catalog.allowed_models()]
    return render(request, "web/models.html", {"rows": rows})


@require_safe
@lab_page
def model(request: HttpRequest, slug: str) -> HttpResponse:
    """One model: facts, sites, hashes, where it is warm, its last runs."""
    found = catalog.model_by_slug(slug)
    online = selectors.online_workers()
    able = is_sweepable(found.family)
    patchable = {site for method in experiments.methods() for site in _sites_of(method) if able}
    context = {
        "model": found,
        "facts": catalog.facts_of(found),
        "sites": [(site, SITE_HELP.get(site, ""), site in patchable) for site in catalog.sites_of(found)],
        "warm_on": [worker for worker in online if slug in worker.models_warm],
        "available_on": [worker for worker in online if slug in worker.models_available],
        "runs": selectors.visible_runs(request.user).filter(model=found, archived_at__isnull=True)[:LAST_RUNS],
        "methods": experiments.methods(),
    }
    return render(request, "web/model.html", context)


def _sites_of(method: Method) -> list[str]:
    """The sites that a method's parameters accept."""
    field = method.spec.model_json_schema()["properties"].get("sites", {})
    named: list[str] = field.get("items", {}).get("enum", [])
    return named
