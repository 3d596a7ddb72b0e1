"""One mistake, as the errors page shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code that is really run, and one sentence on what to do instead. `raises` is "" where it only warns."""

    title: str
    raises: str
    code: str
    text: str
