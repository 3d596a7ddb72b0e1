"""Experiments as JSON files: read with a sentence for every fault, and written from a method's defaults.

A file has the body of POST /api/v1/runs/; its `prompts` are a slug, an id, or `{"id" or "slug", "version"}`.
"""

import json
from pathlib import Path
from typing import Any, Final

from interp_app.catalog import selectors as catalog
from interp_app.catalog.models import ModelSource, PromptSet, PromptSetVersion
from interp_app.core.errors import ServiceError
from interp_app.core.models import User
from tracing import experiments
from tracing.errors import SpecError
from tracing.experiments.registry import GROUPS

FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "method": (str,),
    "params": (dict,),
    "model": (str,),
    "prompts": (str, dict),
    "title": (str,),
    "visibility": (str,),
    "tags": (list,),
    "force": (bool,),
}
WORDS: Final = {str: "a text", dict: "an object", list: "a list", bool: "true or false"}
REQUIRED: Final = ("method", "model", "prompts")


def read(file: Path) -> dict[str, Any]:
    """The file's fields. Raises `ServiceError` `spec_file_invalid` that names the field, or the line, at fault."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _faulty(f"{file.name} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise _faulty(f"{file.name} cannot be read: it is not JSON ({error}).") from error
    if not isinstance(body, dict):
        raise _faulty(f"{file.name} does not hold a JSON object.")
    for name, value in body.items():
        if name not in FIELDS:
            raise _faulty(f"{file.name}: there is no field {name!r}.", f"Fields: {', '.join(FIELDS)}.")
        if not isinstance(value, FIELDS[name]):
            wanted = " or ".join(WORDS[kind] for kind in FIELDS[name])
            raise _faulty(f"{file.name}: {name} must be {wanted}, not {json.dumps(value, ensure_ascii=False)[:60]}.")
    missing = [name for name in REQUIRED if name not in body]
    if missing:
        raise _faulty(
            f"{file.name}: {missing[0]} is missing.", "`run_experiment --example METHOD` prints a file that has it."
        )
    return body


def choose(body: dict[str, Any], owner: User) -> tuple[ModelSource, PromptSetVersion]:
    """The model and the prompts a file names. Raises `ServiceError` that names the field at fault."""
    try:
        model = catalog.model_by_slug(body["model"])
    except ServiceError as error:
        known = ", ".join(one.slug for one in catalog.allowed_models()) or "none is registered"
        raise _faulty(f"model: {error.message}", f"Models: {known}.") from error
    wanted = body["prompts"] if isinstance(body["prompts"], dict) else {"slug": body["prompts"]}
    named = wanted.get("slug") or wanted.get("id")
    id_ = PromptSet.objects.filter(slug=named).values_list("pk", flat=True).first() or named
    try:
        return model, catalog.version_for(owner, str(id_), wanted.get("version"))
    except ServiceError as error:
        slugs = PromptSet.objects.visible_to(owner).filter(slug__isnull=False).values_list("slug", flat=True)
        known = ", ".join(sorted(slugs)) or "none has a slug; give an id"
        raise _faulty(f"prompts: {error.message}", f"Prompt sets by slug: {known}.") from error


def sentence(error: ServiceError) -> str:
    """What was wrong, with the name of the first field at fault in front."""
    name = next(iter(error.fields), "")
    said = str(error)
    return said if not name or name.removeprefix("params.") in said else f"{name}: {said}"


def example(name: str) -> str:
    """A file for a method with all its parameters at their defaults. Raises `ServiceError` for an unknown method."""
    try:
        method = experiments.get(name)
    except SpecError as error:
        raise _faulty(error.message, error.remedy) from error
    body = {
        "method": method.name,
        "params": method.spec().model_dump(mode="json"),
        "model": "demo",
        "prompts": "ioi",
        "title": f"{method.title} on the demo model",
    }
    return json.dumps(body, indent=2, ensure_ascii=False)


def listing() -> str:
    """The methods by group: name, title and what each is for."""
    lines: list[str] = []
    width = max(len(method.name) for method in experiments.methods())
    for key, title in GROUPS.items():
        found = [method for method in experiments.methods() if method.group == key]
        if found:
            lines += ["", title] if lines else [title]
            lines += [f"  {method.name:<{width}}  {method.title}: {method.summary}" for method in found]
    return "\n".join(lines)


def _faulty(message: str, remedy: str = "Correct the file and try again.") -> ServiceError:
    return ServiceError("spec_file_invalid", message, remedy)
