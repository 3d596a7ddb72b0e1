"""Texts a model wrote, beside what it was asked: generation with and without steering."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

from tracing.results.parts import Array, TypedResult, table


@dataclass(frozen=True, slots=True)
class TextEntry:
    """One text: `label` says how it was made, `prompt` what it continues."""

    label: str
    prompt: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Text(TypedResult):
    """Texts in the order to read them."""

    FORMAT: ClassVar[str] = "text/1"

    name: str
    title: str
    entries: tuple[TextEntry, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """The entries."""
        return {"entries": [asdict(entry) for entry in self.entries]}

    def arrays(self) -> dict[str, Array]:
        """None: texts are in the JSON part."""
        return {}

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """Texts from their parts."""
        entries = tuple(TextEntry(**entry) for entry in data["entries"])
        return cls(name=data["name"], title=data["title"], entries=entries, facts=data["facts"])

    def to_csv(self) -> str:
        """One line a text."""
        return table(["label", "prompt", "text"], ([entry.label, entry.prompt, entry.text] for entry in self.entries))
