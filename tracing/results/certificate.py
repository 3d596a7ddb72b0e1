"""Checks that say whether a run's numbers can be trusted: each a value, the limit it must keep, and a sentence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, ClassVar, Self

from tracing.results.parts import Array, TypedResult, number, require_names, table


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `passed` is None where it only informs; `value` and `limit` are None where there is no number."""

    name: str
    title: str
    value: float | None
    limit: float | None
    passed: bool | None
    sentence: str

    def __post_init__(self) -> None:
        """Raises `ValueError` for a number that JSON cannot hold."""
        for what, found in (("value", self.value), ("limit", self.limit)):
            if found is not None and not isfinite(found):
                raise ValueError(
                    f"The {what} of the check {self.name!r} is {found}; use None where there is no number."
                )


@dataclass(frozen=True, slots=True, eq=False)
class Certificate(TypedResult):
    """Checks in the order to read them, and warnings about what no check covers."""

    FORMAT: ClassVar[str] = "certificate/1"

    name: str
    title: str
    checks: tuple[Check, ...]
    warnings: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ValueError` where two checks share a name."""
        require_names("checks", [check.name for check in self.checks])

    @property
    def trusted(self) -> bool:
        """True where no check failed."""
        return all(check.passed is not False for check in self.checks)

    def check(self, name: str) -> Check:
        """The check of that name. Raises `KeyError` that lists the names otherwise."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check named {name!r}; there are {', '.join(check.name for check in self.checks)}")

    def parts(self) -> dict[str, Any]:
        """The checks, the warnings, and whether no check failed."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "warnings": list(self.warnings),
            "trusted": self.trusted,
        }

    def arrays(self) -> dict[str, Array]:
        """None: checks are in the JSON part."""
        return {}

    @classmethod
    def build(cls, data: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """A certificate from its parts."""
        return cls(
            name=data["name"],
            title=data["title"],
            checks=tuple(Check(**check) for check in data["checks"]),
            warnings=tuple(data["warnings"]),
            facts=data["facts"],
        )

    def to_csv(self) -> str:
        """One line a check, then one a warning."""
        words = {True: "yes", False: "no", None: ""}
        checks = [
            [check.name, check.title, number(check.value), number(check.limit), words[check.passed], check.sentence]
            for check in self.checks
        ]
        warnings = [["warning", "", "", "", "", warning] for warning in self.warnings]
        return table(["name", "title", "value", "limit", "passed", "sentence"], [*checks, *warnings])
