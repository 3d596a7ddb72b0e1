"""Which edges a model has: the names of its sources and readers and which pairs of them are edges. Plain data.

A source adds to the residual stream: the token embedding `input`, a head `a3.h5`, an MLP `m3`. A reader is a copy of
the residual stream that one part reads: a head's query `a3.h5<q>`, its key and value, an MLP, the `logits`. Under
grouped-query attention a key-value head reads once for its whole group, and is called `a3.kv1<k>`. An edge is the path
from a source to a reader that passes no other part: real where the source comes first. The order is that of EAP-IG
(Hanna et al. 2024, arXiv 2403.17806): a layer's heads, then its MLP; a layer's queries, keys, values, then its MLP.

Nothing here imports torch: forms and views read layouts too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tracing.errors import SiteError
from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts

Kind = Literal["input", "head", "mlp", "q", "k", "v", "logits"]
LETTERS: Final = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Place:
    """What a row or a column is. `layer` is −1 for `input` and `n_layers` for `logits`; `head` −1 where none."""

    name: str
    kind: Kind
    layer: int
    head: int = -1
    """Of keys and values, the key-value head."""


@dataclass(frozen=True)
class Layout:
    """Sources (rows), readers (columns) and the real edges of one model."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False
    """Attention and MLP of a layer read the same residual, so no head reaches the MLP of its own layer."""
    source_places: tuple[Place, ...] = field(init=False, repr=False, compare=False)
    reader_places: tuple[Place, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_places", tuple(self._sources()))
        object.__setattr__(self, "reader_places", tuple(self._readers()))

    @classmethod
    def of(cls, facts: ModelFacts, adapter: Adapter) -> "Layout":
        """The layout of a model. Raises `SiteError` where its blocks have no edges of this kind, saying why."""
        refuse_without_edges(adapter)
        return cls(facts.n_layers, facts.n_heads, facts.n_kv_heads, adapter.residual == "parallel")

    def _sources(self) -> "list[Place]":
        found = [Place("input", "input", -1)]
        for layer in range(self.n_layers):
            found += [Place(f"a{layer}.h{head}", "head", layer, head) for head in range(self.n_heads)]
            found.append(Place(f"m{layer}", "mlp", layer))
        return found

    def _readers(self) -> "list[Place]":
        found: list[Place] = []
        for layer in range(self.n_layers):
            for letter in LETTERS:
                stem = "h" if letter == "q" or self.n_kv_heads == self.n_heads else "kv"
                count = self.heads_of(letter)
                found += [Place(f"a{layer}.{stem}{n}<{letter}>", letter, layer, n) for n in range(count)]
            found.append(Place(f"m{layer}", "mlp", layer))
        return [*found, Place("logits", "logits", self.n_layers)]

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(place.name for place in self.source_places)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(place.name for place in self.reader_places)

    @cached_property
    def real(self) -> NDArray[np.bool_]:
        """Which edges exist, `[source, reader]`."""
        return np.array([[self.reaches(s, r) for r in self.reader_places] for s in self.source_places])

    @property
    def n_edges(self) -> int:
        """How many edges exist."""
        return int(self.real.sum())

    def heads_of(self, letter: str) -> int:
        """How many readers a layer has of "q", "k" or "v"."""
        return self.n_heads if letter == "q" else self.n_kv_heads

    def reaches(self, source: Place, reader: Place) -> bool:
        """Whether what the source adds is in the residual stream that the reader reads."""
        if source.layer < reader.layer:
            return True
        return source.layer == reader.layer and source.kind == "head" and reader.kind == "mlp" and not self.parallel

    # -- indices ------------------------------------------------------------------------------------------------------
    def source_index(self, name: str) -> int:
        """The row of a source. Raises `SiteError` for a name that is none."""
        return _index(self.sources, name, "source")

    def reader_index(self, name: str) -> int:
        """The column of a reader. Raises `SiteError` for a name that is none."""
        return _index(self.readers, name, "reader")

    def edge(self, source: str, reader: str) -> tuple[int, int]:
        """Row and column of an edge. Raises `SiteError` for unknown names and for a pair that is no edge."""
        row, column = self.source_index(source), self.reader_index(reader)
        if not self.real[row, column]:
            raise SiteError(
                f"There is no edge from {source} to {reader}.",
                remedy="A source reaches only what reads the residual stream after it.",
                where={"source": source, "reader": reader},
            )
        return row, column

    def heads(self, layer: int) -> slice:
        """Rows of a layer's heads."""
        start = 1 + layer * (self.n_heads + 1)
        return slice(start, start + self.n_heads)

    def mlp(self, layer: int) -> int:
        """The row of a layer's MLP."""
        return (layer + 1) * (self.n_heads + 1)

    def reads(self, layer: int, letter: str) -> slice:
        """Columns of a layer's "q", "k" or "v" readers; "qkv" is all three, which are neighbours."""
        start = layer * (self.n_heads + 2 * self.n_kv_heads + 1)
        if letter == "qkv":
            return slice(start, start + self.n_heads + 2 * self.n_kv_heads)
        start += {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads}[letter]
        return slice(start, start + self.heads_of(letter))

    def mlp_reads(self, layer: int) -> int:
        """The column of a layer's MLP."""
        return (layer + 1) * (self.n_heads + 2 * self.n_kv_heads + 1) - 1

    def before(self, reader: Place) -> int:
        """How many rows, counted from the first, reach a reader: the real edges of a column are always a prefix."""
        if reader.kind == "mlp" and not self.parallel:
            return self.mlp(reader.layer)
        return 1 + reader.layer * (self.n_heads + 1)


def _index(names: Sequence[str], name: str, kind: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        near = get_close_matches(name, names, 1)
        raise SiteError(
            f"There is no {kind} {name!r}." + (f" Did you mean {near[0]}?" if near else ""),
            remedy=f"The model has {len(names)} {kind}s, from {names[0]} to {names[-1]}.",
            where={kind: name},
        ) from None


def refuse_without_edges(adapter: Adapter) -> None:
    """Raises `SiteError` for a family whose residual stream is no sum of writes by heads and MLPs, saying why."""
    if adapter.residual == "post_norm":
        why = (
            "norms the residual stream after every sum, so what a part writes reaches a later reader only through the "
            "norms between them: its residual stream is no sum of writes, and an edge has no value of its own"
        )
    elif adapter.encoder is not None:
        why = (
            "has an encoder and a decoder joined by cross-attention, which reads two residual streams; its edges are "
            "not those of one stream"
        )
    elif not {"q", "k", "v", "z"} <= set(adapter.sites):
        why = "has blocks without attention heads, so it has no q, k and v edges"
    elif adapter.input_name == "pixel_values":
        why = "reads images, and edges are attributed between two prompts"
    else:
        return
    raise SiteError(
        f"Edges are not attributed on the family {adapter.family}: it {why}.",
        remedy="Patch or attribute its sites: activation patching and attribution patching need no edges.",
        where={"family": adapter.family},
    )
