"""Model folders on disk: found through allowed roots only, described and hashed without loading any weights.

A location is `<alias>/<folder>` with the alias from `settings.MODEL_ROOTS`. Nothing a user types becomes a path:
locations are written by administrators, and even theirs may not leave the root or pass through a symbolic link.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from interp_app.core.errors import ServiceError
from tracing.errors import TracingError
from tracing.families.facts import model_facts, sites_of_family
from tracing.tokens import Tokens, cached_tokens

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_CONFIG_BYTES = 1 << 20
MACHINE_PATH = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|file:")
"""How a string begins that names a place on somebody's machine."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What the catalog keeps of a folder: its config, the library's facts about it, and hashes of what it holds.

    `config` is the one to show (`public_config`); `config_sha256` is of the whole file.
    """

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    weights_sha256: dict[str, str]
    tokenizer_sha256: str
    config_sha256: str


def resolve_location(location: str) -> Path:
    """The folder of `<alias>/<folder>[/<folder>…]`.

    Raises `ServiceError` `model_location_refused` where the location is malformed, names an unknown root, leaves
    it or passes through a symbolic link, and `model_unavailable` where no such folder exists.
    """
    alias, _, rest = location.partition("/")
    parts = rest.split("/")
    root = settings.MODEL_ROOTS.get(alias)
    if root is None:
        known = ", ".join(sorted(settings.MODEL_ROOTS))
        raise _refused(f"There is no model root {alias!r}.", f"Known roots: {known} (PATCHBAY_MODEL_ROOTS).")
    if not all(PART.fullmatch(part) for part in parts):
        raise _refused(
            f"{location!r} is not a model location.",
            "Write <root>/<folder> with letters, digits, dot, dash and underscore.",
        )
    path = Path(root)
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise _refused(f"{location!r} passes through a symbolic link.", "Put the model's folder itself there.")
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise _refused(f"{location!r} leaves its model root.", "Name a folder inside the root.")
    if not path.is_dir():
        raise ServiceError(
            "model_unavailable",
            f"There is no model folder {location!r} on this machine.",
            f"Put the model there, or set PATCHBAY_MODEL_ROOTS so that {alias!r} points to where it is.",
        )
    return path


def read_model_folder(location: str) -> ModelFolder:
    """Config, facts and hashes of the model at `location`. Raises `ServiceError` `model_unavailable` with a reason."""
    path = resolve_location(location)
    weights = weight_files(path)
    tokenizer = plain_file(path, "tokenizer.json")
    config, config_sha256 = _read_config(path)
    try:
        facts = asdict(model_facts(config))
    except TracingError as error:
        raise ServiceError.from_tracing(error) from error
    return ModelFolder(
        path=path,
        config=public_config(config),
        facts=facts,
        weights_sha256={file.name: sha256_of_file(file) for file in weights},
        tokenizer_sha256=sha256_of_file(tokenizer),
        config_sha256=config_sha256,
    )


def public_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what tells of the machine it was saved on: private keys (`_name_or_path`) and paths."""
    shown = {}
    for key, value in config.items():
        if key.startswith("_") or key == "name_or_path" or (isinstance(value, str) and MACHINE_PATH.match(value)):
            continue
        shown[key] = public_config(value) if isinstance(value, dict) else value
    return shown


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, by name. Raises `ServiceError` where there is none, or only pickled ones."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        message = (
            f"The model folder {path.name!r} has pickled weights only ({pickled[0]}); unpickling runs code, so they "
            "are never loaded."
            if pickled
            else f"The model folder {path.name!r} has no safetensors weights."
        )
        remedy = "Save the model with model.save_pretrained(folder, safe_serialization=True) and copy it there."
        raise ServiceError("model_unavailable", message, remedy)
    return [plain_file(path, file.name) for file in files]


def is_readable(location: str) -> bool:
    """Whether this machine has the model: its folder, its config and safetensors weights."""
    try:
        path = resolve_location(location)
        return bool(weight_files(path)) and (path / "config.json").is_file()
    except (ServiceError, OSError):
        return False


def sites_at(family: str) -> tuple[str, ...]:
    """The standard sites of a family's blocks; empty for a family this version of the library does not know."""
    try:
        return sites_of_family(family)
    except TracingError:
        return ()


def plain_file(folder: Path, name: str) -> Path:
    """A file of a model folder. Raises `ServiceError` where it is missing or a symbolic link."""
    path = folder / name
    if path.is_symlink():
        raise _refused(f"{name} of {folder.name!r} is a symbolic link.", "Put the file itself there.")
    if not path.is_file():
        raise ServiceError(
            "model_unavailable",
            f"The model folder {folder.name!r} has no {name}.",
            "Save model and tokenizer there with save_pretrained(folder).",
        )
    return path


def tokens_at(location: str) -> Tokens:
    """The tokenizer of a model folder, kept in memory until its file changes. Raises `ServiceError`."""
    path = resolve_location(location)
    file = plain_file(path, "tokenizer.json")
    try:
        return cached_tokens(str(path), file.stat().st_mtime_ns)
    except TracingError as error:
        raise ServiceError.from_tracing(error, field="model") from error


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """config.json, parsed, and the hash of the same bytes."""
    path = plain_file(folder, "config.json")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ServiceError("model_unavailable", f"The config.json of {folder.name!r} is larger than 1 MB.")
    content = path.read_bytes()
    try:
        config = json.loads(content)
    except ValueError as error:
        raise ServiceError(
            "model_unavailable", f"The config.json of {folder.name!r} is not JSON: {error}.", "Save the model again."
        ) from error
    if not isinstance(config, dict):
        raise ServiceError("model_unavailable", f"The config.json of {folder.name!r} is not a JSON object.")
    return config, hashlib.sha256(content).hexdigest()


def _refused(message: str, remedy: str) -> ServiceError:
    return ServiceError("model_location_refused", message, remedy, fields={"location": [message]})
