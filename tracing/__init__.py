"""Tracing: read, patch and attribute the inside of PyTorch models.

Importing this package is cheap and never loads torch: specs, prompts, events and errors are plain Python, so a web
process can validate an experiment. Whatever touches a model (`tracing.models`, `tracing.patching`) loads torch itself.
"""

from typing import Final

__version__: Final = "0.1.0"

ENGINE: Final = 1
"""Number of the numerical engine: raised whenever the same spec could give other numbers, so that cached results of
an older engine are never passed off as those of this one."""
