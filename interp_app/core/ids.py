"""Public ids: UUIDv7, so that they sort by creation time and index well."""

import uuid

import uuid_utils


def new_id() -> uuid.UUID:
    """A fresh UUIDv7 as the standard library's type."""
    return uuid.UUID(bytes=uuid_utils.uuid7().bytes)
