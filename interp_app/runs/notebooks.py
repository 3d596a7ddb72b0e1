"""The notebook of a run: its pairs, its call and its stored numbers, for a machine without the dashboard."""

import json
from typing import Any, Final

from interp_app.catalog import files
from interp_app.catalog import selectors as catalog
from interp_app.catalog.models import ModelSource as Catalogued
from interp_app.core.errors import ServiceError, not_found
from interp_app.runs import planning, results
from interp_app.runs.models import Run, Status
from interp_app.runs.shapes import audience
from tracing import demo
from tracing.experiments.notebook import ModelSource, notebook

MAX_NUMBERS: Final = 50_000_000
"""Of one result; comparing needs its arrays in memory once."""


def text(run: Run, viewer: Any) -> str:
    """The notebook as JSON text. `run` comes from `selectors.run_detail`.

    Raises `ServiceError` 409 before the run has succeeded, 404 for who may not see its prompts, since they are in it,
    413 where a result is too large, 410 where its file is gone.
    """
    if not audience(run, viewer).prompts:
        raise not_found("notebook")
    if run.status != Status.SUCCEEDED:
        message = "This run has no notebook: it has not succeeded."
        raise ServiceError("run_unfinished", message, "Wait for its end, or resume it.", status=409)
    method = planning.find_method(run.method)
    stored = {found.name: results.typed(found, at_most=MAX_NUMBERS) for found in results.results_of(run)}
    source = run.source
    facts = {
        "Run": str(run.pk),
        "Model": f"{run.model.title} ({run.model.slug})",
        "Computed on": source.provenance.get("device_name", ""),
        "Commit": source.provenance.get("commit", ""),
        "Packages": ", ".join(f"{name} {number}" for name, number in source.provenance.get("packages", {}).items()),
    }
    found = notebook(
        method,
        planning.parse_spec(method, run.spec),
        model_source(run.model, str(run.spec.get("dtype", "float32"))),
        catalog.pairs_of(run.prompts),
        stored,
        title=run.title,
        facts=facts,
    )
    return json.dumps(found, ensure_ascii=False, indent=1)


def model_source(model: Catalogued, dtype: str) -> ModelSource:
    """The model as a notebook names it: no path of this machine, but the hashes that its weights must have."""
    where = repr(model.location.rpartition("/")[2])
    try:
        if files.resolve_location(model.location).resolve() == demo.MODEL_DIR.resolve():
            where = "MODEL_DIR"
    except ServiceError:
        pass  # this machine does not have the model; its name is all there is to say
    return ModelSource(model.title, where, model.weights_sha256, dtype, model.revision)
