"""docs/errors.md: every error as a user sees it, from snippets that are really run."""

from typing import Final

from docs.tools.error_snippets import SETUP, SNIPPETS, Snippet
from docs.tools.pages import DOCS, output_fence
from docs.tools.running import Session

PAGE: Final = DOCS / "errors.md"
INTRODUCTION: Final = """\
# Errors

<!-- Made by docs/tools/errors.py (make docs-pages). Edit docs/tools/error_snippets.py instead. -->

Each message below is what Python printed when the snippet above it ran; frames of libraries are left out. A message
says what was wrong, at which line and site, and what to do. Errors of this library are subclasses of `TracingError` and
carry a stable `code`; errors that torch raises in an operation of yours keep their type and get a note.

All snippets start with:

```py
{setup}```
"""


def page() -> str:
    """The whole page, every snippet run."""
    parts = [INTRODUCTION.format(setup=SETUP)]
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


def section(snippet: Snippet, session: Session) -> str:
    """Heading, code, what it prints, and the sentence."""
    printed = session.run(snippet.code, raises=snippet.raises).rstrip()
    return (
        f"### {snippet.title}\n\n```py\n{snippet.code}```\n\n"
        f"{output_fence('Error' if snippet.raises else 'Warning')}{printed}\n```\n\n{snippet.text}\n"
    )
