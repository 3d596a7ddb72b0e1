"""What a run was computed with, frozen on the run when it is claimed, and what it took, added when it ends."""

import platform
import resource
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from django.conf import settings

from interp_app.runs.models import Run, Worker
from tracing import ENGINE, __version__

log = structlog.get_logger(__name__)

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "django")


def at_claim(run: Run, worker: Worker, *, device: str, threads: int) -> dict[str, Any]:
    """Everything that is known before the model is loaded."""
    return {
        "attempt": run.attempt,
        "tracing": __version__,
        "engine": ENGINE,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": _versions(),
        "worker": worker.name,
        "device": device,
        "device_name": worker.device,
        "dtype": run.spec.get("dtype", ""),
        "seed": run.spec.get("seed"),
        "threads": threads,
        "model": {
            "slug": run.model.slug,
            "revision": run.model.revision,
            "weights_sha256": run.model.weights_sha256,
            "tokenizer_sha256": run.model.tokenizer_sha256,
            "config_sha256": run.model.config_sha256,
        },
        "prompts_sha256": run.prompts.sha256,
    }


def at_end(*, wall_seconds: float, compute_seconds: float, peak_device_bytes: int | None) -> dict[str, Any]:
    """What the attempt took. Peak memory is the device's, and the process's resident set on the host."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "wall_seconds": round(wall_seconds, 3),
        "compute_seconds": round(compute_seconds, 3),
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_device_bytes": peak_device_bytes,
    }


def device_of(run: Run) -> str:
    """What computed a run's values, for the offer to reuse them; empty where no worker claimed it."""
    return str(run.provenance.get("device_name") or "")


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            log.warning("package_without_version", package=package)
    return found


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The source's git commit, with `+` where files were changed; None outside of a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    answer = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        ["git", "-C", str(settings.BASE_DIR), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=5,
        check=True,
    )
    return answer.stdout.strip()
