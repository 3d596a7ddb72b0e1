"""Artifacts: finished arrays as safetensors files, stored under their own SHA-256.

A file is written beside its final name, flushed to the disk and renamed, so a name never stands for half a file; a disk
that is full leaves nothing behind. The JSON part of a result travels in the file's metadata under one key, which keeps
the bytes, and so the hash, the same for the same result.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from django.conf import settings
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from interp_app.core.canonical import canonical_json, json_safe
from interp_app.runs.models import Artifact, Run, RunArtifact

MEDIA_TYPE: Final = "application/vnd.safetensors"
METADATA_KEY: Final = "patchbay"
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")


class StorageFull(Exception):
    """The disk under the artifacts has no room; nothing was stored."""


def encode(data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One safetensors file: `arrays`, and `data` as canonical JSON in its metadata."""
    little = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(save_safetensors(little, metadata={METADATA_KEY: canonical_json(json_safe(data))}))


def decode(blob: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """`encode` reversed."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    return metadata(header.get("__metadata__")), load_safetensors(blob)


def metadata(found: Mapping[str, str] | None) -> dict[str, Any]:
    """The JSON part from a file's metadata."""
    data: dict[str, Any] = json.loads((found or {}).get(METADATA_KEY, "{}"))
    return data


def store(blob: bytes, media_type: str = MEDIA_TYPE) -> Artifact:
    """Put `blob` on the disk under its hash and into the table. Raises `StorageFull`, `OSError`."""
    sha256 = hashlib.sha256(blob).hexdigest()
    path = path_of(sha256)
    if not path.is_file():
        _write(path, blob)
    artifact, _ = Artifact.objects.get_or_create(sha256=sha256, defaults={"size": len(blob), "media_type": media_type})
    return artifact


def attach(run: Run, artifact: Artifact, name: str) -> RunArtifact:
    """Give `artifact` the name `name` in `run`; a later attempt's artifact takes the name over."""
    row, _ = RunArtifact.objects.update_or_create(run=run, name=safe_name(name), defaults={"artifact": artifact})
    return row


def path_of(sha256: str) -> Path:
    """Where the file with this hash is. Raises `ValueError` for anything that is not a hash."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("not a SHA-256")
    return Path(settings.ARTIFACTS_DIR) / sha256[:2] / sha256[2:4] / sha256


def safe_name(name: str) -> str:
    """A name that is one path segment everywhere."""
    return _NAME.sub("-", name).strip(".-")[:120] or "result"


def _write(path: Path, blob: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"no room for {len(blob):,} bytes") from error
        raise
