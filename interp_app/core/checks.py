"""System checks of the settings: each names the variable, what is wrong with it, and what to write instead."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register

MIN_LEASE_BEATS = 2.0


@register(Tags.compatibility)
def check_settings(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Everything that would otherwise show up as a strange error while running."""
    del app_configs
    messages = [*_leases(), *_model_roots(), *_device(), *_folders()]
    if settings.MODE == "services":
        messages += [*_database(), *_redis(), *_public_url(), *_secret()]
    return messages


def _leases() -> Iterable[CheckMessage]:
    if settings.RUN_HEARTBEAT_SECONDS <= 0 or settings.RUN_LEASE_SECONDS <= 0:
        yield Error(
            "PATCHBAY_RUN_HEARTBEAT_SECONDS and PATCHBAY_RUN_LEASE_SECONDS must be above zero.", id="patchbay.E001"
        )
    elif settings.RUN_LEASE_SECONDS < MIN_LEASE_BEATS * settings.RUN_HEARTBEAT_SECONDS:
        yield Error(
            f"A lease of {settings.RUN_LEASE_SECONDS:g} s is shorter than two heartbeats of "
            f"{settings.RUN_HEARTBEAT_SECONDS:g} s, so healthy workers would lose their runs.",
            hint="Raise PATCHBAY_RUN_LEASE_SECONDS or lower PATCHBAY_RUN_HEARTBEAT_SECONDS.",
            id="patchbay.E002",
        )


def _model_roots() -> Iterable[CheckMessage]:
    for alias, path in settings.MODEL_ROOTS.items():
        if not Path(path).is_dir():
            yield checks.Warning(
                f"The model root {alias!r} is not a folder on this machine.",
                hint=f"Correct {alias}=… in PATCHBAY_MODEL_ROOTS, or make the folder.",
                id="patchbay.W001",
            )


def _device() -> Iterable[CheckMessage]:
    kind = settings.DEVICE.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda", "mps"):
        yield Error(
            f"PATCHBAY_DEVICE is {settings.DEVICE!r}.", hint="Use auto, cpu, cuda, cuda:1 or mps.", id="patchbay.E003"
        )


def _folders() -> Iterable[CheckMessage]:
    for name in ("DATA_DIR", "ARTIFACTS_DIR"):
        path = Path(getattr(settings, name))
        nearest = next((parent for parent in (path, *path.parents) if parent.exists()), path)
        if not nearest.is_dir():
            yield Error(
                f"PATCHBAY_{name} cannot be a folder: {nearest.name!r} on its way is a file.",
                hint=f"Set PATCHBAY_{name} to a folder this account may write.",
                id="patchbay.E004",
            )


def _database() -> Iterable[CheckMessage]:
    if "postgresql" not in settings.DATABASES["default"]["ENGINE"]:
        yield Error(
            "PATCHBAY_DATABASE_URL does not name a Postgres database; services mode claims runs with its row locks.",
            hint="Write postgres://user:password@host:5432/name, or use PATCHBAY_MODE=embedded.",
            id="patchbay.E005",
        )


def _redis() -> Iterable[CheckMessage]:
    if urlsplit(settings.BROKER_URL).scheme not in ("redis", "rediss", "unix"):
        yield Error(
            "PATCHBAY_REDIS_URL is not the address of a Redis server.",
            hint="Write redis://host:6379/0 (rediss:// for TLS).",
            id="patchbay.E006",
        )


def _public_url() -> Iterable[CheckMessage]:
    url = urlsplit(settings.PUBLIC_URL)
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/"):
        yield Error(
            f"PATCHBAY_PUBLIC_URL is {settings.PUBLIC_URL!r}, which is not the address people type.",
            hint="Write scheme and host only, e.g. https://patchbay.example.org.",
            id="patchbay.E007",
        )
    elif not any(_host_allowed(url.hostname, pattern) for pattern in settings.ALLOWED_HOSTS):
        yield Error(
            f"The host of PATCHBAY_PUBLIC_URL, {url.hostname}, is not in PATCHBAY_ALLOWED_HOSTS, so every page "
            "would answer 400.",
            hint=f"Add {url.hostname} to PATCHBAY_ALLOWED_HOSTS.",
            id="patchbay.E008",
        )


def _secret() -> Iterable[CheckMessage]:
    if len(settings.SECRET_KEY) < 50:
        yield Error(
            "PATCHBAY_SECRET_KEY is shorter than 50 characters.",
            hint='Make one: python -c "import secrets; print(secrets.token_urlsafe(60))"',
            id="patchbay.E009",
        )


def _host_allowed(host: str, pattern: str) -> bool:
    return pattern == "*" or host == pattern or (pattern.startswith(".") and f".{host}".endswith(pattern))
