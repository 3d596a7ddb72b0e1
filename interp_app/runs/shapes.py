"""The JSON of a run as the API, the sockets and the pages show it: one definition, so they cannot drift apart.

The slim form is what lists and live updates carry: no spec, no provenance. It is built from `COLUMNS`, which come
from a run (`slim_run`; `for_slim` makes a queryset whose runs have them) or, for long lists, straight from the database
(`slim_columns`, `slim_rows`): a page of runs is then no model instances at all.

Who may see a run may not see the prompt set it is on or the run it reuses, nor, from outside the lab, who computed it:
the form depends on its viewer, by `Audience`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from interp_app.core.shapes import moment
from interp_app.core.visibility import VisibleQuerySet, may_see
from interp_app.runs.models import Run, progress_of

__all__ = [
    "Audience",
    "audience",
    "for_slim",
    "moment",
    "slim_columns",
    "slim_rows",
    "slim_run",
    "slim_run_for",
    "without_lab",
]

HIDDEN_PROMPTS: Final = "a prompt set you may not see"
OF_THE_LAB: Final = ("worker", "host", "hostname", "user", "pid")
"""Keys of a run's provenance and of its failure's detail that are the lab's own business."""

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
    "steps_done",
    "steps_total",
    "attempt",
    "owner_id",
    "owner__public_id",
    "owner__first_name",
    "owner__last_name",
    "owner__username",
    "model__slug",
    "model__title",
    "prompts__prompt_set_id",
    "prompts__prompt_set__title",
    "prompts__prompt_set__owner_id",
    "prompts__prompt_set__visibility",
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
    "reused_from__owner_id",
    "reused_from__visibility",
    "created_at",
    "started_at",
    "finished_at",
    "last_seq",
)
AUDIENCE_COLUMNS: Final = (
    "owner_id",
    "prompts__prompt_set__owner_id",
    "prompts__prompt_set__visibility",
    "reused_from_id",
    "reused_from__owner_id",
    "reused_from__visibility",
)


@dataclass(frozen=True, slots=True)
class Audience:
    """What one viewer may see of a run besides itself. Viewers with equal audiences get the same slim form."""

    prompts: bool
    source: bool
    in_lab: bool


def audience(run: Run, viewer: Any) -> Audience:
    """What `viewer` may see around `run`, which comes from `for_slim` or `selectors.run_detail`."""
    return _audience({column: _attribute(run, column) for column in AUDIENCE_COLUMNS}, viewer)


def for_slim(queryset: VisibleQuerySet) -> VisibleQuerySet:
    """The queryset with all that `slim_run` reads, and none of the wide columns it does not: two queries a list."""
    return queryset.select_related(*SLIM_RELATED).prefetch_related("tags").defer(None).defer(*SLIM_DEFERRED)


def slim_run(run: Run, viewer: Any) -> dict[str, Any]:
    """The slim form of one run for `viewer`."""
    return slim_run_for(run, audience(run, viewer))


def slim_run_for(run: Run, seen: Audience) -> dict[str, Any]:
    """The slim form for all who see as much of the run as `seen`."""
    row = {column: _attribute(run, column) for column in COLUMNS}
    return _slim(row, [tag.name for tag in run.tags.all()], seen)


def slim_columns(queryset: VisibleQuerySet) -> Any:
    """The queryset as rows of `COLUMNS`, to be paged and given to `slim_rows`."""
    return queryset.select_related(None).prefetch_related(None).values(*COLUMNS)


def slim_rows(rows: Sequence[Mapping[str, Any]], viewer: Any) -> list[dict[str, Any]]:
    """The slim form of rows of `slim_columns` for `viewer`. One query, for their tags."""
    links = Run.tags.through.objects.filter(run__in=[row["id"] for row in rows]).order_by("tag__name")
    tags: dict[Any, list[str]] = {}
    for run_id, name in links.values_list("run_id", "tag__name"):
        tags.setdefault(run_id, []).append(name)
    return [_slim(row, tags.get(row["id"], []), _audience(row, viewer)) for row in rows]


def _attribute(run: Run, column: str) -> Any:
    """`run.prompts.number` for `prompts__number`; None from a relation that is not there on."""
    value: Any = run
    for name in column.split("__"):
        value = getattr(value, name, None)
    return value


def _audience(row: Mapping[str, Any], viewer: Any) -> Audience:
    prompts = may_see(viewer, row["prompts__prompt_set__owner_id"], row["prompts__prompt_set__visibility"])
    source = row["reused_from_id"] is not None and may_see(
        viewer, row["reused_from__owner_id"], row["reused_from__visibility"]
    )
    in_lab = bool(getattr(viewer, "in_lab", False)) or row["owner_id"] == getattr(viewer, "pk", None)
    return Audience(prompts, source, in_lab)


def _slim(row: Mapping[str, Any], tags: list[str], seen: Audience) -> dict[str, Any]:
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
        "progress": progress_of(row["cells_done"], row["cells_total"], row["steps_done"], row["steps_total"]),
        "attempt": row["attempt"],
        "owner": {
            "id": str(row["owner__public_id"]),
            "name": f"{row['owner__first_name']} {row['owner__last_name']}".strip() or row["owner__username"],
        },
        "model": {"slug": row["model__slug"], "title": row["model__title"]},
        "prompts": {
            "id": str(row["prompts__prompt_set_id"]) if seen.prompts else None,
            "title": row["prompts__prompt_set__title"] if seen.prompts else HIDDEN_PROMPTS,
            "version": row["prompts__number"],
            "pairs": row["prompts__n_pairs"],
        },
        "visibility": row["visibility"],
        "archived": row["archived_at"] is not None,
        "tags": tags,
        "summary": row["summary"],
        "failure": _failure(row, seen),
        "reused_from": str(reused) if seen.source else None,
        "created_at": moment(row["created_at"]),
        "started_at": moment(row["started_at"]),
        "finished_at": moment(row["finished_at"]),
        "last_seq": row["reused_from__last_seq"] if reused else row["last_seq"],
        "url": f"/runs/{row['id']}/",
    }


def _failure(row: Mapping[str, Any], seen: Audience) -> dict[str, Any] | None:
    """Why the run failed, or None."""
    if not row["failure_code"]:
        return None
    detail = row["failure_detail"] if seen.in_lab else without_lab(row["failure_detail"])
    return {"code": row["failure_code"], "text": row["failure_text"], "detail": detail}


def without_lab(facts: Any) -> Any:
    """Facts as outsiders may read them."""
    return {key: value for key, value in facts.items() if key not in OF_THE_LAB} if isinstance(facts, dict) else facts
