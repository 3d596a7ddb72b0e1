"""Family adapters: where the standard sites of each architecture are, and proof that they are there.

Importing this never loads torch (the web process reads facts and sites from here); only `check` does, when called.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts, model_facts, sites_of_family
from tracing.families.registry import adapter_for, adapter_of, config_of, families, register
from tracing.families.sites import PLAIN_SITES, HeadSlice, SitePath, fused, separate
from tracing.families.weights import Weights

if TYPE_CHECKING:
    from tracing.families.certificate import CheckReport

__all__ = [
    "PLAIN_SITES",
    "Adapter",
    "HeadSlice",
    "ModelFacts",
    "SitePath",
    "Weights",
    "adapter_for",
    "adapter_of",
    "check",
    "config_of",
    "families",
    "fused",
    "model_facts",
    "register",
    "separate",
    "sites_of_family",
]


def check(model: Any, *, strict: bool = True, inputs: Mapping[str, Any] | None = None) -> "CheckReport":
    """Verify numerically that the adapter describes this model; see `tracing.families.certificate`.

    `model` is one of our wrappers or a bare module; `inputs` are keyword arguments of its forward.
    Raises `AdapterError` where `strict` and an identity does not hold.
    """
    from tracing.families.certificate import certify  # loads torch, which this package must not do on import

    return certify(model, strict=strict, inputs=inputs)
