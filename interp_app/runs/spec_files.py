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
        body = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
    except OSError as error:
        raise _faulty(f"{file.name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise _faulty(f"{file.name} cannot be read: it is not JSON ({error}).") from error
    if not isinstance(body, dict):
        raise _faulty(f"{file.name} does not hold a JSON object.")
    for name, value in body.items():
        if name not in FIELDS:
            raise _faulty(f"{file.name}: there is no field {name!r}.", f"Fields: {', '.join(FIELDS)}.")
        if not isinstance(value, FIELDS[name]):
            wanted = " or ".join(WORDS[kind] for kind in FIELDS[name])
            raise _faulty(f"{file.name}: {name} must be {wanted}, not {json.dumps(value)[:60]}.")
        if not _is_storable(value):
            raise _faulty(f"{file.name}: {name} has a character that cannot be stored (a zero, or half of a pair).")
    missing = [name for name in REQUIRED if name not in body]
    if missing:
        raise _faulty(
            f"{file.name}: {missing[0]} is missing.", "`run_experiment --example METHOD` prints a file that has it."
        )
    if any(not isinstance(tag, str) for tag in body.get("tags", [])):
        raise _faulty(f"{file.name}: tags must be texts.")
    _check_prompts(file, body["prompts"])
    return body


def _check_prompts(file: Path, named: str | dict[str, Any]) -> None:
    if isinstance(named, str):
        return
    words = {"slug": (str, "a text"), "id": (str, "a text"), "version": (int, "a whole number")}
    for name, value in named.items():
        if name not in words:
            raise _faulty(f"{file.name}: prompts has no field {name!r}.", f"Fields: {', '.join(words)}.")
        kind, word = words[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _faulty(f"{file.name}: prompts.{name} must be {word}, not {json.dumps(value)[:60]}.")
    if "slug" not in named and "id" not in named:
        raise _faulty(f"{file.name}: prompts names no slug and no id.")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"{twice!r} is there twice")
    return found


def _is_storable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_storable(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return all(_is_storable(one) for one in value)
    return not isinstance(value, str) or not any(one == "\0" or "\ud800" <= one <= "\udfff" for one in value)


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
