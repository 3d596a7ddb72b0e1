"""The audit trail: one append-only row for each change a person makes."""

from typing import Any

from django.db.models import Model

from interp_app.core.models import AuditEntry


def record(*, actor: Any, action: str, target: Model, **detail: Any) -> AuditEntry:
    """Write that `actor` (a user, or None for the system) did `action` to `target`. `detail` must be JSON."""
    return AuditEntry.objects.create(
        actor=actor if getattr(actor, "pk", None) else None,
        action=action,
        object_type=target._meta.model_name or "",
        object_id=str(target.pk),
        detail=detail,
    )
