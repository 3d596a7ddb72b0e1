"""A registered method called from Python: the same spec, checks and numbers as a run of the dashboard, no database."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tracing import results
from tracing.errors import SpecError
from tracing.events import Event, Result, Tile
from tracing.experiments.registry import Method, MethodSpec, get
from tracing.prompts import PromptPair
from tracing.results import TypedResult

if TYPE_CHECKING:
    from tracing.models import LanguageModel


class LocalContext:
    """What a method sees where nobody can stop it and nothing was computed before."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.generic]] = {}

    def should_stop(self) -> bool:
        return False

    def stored_tiles(self, panel: int) -> Sequence[Tile]:
        return ()

    def save_array(self, name: str, array: NDArray[np.generic]) -> None:
        self.arrays[name] = array


def parse_spec(method: Method, params: Mapping[str, Any]) -> MethodSpec:
    """The method's spec with defaults filled in. Raises `SpecError` that names each field at fault (`where`)."""
    try:
        return method.spec.model_validate(dict(params))
    except ValidationError as error:
        raise spec_error(method, error) from error


def spec_error(method: Method, error: ValidationError) -> SpecError:
    """What pydantic found wrong with the parameters of a method, in a sentence and by field."""
    fields: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        fields.setdefault(name, []).append(problem["msg"].removeprefix("Value error, "))
    name, texts = next(iter(fields.items()))
    known = ", ".join(method.spec.model_fields)
    return SpecError(
        f"The parameters do not fit {method.title}: {name + ': ' if name else ''}{texts[0].rstrip('.')}.",
        remedy=f"Its parameters: {known}.",
        where={"fields": fields},
    )


def run_method(
    name: str,
    params: Mapping[str, Any],
    model: "LanguageModel",
    pairs: Sequence[PromptPair],
    *,
    on_event: Callable[[Event], object] | None = None,
) -> dict[str, TypedResult]:
    """Run a registered method on a loaded model; its typed results by name.

    `params` are the fields of its spec, as in the API; what is left out has its default. The precision is the model's:
    a `dtype` among the parameters must be that one. `on_event` sees every event as it happens (panels, tiles,
    progress, logs). Raises `SpecError` for an unknown method, parameters or precision, `SiteError` where the model
    lacks what is asked for, `PromptError` for pairs that cannot be used, and whatever the method itself raises.
    """
    import torch

    method = get(name)
    dtype = str(model.dtype).removeprefix("torch.")
    if "dtype" in method.spec.model_fields:
        params = {"dtype": dtype, **params}
    spec = parse_spec(method, params)
    asked = getattr(spec, "dtype", dtype)
    if asked != dtype:
        raise SpecError(
            f"The parameters say dtype {asked}, but the model was loaded as {dtype}.",
            remedy=f"Load it with dtype={asked!r}, or leave dtype out.",
            where={"dtype": asked, "model": dtype},
        )
    spec.check_model(model.facts)
    spec.check_pairs(pairs)
    torch.manual_seed(spec.seed)
    found: dict[str, TypedResult] = {}
    for event in method.run(spec, model, list(pairs), LocalContext()):
        if isinstance(event, Result):
            found[event.name] = results.from_parts(event.data, event.arrays)
        if on_event is not None:
            on_event(event)
    return found
