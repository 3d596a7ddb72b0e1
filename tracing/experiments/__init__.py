"""Experiments: a registry of methods, each a spec and a generator of events. Importing this never loads torch."""

from tracing.experiments import activation_patching as activation_patching
from tracing.experiments import attention_patterns as attention_patterns
from tracing.experiments import attribution_patching as attribution_patching
from tracing.experiments import direct_logit_attribution as direct_logit_attribution
from tracing.experiments import edge_attribution as edge_attribution
from tracing.experiments import head_detectors as head_detectors
from tracing.experiments import logit_lens as logit_lens
from tracing.experiments import path_patching as path_patching
from tracing.experiments import steering as steering
from tracing.experiments import token_attribution as token_attribution
from tracing.experiments.calling import run_method
from tracing.experiments.registry import get, methods

__all__ = ["get", "methods", "run_method"]
