"""Family adapters: where the standard sites of each architecture are, and proof that they are there.

Importing this never loads torch (the web process reads facts and sites from here); only `check` does, when called.
"""

from typing import TYPE_CHECKING, Any

from tracing.families.adapter import Adapter, HeadSlice
from tracing.families.facts import ModelFacts, model_facts, sites_of_family
from tracing.families.registry import adapter_of, families, register

if TYPE_CHECKING:
    from tracing.families.certificate import CheckReport
    from tracing.models import LanguageModel

__all__ = [
    "Adapter",
    "HeadSlice",
    "ModelFacts",
    "adapter_for",
    "adapter_of",
    "check",
    "families",
    "model_facts",
    "register",
    "sites_of_family",
]


def adapter_for(model: Any) -> Adapter:
    """The adapter of a transformers model (or of our wrapper), by its `config.model_type`.

    Raises `ModelError` where the model has no config or belongs to no known family.
    """
    return adapter_of(str(getattr(getattr(model, "config", None), "model_type", type(model).__name__)))


def check(model: "LanguageModel", *, strict: bool = True) -> "CheckReport":
    """Verify numerically that the adapter describes this model; see `tracing.families.certificate`.

    Raises `AdapterError` where `strict` and an identity does not hold.
    """
    from tracing.families.certificate import certify  # loads torch, which this package must not do on import

    return certify(model, strict=strict)
