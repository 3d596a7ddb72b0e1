"""Small pieces of JSON that every app shows alike."""

from datetime import datetime
from typing import Any

from interp_app.core.models import User


def person(user: User) -> dict[str, Any]:
    """An account as others see it: no e-mail address, no internal number."""
    return {"id": str(user.public_id), "name": user.get_full_name() or user.username}


def moment(at: datetime | None) -> str | None:
    """A time as ISO 8601 in UTC, ending in Z."""
    return at.isoformat().replace("+00:00", "Z") if at else None
