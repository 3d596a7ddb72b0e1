"""What each head of each layer looks at, on one prompt: patterns, or patterns weighted by what they carry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from tracing.events import Quantity
from tracing.results.parts import (
    Array,
    TypedResult,
    named,
    number,
    quantities_from,
    quantities_json,
    require_planes,
    table,
    unnamed,
)


@dataclass(frozen=True, slots=True, eq=False)
class Attention(TypedResult):
    """`planes[key]` is `[layer, head, query, key]` over `tokens`; NaN marks what a mask forbids or was not kept."""

    FORMAT: ClassVar[str] = "attention/1"

    name: str
    title: str
    tokens: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    planes: Mapping[str, Array]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where a plane is not square over the tokens, or planes disagree on layers and heads."""
        first = next(iter(self.planes.values()), np.zeros((0, 0)))
        layers_heads = first.shape[:2] if first.ndim == 4 else (0, 0)
        size = len(self.tokens)
        require_planes("planes", self.planes, self.quantities, (*layers_heads, size, size), "layer, head, query, key")

    def parts(self) -> dict[str, Any]:
        """Tokens and quantities."""
        return {"tokens": list(self.tokens), "quantities": quantities_json(self.quantities)}

    def arrays(self) -> dict[str, Array]:
        """`planes.<key>`."""
        return named("planes", self.planes)

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """Attention from its parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            tokens=tuple(data["tokens"]),
            quantities=quantities_from(data["quantities"]),
            planes=unnamed("planes", arrays),
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a number that exists: layer, head, query and key with their tokens, then the quantities."""
        keys = [quantity.key for quantity in self.quantities]
        stacked = np.stack([self.planes[key] for key in keys])
        places = np.argwhere(~np.isnan(stacked).all(axis=0))
        return table(
            ["layer", "head", "query", "query_token", "key", "key_token", *keys],
            (
                [layer, head, q, self.tokens[q], k, self.tokens[k], *map(number, stacked[:, layer, head, q, k])]
                for layer, head, q, k in places.tolist()
            ),
        )
