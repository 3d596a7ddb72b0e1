"""The embedded mode's secret key: random, made once, readable by its owner alone."""

import os
import secrets
from pathlib import Path


def local_secret_key(path: Path) -> str:
    """Read the key file, making it first where it does not exist (0600, never overwritten by a second process)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_urlsafe(50)
        file.write(key)
    return key
