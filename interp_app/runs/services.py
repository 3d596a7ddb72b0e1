"""Writes on runs that people ask for: submit, cancel, resume, update. Workers write through `claims` and `events`."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core import audit, filing
from interp_app.core.errors import ServiceError, not_allowed
from interp_app.core.models import User
from interp_app.core.visibility import Visibility
from interp_app.runs import events, planning, states, wake
from interp_app.runs.models import Run, Status, Tag

MAX_TITLE = 160
MAX_TAGS = 20


@transaction.atomic
def submit_run(
    *,
    owner: User,
    model: ModelSource,
    prompts: PromptSetVersion,
    method: str,
    params: Mapping[str, Any],
    title: str = "",
    visibility: str = Visibility.LAB,
    tags: Iterable[str] = (),
    force: bool = False,
    cloned_from: Run | None = None,
) -> Run:
    """Queue a run, or answer at once from an identical one that succeeded (`reused_from`; `force` computes again).

    Raises `ServiceError`: not a member, over the quota, or the plan's complaints about spec, model and prompts.
    """
    if not owner.can_run:
        raise not_allowed("Your account may not run experiments.", "Ask an administrator for the role member.")
    plan = planning.plan(model=model, prompts=prompts, method=method, params=params)
    names = _tag_names(tags)
    _lock_owner(owner.pk)
    now = timezone.now()
    default_title = f"{plan.method.title}: {prompts.prompt_set.title} on {model.title}"[:MAX_TITLE]
    run = Run(
        title=filing.title(title, at_most=MAX_TITLE, required=False) or default_title,
        owner=owner,
        visibility=filing.visibility(visibility),
        method=plan.method.name,
        spec=plan.normalised,
        spec_hash=plan.spec_hash,
        model=model,
        prompts=prompts,
        cloned_from=cloned_from,
        cells_total=plan.cost.cells,
        flops=plan.cost.flops,
        launches=plan.cost.launches,
        queued_at=now,
    )
    source = None if force else identical_run(owner, plan.spec_hash)
    if source is not None:
        _answer_from(run, source)
    else:
        _require_queue_room(owner)
    run.save()
    if names:
        run.tags.set(_tags(names))
    if source is None:
        events.append(run.pk, [events.status_event(Status.QUEUED, attempt=0)])
        run.last_seq = 1
        wake.wake_workers()
    audit.record(actor=owner, action="run.submit", target=run, method=run.method, reused_from=source and str(source.pk))
    return run


@transaction.atomic
def cancel_run(*, run: Run, actor: User) -> Run:
    """Cancel a queued run now, or ask the worker of a running one to stop. Asking twice is asking once."""
    run = _locked(run, actor)
    if run.status == Status.RUNNING:
        if run.cancel_requested_at is None:
            event = events.status_event(Status.RUNNING, attempt=run.attempt, stage=run.stage, reason="cancel requested")
            events.append(run.pk, [event], fields={"cancel_requested_at": timezone.now()})
            audit.record(actor=actor, action="run.cancel", target=run)
        run.refresh_from_db()
        return run
    states.require(run.status, Status.CANCELLED, action="cancelled")
    events.append(
        run.pk,
        [events.status_event(Status.CANCELLED, attempt=run.attempt)],
        fields={"status": Status.CANCELLED, "finished_at": timezone.now(), "stage": ""},
    )
    audit.record(actor=actor, action="run.cancel", target=run)
    run.refresh_from_db()
    return run


@transaction.atomic
def resume_run(*, run: Run, actor: User) -> Run:
    """Queue a cancelled or failed run again; what it computed is kept and not computed again."""
    run = _locked(run, actor)
    if not actor.can_run:
        raise not_allowed("Your account may not run experiments.", "Ask an administrator for the role member.")
    states.require_resumable(run.status)
    _lock_owner(run.owner_id)
    _require_queue_room(run.owner)
    events.append(
        run.pk,
        [events.status_event(Status.QUEUED, attempt=run.attempt, reason="resumed")],
        fields={
            "status": Status.QUEUED,
            "stage": "",
            "losses": 0,
            "worker": None,
            "queued_at": timezone.now(),
            "finished_at": None,
            "failure_code": "",
            "failure_text": "",
            "failure_detail": {},
        },
    )
    audit.record(actor=actor, action="run.resume", target=run)
    wake.wake_workers()
    run.refresh_from_db()
    return run


@transaction.atomic
def update_run(
    *,
    run: Run,
    actor: User,
    title: str | None = None,
    visibility: str | None = None,
    tags: Iterable[str] | None = None,
    archived: bool | None = None,
) -> Run:
    """Change how a run is filed; None leaves a field as it is. Raises `ServiceError`."""
    run = _locked(run, actor)
    changes: dict[str, Any] = {}
    if title is not None:
        changes["title"] = filing.title(title, at_most=MAX_TITLE)
    if visibility is not None:
        changes["visibility"] = filing.visibility(visibility)
    if archived is not None:
        changes["archived_at"] = timezone.now() if archived else None
    if changes:
        Run.objects.filter(pk=run.pk).update(**changes)
    if tags is not None:
        names = _tag_names(tags)
        run.tags.set(_tags(names))
        changes["tags"] = names
    audit.record(actor=actor, action="run.update", target=run, **{k: str(v) for k, v in changes.items()})
    run.refresh_from_db()
    return run


def identical_run(user: User, spec_hash: str) -> Run | None:
    """The newest succeeded run with this hash that is shared with `user`, and that computed its values itself.

    An administrator may look at everybody's private runs, but an answer from one would say that it exists to all who
    see the new run.
    """
    found: Run | None = (
        Run.objects.shared_with(user)
        .filter(spec_hash=spec_hash, status=Status.SUCCEEDED, reused_from__isnull=True)
        .order_by("-finished_at")
        .first()
    )
    return found


def _answer_from(run: Run, source: Run) -> None:
    now = timezone.now()
    run.reused_from = source
    run.status = Status.SUCCEEDED
    run.started_at = run.finished_at = now
    for name in ("cells_done", "cells_total", "summary", "provenance", "last_seq"):
        setattr(run, name, getattr(source, name))


def _locked(run: Run, actor: User) -> Run:
    """The run's row, locked, if `actor` may change it."""
    if not Run.objects.editable_by(actor).filter(pk=run.pk).exists():
        raise not_allowed("This run belongs to someone else.", "Clone it to change it.")
    locked: Run = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
    return locked


def _lock_owner(owner_id: int) -> None:
    """One submission or resume an owner at a time, so that the quota holds. Lock order: run, then owner."""
    User.objects.select_for_update(no_key=True).only("pk").get(pk=owner_id)


def _require_queue_room(owner: User) -> None:
    queued = Run.objects.filter(owner=owner, status=Status.QUEUED).count()
    if queued >= settings.QUOTA_QUEUED_RUNS:
        raise ServiceError(
            "quota_queued",
            f"You already have {queued} runs in the queue; the limit is {settings.QUOTA_QUEUED_RUNS}.",
            "Wait until some have finished, or cancel some.",
            status=429,
        )


def _tag_names(tags: Iterable[str]) -> list[str]:
    names = sorted({tag.strip().lower() for tag in tags if tag.strip()})
    if len(names) > MAX_TAGS or any(len(name) > 40 or "\x00" in name for name in names):
        message = f"At most {MAX_TAGS} tags of at most 40 characters each, without zero bytes, are allowed."
        raise ServiceError("tags_invalid", message, fields={"tags": [message]})
    return names


def _tags(names: list[str]) -> list[Tag]:
    Tag.objects.bulk_create([Tag(name=name) for name in names], ignore_conflicts=True)
    return list(Tag.objects.filter(name__in=names))
