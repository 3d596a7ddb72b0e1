"""The JSON of a run as the API, the sockets and the pages show it: one definition, so they cannot drift apart.

The slim form is what lists and live updates carry: no spec, no provenance. `SLIM_RELATED` and `SLIM_DEFERRED` are what
a queryset needs so that building it costs no query a row (tags are prefetched).
"""

from typing import Any, Final

from interp_app.core.shapes import moment, person
from interp_app.core.visibility import VisibleQuerySet
from interp_app.runs.models import Run

__all__ = ["SLIM_DEFERRED", "SLIM_RELATED", "failure", "for_slim", "moment", "slim_run"]

SLIM_RELATED: Final = ("owner", "model", "prompts__prompt_set", "reused_from")
SLIM_DEFERRED: Final = (
    "spec",
    "provenance",
    "prompts__pairs",
    "prompts__prompt_set__description",
    "model__facts",
    "model__config",
    "model__weights_sha256",
    "model__description",
    "reused_from__spec",
    "reused_from__provenance",
    "reused_from__summary",
    "reused_from__failure_detail",
    "owner__password",
    "owner__email",
)


def for_slim(queryset: VisibleQuerySet) -> VisibleQuerySet:
    """The queryset with all that `slim_run` reads, and none of the wide columns it does not: two queries a list."""
    return queryset.select_related(*SLIM_RELATED).prefetch_related("tags").defer(None).defer(*SLIM_DEFERRED)


def slim_run(run: Run) -> dict[str, Any]:
    """The slim form. A reused run shows the log position of the run whose results it reads."""
    source = run.reused_from or run
    return {
        "id": str(run.pk),
        "title": run.title,
        "method": run.method,
        "status": run.status,
        "stage": run.stage,
        "cancelling": run.status == "running" and run.cancel_requested_at is not None,
        "cells_done": run.cells_done,
        "cells_total": run.cells_total,
        "attempt": run.attempt,
        "owner": person(run.owner),
        "model": {"slug": run.model.slug, "title": run.model.title},
        "prompts": {
            "id": str(run.prompts.prompt_set_id),
            "title": run.prompts.prompt_set.title,
            "version": run.prompts.number,
            "pairs": run.prompts.n_pairs,
        },
        "visibility": run.visibility,
        "archived": run.archived_at is not None,
        "tags": [tag.name for tag in run.tags.all()],
        "summary": run.summary,
        "failure": failure(run),
        "reused_from": str(run.reused_from_id) if run.reused_from_id else None,
        "created_at": moment(run.created_at),
        "started_at": moment(run.started_at),
        "finished_at": moment(run.finished_at),
        "last_seq": source.last_seq,
        "url": f"/runs/{run.pk}/",
    }


def failure(run: Run) -> dict[str, Any] | None:
    """Why the run failed, or None."""
    if not run.failure_code:
        return None
    return {"code": run.failure_code, "text": run.failure_text, "detail": run.failure_detail}
