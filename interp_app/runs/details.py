"""The JSON of one run in full, and of its panels: what the run page starts from and the API answers.

Outsiders (visitors, guests) reading a public run do not get what is about the lab rather than the result: the queue,
worker and host names.
"""

from typing import Any

from interp_app.core.visibility import may_see
from interp_app.runs import panels, queue, selectors
from interp_app.runs.models import Run, RunArtifact
from interp_app.runs.shapes import audience, slim_run_for, without_lab


def run_detail(run: Run, viewer: Any) -> dict[str, Any]:
    """The slim form and everything else about a run. `run` comes from `selectors.run_detail`."""
    seen = audience(run, viewer)
    parent = run.cloned_from
    return {
        **slim_run_for(run, seen),
        "spec": run.spec,
        "spec_hash": run.spec_hash,
        "provenance": run.provenance if seen.in_lab else without_lab(run.provenance),
        "cloned_from": str(parent.pk) if parent and may_see(viewer, parent.owner_id, parent.visibility) else None,
        "queue": queue_place(run, viewer) if seen.in_lab else None,
        "artifacts": [artifact(run, one) for one in selectors.artifacts_of(run)],
        "can": selectors.can(viewer, run),
    }


def queue_place(run: Run, viewer: Any) -> dict[str, Any] | None:
    """Where a queued run stands; None for any other."""
    entry = queue.queue_entry(run, viewer)
    if entry is None:
        return None
    return {"position": entry.position, "reason": entry.reason, "eta_seconds": entry.eta_seconds}


def artifact(run: Run, one: RunArtifact) -> dict[str, Any]:
    """A file of the run and where to fetch it."""
    return {
        "name": one.name,
        "sha256": one.artifact_id,
        "size": one.artifact.size,
        "media_type": one.artifact.media_type,
        "url": f"/api/v1/runs/{run.pk}/artifacts/{one.name}",
    }


def run_panels(run: Run) -> dict[str, Any]:
    """The panels the run announced, and the event number up to which that holds."""
    found = panels.panels_of(run.source_id)
    return {"seq": found.seq, "panels": found.panels}
