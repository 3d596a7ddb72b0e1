"""The JSON of a run as the API, the sockets and the pages show it: one definition, so they cannot drift apart.

The slim form is what lists and live updates carry: no spec, no provenance. It is built from `COLUMNS`, which come
from a run (`slim_run`; `for_slim` makes a queryset whose runs have them) or, for long lists, straight from the database
(`slim_columns`, `slim_rows`): a page of runs is then no model instances at all.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from interp_app.core.shapes import moment
from interp_app.core.visibility import VisibleQuerySet
from interp_app.runs.models import Run

__all__ = ["for_slim", "moment", "slim_columns", "slim_rows", "slim_run"]

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
COLUMNS: Final = (
    "id",
    "title",
    "method",
    "status",
    "stage",
    "cancel_requested_at",
    "cells_done",
    "cells_total",
    "attempt",
    "owner__public_id",
    "owner__first_name",
    "owner__last_name",
    "owner__username",
    "model__slug",
    "model__title",
    "prompts__prompt_set_id",
    "prompts__prompt_set__title",
    "prompts__number",
    "prompts__n_pairs",
    "visibility",
    "archived_at",
    "summary",
    "failure_code",
    "failure_text",
    "failure_detail",
    "reused_from_id",
    "reused_from__last_seq",
    "created_at",
    "started_at",
    "finished_at",
    "last_seq",
)


def for_slim(queryset: VisibleQuerySet) -> VisibleQuerySet:
    """The queryset with all that `slim_run` reads, and none of the wide columns it does not: two queries a list."""
    return queryset.select_related(*SLIM_RELATED).prefetch_related("tags").defer(None).defer(*SLIM_DEFERRED)


def slim_run(run: Run) -> dict[str, Any]:
    """The slim form of one run."""
    return _slim({column: _attribute(run, column) for column in COLUMNS}, [tag.name for tag in run.tags.all()])


def slim_columns(queryset: VisibleQuerySet) -> Any:
    """The queryset as rows of `COLUMNS`, to be paged and given to `slim_rows`."""
    return queryset.select_related(None).prefetch_related(None).values(*COLUMNS)


def slim_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The slim form of rows of `slim_columns`. One query, for their tags."""
    links = Run.tags.through.objects.filter(run__in=[row["id"] for row in rows]).order_by("tag__name")
    tags: dict[Any, list[str]] = {}
    for run_id, name in links.values_list("run_id", "tag__name"):
        tags.setdefault(run_id, []).append(name)
    return [_slim(row, tags.get(row["id"], [])) for row in rows]


def _attribute(run: Run, column: str) -> Any:
    """`run.prompts.number` for `prompts__number`; None from a relation that is not there on."""
    value: Any = run
    for name in column.split("__"):
        value = getattr(value, name, None)
    return value


def _slim(row: Mapping[str, Any], tags: list[str]) -> dict[str, Any]:
    """A reused run shows the log position of the run whose results it reads."""
    reused = row["reused_from_id"]
    return {
        "id": str(row["id"]),
        "title": row["title"],
        "method": row["method"],
        "status": row["status"],
        "stage": row["stage"],
        "cancelling": row["status"] == "running" and row["cancel_requested_at"] is not None,
        "cells_done": row["cells_done"],
        "cells_total": row["cells_total"],
        "attempt": row["attempt"],
        "owner": {
            "id": str(row["owner__public_id"]),
            "name": f"{row['owner__first_name']} {row['owner__last_name']}".strip() or row["owner__username"],
        },
        "model": {"slug": row["model__slug"], "title": row["model__title"]},
        "prompts": {
            "id": str(row["prompts__prompt_set_id"]),
            "title": row["prompts__prompt_set__title"],
            "version": row["prompts__number"],
            "pairs": row["prompts__n_pairs"],
        },
        "visibility": row["visibility"],
        "archived": row["archived_at"] is not None,
        "tags": tags,
        "summary": row["summary"],
        "failure": _failure(row),
        "reused_from": str(reused) if reused else None,
        "created_at": moment(row["created_at"]),
        "started_at": moment(row["started_at"]),
        "finished_at": moment(row["finished_at"]),
        "last_seq": row["reused_from__last_seq"] if reused else row["last_seq"],
        "url": f"/runs/{row['id']}/",
    }


def _failure(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Why the run failed, or None."""
    if not row["failure_code"]:
        return None
    return {"code": row["failure_code"], "text": row["failure_text"], "detail": row["failure_detail"]}
