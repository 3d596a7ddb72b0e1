"""The one registry of methods: each is one file in this package, a pydantic spec and a generator of events.

Forms, API schemas, the command line and the docs are all made from what is registered here. Nothing in this module,
and nothing at module level in a method's file, imports torch: the web process validates specs with it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tracing.errors import SpecError
from tracing.experiments.events import Event, Tile
from tracing.families.facts import ModelFacts as ModelFacts
from tracing.patching.footprint import REMEDY, too_large
from tracing.prompts import PromptPair

if TYPE_CHECKING:
    from tracing.models import LanguageModel


class MethodSpec(BaseModel):
    """Base of every method's parameters. Field titles, descriptions and `json_schema_extra` drive the form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, le=2**53 - 1)  # what a browser's numbers hold exactly

    def check_model(self, facts: ModelFacts) -> None:
        """Raise `SpecError` or `SiteError` where this spec cannot run on that model. Called before queueing."""

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raise `PromptError` where these pairs lack something this spec needs. Called before queueing."""


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """Sizes of a tokenised prompt set: one length a pair, in tokens, and where its two prompts first differ."""

    lengths: tuple[int, ...]
    first_differences: tuple[int, ...] = ()
    """One a pair, or empty where unknown: then costs assume that the prompts differ from their first token on."""

    @property
    def pairs(self) -> int:
        return len(self.lengths)

    @property
    def max_length(self) -> int:
        return max(self.lengths, default=0)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run would take: `cells` to fill, multiply-adds ×2 (`flops`), and the same for one forward a cell.

    `cells` counts those of all the panels that the run opens, 0 when it opens none. `bytes` is the memory it holds
    from its first cell to its last, beside the model; 0 where that is next to nothing. `launches` is how many times
    one transformer block is executed (a backward through it is one more): what small models spend their time on.
    """

    cells: int
    flops: float
    naive_flops: float
    bytes: int = 0
    launches: int = 0

    def require_below(self, limit: int, prompts: PromptFacts) -> None:
        """Raises `SpecError` that names the sizes where the run would hold more than `limit` bytes."""
        if self.bytes > limit:
            raise SpecError(
                too_large(self.bytes, limit, prompts.pairs, prompts.max_length, "this server allows"),
                remedy=REMEDY,
                where={"bytes": self.bytes, "limit": limit, "pairs": prompts.pairs},
            )


class RunContext(Protocol):
    """What the worker hands to a running method."""

    def should_stop(self) -> bool:
        """True once the user cancelled or the claim was lost: stop between two batches."""
        ...

    def stored_tiles(self, panel: int) -> Sequence[Tile]:
        """Tiles an earlier attempt of this run stored: they need not be computed again."""
        ...

    def save_array(self, name: str, array: NDArray[np.generic]) -> None:
        """Keep an extra array with the run's artifacts."""
        ...


Group = Literal["patching", "attribution", "edges", "lenses", "steering"]
GROUPS: dict[Group, str] = {
    "patching": "Patching",
    "attribution": "Attribution",
    "edges": "Edges and circuits",
    "lenses": "Lenses and attention",
    "steering": "Steering",
}
"""The groups that methods are listed in, in that order, with their titles."""

Runner = Callable[[Any, "LanguageModel", Sequence[PromptPair], RunContext], Iterator[Event]]


@dataclass(frozen=True, slots=True)
class Method:
    """A registered method: its name in URLs and specs, its texts, its spec and its generator.

    `call(spec)` is the same as Python lines: given `model` (a `LanguageModel`) and `pairs` (a list of `PromptPair`)
    they bind `results`, a dict of the typed results by name, with the numbers that `run` yields. Imports are theirs.
    """

    name: str
    title: str
    summary: str
    help: str
    group: Group
    spec: type[MethodSpec]
    run: Runner
    cost: Callable[[Any, ModelFacts, PromptFacts], Cost]
    call: Callable[[Any], str]


_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method. Raises `ValueError` for a name that is taken, or a group that is not one of `GROUPS`."""
    if method.group not in get_args(Group):
        raise ValueError(f"The group {method.group!r} of {method.name!r} is not one of {', '.join(GROUPS)}.")
    if method.name in _METHODS:
        raise ValueError(f"A method named {method.name!r} is already registered.")
    _METHODS[method.name] = method
    return method


def get(name: str) -> Method:
    """The method of that name; `SpecError` lists the known names otherwise."""
    try:
        return _METHODS[name]
    except KeyError:
        known = ", ".join(sorted(_METHODS))
        raise SpecError(f"There is no method named {name!r}.", remedy=f"Known methods: {known}.") from None


def methods() -> tuple[Method, ...]:
    """All registered methods, by name."""
    return tuple(_METHODS[name] for name in sorted(_METHODS))
