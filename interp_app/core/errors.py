"""The one error that services and selectors raise on purpose; API and pages turn it into an answer.

`code` is stable and for programs, `message` says what was wrong with which input, `remedy` what to do about it,
`fields` maps dotted input names (`params.sites`, `prompts`) to sentences, `status` is the HTTP status that fits.
"""

from collections.abc import Mapping, Sequence
from typing import Self

from tracing.errors import TracingError


class ServiceError(Exception):
    """What a caller did cannot be done. Never holds paths of the server or tracebacks."""

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str = "",
        *,
        fields: Mapping[str, Sequence[str]] | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.fields: dict[str, list[str]] = {name: list(texts) for name, texts in (fields or {}).items()}
        self.status = status

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    @classmethod
    def from_tracing(cls, error: TracingError, *, field: str = "", status: int = 400) -> Self:
        """The same complaint, from the library's error; `field` names the input it is about."""
        fields = {field: [str(error)]} if field else None
        return cls(error.code, error.message, error.remedy, fields=fields, status=status)


def not_found(what: str) -> ServiceError:
    """What a user may not see does not exist for them either: same words, same status."""
    return ServiceError("not_found", f"There is no such {what}, or you may not see it.", status=404)


def not_allowed(message: str, remedy: str = "") -> ServiceError:
    """The object is visible, the action is not theirs."""
    return ServiceError("not_allowed", message, remedy, status=403)


def conflict(code: str, message: str, remedy: str = "") -> ServiceError:
    """The object's state does not admit the action."""
    return ServiceError(code, message, remedy, status=409)
