"""What is wrong with a parameter, in one sentence of ours a field: pydantic's own speak of inputs and tuples."""

from typing import Any, Final

from pydantic import ValidationError

SAID: Final = {
    "extra_forbidden": "There is no such parameter.",
    "missing": "A value is missing.",
    "greater_than_equal": "It must be at least {ge}.",
    "greater_than": "It must be above {gt}.",
    "less_than_equal": "It must be at most {le}.",
    "less_than": "It must be below {lt}.",
    "literal_error": "{given} is none of {expected}.",
    "finite_number": "It must be a finite number.",
    "too_short": "Give at least {min_length}, not {actual_length}.",
    "too_long": "Give at most {max_length}, not {actual_length}.",
    "string_too_long": "It must have at most {max_length} characters.",
    "string_too_short": "It must have at least {min_length} characters.",
}
KINDS: Final = (
    ("int_", "{given} is no whole number."),
    ("float_", "{given} is no number."),
    ("bool_", "{given} is neither true nor false."),
    ("string_", "{given} is no text."),
    ("tuple_", "{given} is no list."),
)
LONGEST: Final = 40


def said_of(error: ValidationError) -> dict[str, str]:
    """One sentence a parameter, the first that is wrong with it; what concerns several is at ""."""
    fields: dict[str, str] = {}
    problems = error.errors(include_url=False)
    for problem in problems:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if name not in fields:
            same = [one for one in problems if one["loc"][:1] == problem["loc"][:1]]
            fields[name] = _too_few(same) or _sentence(dict(problem))
    return fields


def _too_few(problems: list[Any]) -> str:
    """A list of a fixed length that lacks values says so once, not once a value."""
    places = [one["loc"][-1] for one in problems if one["type"] == "missing" and len(one["loc"]) > 1]
    if not places or not all(isinstance(place, int) for place in places):
        return ""
    return f"Give {max(places) + 1} values, not {min(places)}."


def _sentence(problem: dict[str, Any]) -> str:
    kind = str(problem["type"])
    text = SAID.get(kind) or next((words for start, words in KINDS if kind.startswith(start)), "")
    if text:
        given = repr(problem["input"])
        given = given if len(given) <= LONGEST else f"{given[: LONGEST - 1]}…"
        return text.format(**{**problem.get("ctx", {}), "given": given})
    said = str(problem["msg"]).removeprefix("Value error, ")
    return said if said.endswith((".", "!", "?")) else f"{said}."
