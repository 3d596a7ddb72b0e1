"""Pages of Markdown whose Python blocks run, in order, in one namespace; what they print stands below them.

    ```python                      runs
    ```text title="Output"         what the block above printed; written by `make docs-pages`, compared by the tests
    <!-- raises NotSavedError -->  before a block: it must end with this error, which is shown in place of the output

A block that prints needs an output block below it: where it is missing, writing the page adds it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.tools.running import Session, same

DOCS = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:^<!-- raises (?P<raises>\w+) -->\n)?^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```(?:text title=\"Output\"|\{\.text \.wrap title=\"Error\"\})\n(?P<output>.*?)^```\n)?",
    re.M | re.S,
)


@dataclass(frozen=True)
class Difference:
    """An output on a page that is not what its block prints now."""

    page: str
    code: str
    shown: str
    printed: str

    def __str__(self) -> str:
        return f"{self.page}:\n{self.code}\nshows\n{self.shown}\nbut prints\n{self.printed}\nRun: make docs-pages"


def prose_pages() -> list[Path]:
    """Every page with Python blocks."""
    return [path for path in sorted(DOCS.glob("*.md")) if "```python\n" in path.read_text(encoding="utf-8")]


def fresh(path: Path, text: str | None = None) -> str:
    """The page (or `text` in its place) with the outputs that its blocks print now."""
    text = path.read_text(encoding="utf-8") if text is None else text
    parts, end = [], 0
    with Session(f"{path.stem.replace('-', '_')}.py") as session:
        for match in BLOCK.finditer(text):
            parts += [text[end : match.start()], _rendered(match, _printed(session, match))]
            end = match.end()
    return "".join([*parts, text[end:]])


def differences(path: Path) -> Iterator[Difference]:
    """What a page shows otherwise than its blocks print."""
    before = path.read_text(encoding="utf-8")
    after = fresh(path)
    for old, new in zip(BLOCK.finditer(before), BLOCK.finditer(after), strict=True):
        shown, printed = old["output"] or "", new["output"] or ""
        if not same(shown, printed):
            yield Difference(path.name, old["code"], shown, printed)


def write(path: Path, text: str) -> bool:
    """Write a page unless it says the same already, up to the last digit of its numbers. Returns whether it did."""
    if path.exists() and same(path.read_text(encoding="utf-8"), text):
        return False
    path.write_text(text, encoding="utf-8")
    return True


def _printed(session: Session, match: re.Match[str]) -> str:
    printed = session.run(match["code"], raises=match["raises"] or "")
    return "\n".join(line.rstrip() for line in printed.rstrip().splitlines()) + "\n" if printed.strip() else ""


def _rendered(match: re.Match[str], printed: str) -> str:
    directive = f"<!-- raises {match['raises']} -->\n" if match["raises"] else ""
    code = f"{directive}```python\n{match['code']}```\n"
    return f"{code}\n{output_fence('Error' if match['raises'] else 'Output')}{printed}```\n" if printed else code


def output_fence(title: str) -> str:
    """The line that opens an output; messages are wrapped where they are wider than the page."""
    return '```text title="Output"\n' if title == "Output" else f'```{{.text .wrap title="{title}"}}\n'
