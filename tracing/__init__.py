"""Tracing: read, patch and attribute the inside of PyTorch models.

Importing this package is cheap and never loads torch: specs, prompts, events and errors are plain Python, so a web
process can validate an experiment. Whatever touches a model (`tracing.models`, `tracing.patching`) loads torch itself.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tracing.models import LanguageModel, Model, VisionModel

__all__ = ["ENGINE", "LanguageModel", "Model", "VisionModel", "__version__"]

__version__: Final = "0.1.0"

ENGINE: Final = 2
"""Number of the numerical engine: raised whenever the same spec could give other numbers, so that cached results of
an older engine are never passed off as those of this one."""


def __getattr__(name: str) -> Any:
    """The model classes, loaded with torch when they are first asked for."""
    if name not in ("LanguageModel", "Model", "VisionModel"):
        raise AttributeError(f"module 'tracing' has no attribute {name!r}")
    import tracing.models

    return getattr(tracing.models, name)
