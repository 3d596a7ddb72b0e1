"""Models that traces and experiments run on. Importing this loads torch."""

from tracing.models.base import Model
from tracing.models.language import LanguageModel
from tracing.models.vision import VisionModel

__all__ = ["LanguageModel", "Model", "VisionModel"]
