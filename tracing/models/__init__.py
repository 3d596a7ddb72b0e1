"""Models that experiments run on. Importing this loads torch."""

from tracing.models.language import LanguageModel

__all__ = ["LanguageModel"]
