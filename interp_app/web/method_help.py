"""A method's help text in parts that a page can lay out: the method's own page, and beside the form of a new run."""

from tracing import experiments
from tracing.experiments.registry import GROUPS, Method


def grouped_methods() -> list[tuple[str, list[Method]]]:
    """Methods under the titles of their groups, in the groups' order; groups without one are left out."""
    found = [(title, [one for one in experiments.methods() if one.group == key]) for key, title in GROUPS.items()]
    return [(title, methods) for title, methods in found if methods]


def help_blocks(text: str) -> list[tuple[str, list[str]]]:
    """A method's help as (kind, texts): lists of lines that begin with `- `, headings that end with a colon, formulas
    (one line with ` = `), paragraphs."""
    return [_help_block(part.strip()) for part in text.split("\n\n") if part.strip()]


def _help_block(part: str) -> tuple[str, list[str]]:
    joined = " ".join(part.split())
    if part.startswith("- "):
        return "list", [" ".join(item.split()) for item in f"\n{part}".split("\n- ")[1:]]
    if "\n" not in part and part.endswith(":"):
        return "heading", [part.rstrip(":")]
    if "\n" not in part and " = " in part:
        return "formula", [part]
    return "paragraph", [joined]
