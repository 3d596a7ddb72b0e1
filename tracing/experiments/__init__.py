"""Experiments: a registry of methods, each a spec and a generator of events. Importing this never loads torch."""

from tracing.experiments import activation_patching as activation_patching
from tracing.experiments.calling import run_method
from tracing.experiments.registry import get, methods

__all__ = ["get", "methods", "run_method"]
