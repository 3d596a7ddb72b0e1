"""From what a user asked to what will run: the spec checked and normalised, its hash, and what it costs.

Submitting and previewing share this, so a preview never promises what a submission refuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from pydantic import ValidationError

from interp_app.catalog import selectors as catalog
from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.canonical import sha256_of
from interp_app.core.errors import ServiceError
from interp_app.runs.wording import said_of
from tracing import ENGINE, experiments
from tracing.errors import PromptError, TracingError
from tracing.experiments.registry import Cost, Method, MethodSpec, PromptFacts


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request: `normalised` is the spec as stored, `spec_hash` what identical requests share."""

    method: Method
    spec: MethodSpec
    normalised: dict[str, Any]
    spec_hash: str
    cost: Cost
    prompts: PromptFacts


def plan(*, model: ModelSource, prompts: PromptSetVersion, method: str, params: Mapping[str, Any]) -> Plan:
    """Check a request against its method, model and prompts. Raises `ServiceError` with the faulty fields."""
    found = find_method(method)
    spec = parse_spec(found, params)
    if not model.allowed:
        message = f"The model {model.title} is no longer allowed."
        raise ServiceError("model_unavailable", message, "Choose another model.", fields={"model": [message]})
    facts = catalog.facts_of(model)
    try:
        spec.check_model(facts)
    except TracingError as error:
        raise ServiceError.from_tracing(error, field=_field_of(error, found)) from error
    sizes = catalog.usable_prompts(model, prompts)
    try:
        spec.check_pairs(catalog.pairs_of(prompts))
        cost = found.cost(spec, facts, sizes)
        cost.require_below(settings.MAX_RUN_BYTES, sizes)
    except TracingError as error:
        field = "prompts" if isinstance(error, PromptError) else _field_of(error, found)
        raise ServiceError.from_tracing(error, field=field) from error
    normalised = spec.model_dump(mode="json")
    return Plan(found, spec, normalised, spec_hash(found.name, normalised, model, prompts), cost, sizes)


def _field_of(error: TracingError, method: Method) -> str:
    """The parameter that a complaint names, where it names one."""
    name = error.where.get("parameter")
    return f"params.{name}" if name in method.spec.model_fields else "params"


def find_method(name: str) -> Method:
    """The registered method of that name. Raises `ServiceError`."""
    try:
        return experiments.get(name)
    except TracingError as error:
        raise ServiceError.from_tracing(error, field="method") from error


def parse_spec(method: Method, params: Mapping[str, Any]) -> MethodSpec:
    """The method's spec from a user's parameters, defaults filled in. Raises `ServiceError` with one entry a field."""
    try:
        return method.spec.model_validate(dict(params))
    except ValidationError as error:
        found = said_of(error)
        raise ServiceError(
            "spec_invalid",
            f"The parameters do not fit {method.title}: "
            + " ".join(f"{name}: {text}" if name else text for name, text in found.items()),
            "Correct the named parameters.",
            fields={f"params.{name}" if name else "params": [text] for name, text in found.items()},
        ) from error


def spec_hash(method: str, normalised: Mapping[str, Any], model: ModelSource, prompts: PromptSetVersion) -> str:
    """What two runs share exactly when they ask for the same numbers.

    The class of the device (cpu, cuda) is not part of it, although its kernels differ in the last digits: which worker
    will claim a run is not known when the hash is made. A run answered from an earlier one therefore shows that run's
    provenance, and the offer to reuse says which device computed it (`provenance.device_of`); `force` computes again.
    """
    return sha256_of(
        {
            "method": method,
            "spec": normalised,
            "weights": model.weights_sha256,
            "tokenizer": model.tokenizer_sha256,
            "config": model.config_sha256,
            "prompts": prompts.sha256,
            "engine": ENGINE,
        }
    )
