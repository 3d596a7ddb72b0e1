"""docs/errors.md: every error as a user sees it, from snippets that are really run."""

from typing import Final

from docs.tools.pages import DOCS, output_fence
from docs.tools.running import Session
from docs.tools.snippets import SETUP, SNIPPETS, Snippet
from tracing import errors

PAGE: Final = DOCS / "errors.md"
INTRODUCTION: Final = """\
# Errors

<!-- Made by docs/tools/errors.py (make docs-pages). Edit docs/tools/snippets/ instead. -->

Each message below is what Python printed when the snippet above it ran; frames of libraries are left out. A message
says what was wrong, at which line and site, and what to do. To find yours, search this page for its first words.

## Classes

Errors of this library are subclasses of `TracingError`, in `tracing.errors`. Each has a stable `code`, for programs,
and `remedy`, the part of its message that says what to do. Errors that torch raises in an operation of yours keep their
type and get a note with the line that recorded the operation, the site and the shapes.

{classes}

All snippets start with:

```py
{setup}```
"""
SHOWN: Final = (errors.TraceError, errors.SiteError, errors.PromptError, errors.ModelError, errors.AdapterError)
"""What a trace can raise; the rest of `tracing.errors` is of experiments."""


def page() -> str:
    """The whole page, every snippet run."""
    parts = [INTRODUCTION.format(setup=SETUP, classes=classes())]
    with Session("patch.py") as session:
        session.run(SETUP)
        names = dict(session.module.__dict__)
        for heading, snippets in SNIPPETS.items():
            parts.append(f"## {heading}\n")
            for snippet in snippets:
                session.module.__dict__.clear()
                session.module.__dict__.update(names)
                parts.append(section(snippet, session))
    return "\n".join(parts)


def classes() -> str:
    """A table of the classes, most general first where one is a part of another."""
    rows = ["| Class, `code` | Means |", "|---|---|"]
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, SHOWN):
            meaning = " ".join((found.__doc__ or "").split())
            rows.append(f"| `{name}`<br>`{found.code}` | {meaning} |")
    rows.extend(
        f"| `{warning.__name__}` | {' '.join((warning.__doc__ or '').split())} |"
        for warning in (errors.UnusedValueWarning, errors.StepNotReachedWarning)
    )
    return "\n".join(rows)


def section(snippet: Snippet, session: Session) -> str:
    """Heading, code, what it prints, and the sentence."""
    printed = session.run(snippet.code, raises=snippet.raises).rstrip()
    return (
        f"### {snippet.title}\n\n```py\n{snippet.code}```\n\n"
        f"{output_fence('Error' if snippet.raises else 'Warning')}{printed}\n```\n\n{snippet.text}\n"
    )
