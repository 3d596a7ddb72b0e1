"""The errors page shows every kind of error that a trace can raise, each with its line and its remedy."""

import ast
import inspect
import re

import pytest

from docs.tools.error_kinds import Kind, fixed_text, kinds
from docs.tools.errors import PAGE, SHOWN
from docs.tools.snippets import SNIPPETS
from docs.tools.snippets.not_shown import NOT_SHOWN
from tests.unit.project import ROOT
from tracing import errors

TEXT = PAGE.read_text(encoding="utf-8")
OUTPUTS = re.findall(r"^```\{\.text \.wrap[^\n]*\n(.*?)^```", TEXT, re.M | re.S)
PARTS = [part for parts in NOT_SHOWN.values() for part in parts]
OURS = {name for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, SHOWN)}
SITES = re.compile(r"\(at patch\.py:\d|patch\.py:\d|line \d|[Ii]nvokes? \d")
ABOUT_THE_CALL = (
    "no tokenizer", "no image processor", "without weights", "no weights", "No prompt was given",
    "new ones do not fit", "cannot be one batch", "can be tapped", "does not tell the scores",
)  # fmt: skip
"""Messages about the model, or about the call that the traceback ends with."""


def test_every_kind_of_error_is_shown_or_has_a_reason_not_to_be() -> None:
    def is_shown(kind: Kind) -> bool:
        return any(kind.is_in(output) for output in OUTPUTS) or any(part in kind.message for part in PARTS)

    missing = [str(kind) for kind in kinds() if not is_shown(kind)]
    assert missing == [], "add a snippet to docs/tools/snippets/, or a reason to not_shown.py"


def test_no_reason_is_left_over() -> None:
    messages = [kind.message for kind in kinds()]
    assert [part for part in PARTS if not any(part in message for message in messages)] == []


def test_every_error_class_of_a_trace_is_shown() -> None:
    shown = {snippet.raises for snippets in SNIPPETS.values() for snippet in snippets}
    assert {name for name in OURS if name not in {"TraceError", *shown}} == set()
    assert {name for name in OURS if f"| `{name}`<br>" not in TEXT} == set()


def test_every_snippet_has_a_title_and_a_sentence_of_its_own() -> None:
    snippets = [snippet for group in SNIPPETS.values() for snippet in group]
    titles = [snippet.title for snippet in snippets]
    assert len(set(titles)) == len(titles)
    assert all(snippet.text.endswith(".") and snippet.code.endswith("\n") for snippet in snippets)


def test_an_error_that_comes_when_the_block_ends_names_the_line_or_the_prompt_that_it_is_about() -> None:
    silent = []
    for output in OUTPUTS:
        frame = re.search(
            r'File "patch\.py", line \d+, in <module>\n    with \w+\.(?:trace|generate|scan)\([^\n]*\n(?!\s+[~^])',
            output,
        )
        message = output.rpartition("\n  File ")[2].partition("\n")[2].partition("\n")[2]
        if frame and not any(one in message for one in ABOUT_THE_CALL) and not SITES.search(message):
            silent.append(output)
    assert silent == []


@pytest.mark.parametrize("part", ["engines", "export", "families", "graph", "models"])
def test_every_error_says_what_to_do(part: str) -> None:
    """Each is given `remedy=`, but for those whose message has it and those that become part of another message."""
    free = (
        "shapes … and",
        "the forward never reached",
        "attention cannot run here",
        "There is no operation",
        "… (at …).",
    )
    bare = []
    for path in sorted((ROOT / "tracing" / part).glob("*.py")):
        if path.name.startswith(("codec", "ops_schema")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS:
                message = fixed_text(node.args[0]) if node.args else ""
                computed = bool(node.args) and isinstance(node.args[0], ast.Starred)
                stated = any(keyword.arg == "remedy" for keyword in node.keywords)
                if not stated and not computed and not any(one in message for one in free):
                    bare.append(f"{path.name}:{node.lineno}: {message}")
    assert bare == []
