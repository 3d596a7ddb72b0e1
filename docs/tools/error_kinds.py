"""The kinds of errors that the source of `tracing` can raise, read from its syntax tree, by their messages.

A message is an f-string, so what is known of it is its fixed text, with anything in between. `tests/unit/project` asks
that each kind is shown on docs/errors.md or listed, with the reason why it is not, in `docs.tools.snippets.not_shown`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "tracing"
PARTS = ("engines", "families", "graph", "models")
"""Where what a user of traces sees is raised; experiments and sweeps have documents of their own."""
OTHERS = ("codec", "ops_schema", "kernel_checks")
"""Files with one message for each way in which a stored graph can be malformed, and with messages worded as torch's."""


@dataclass(frozen=True)
class Kind:
    """One place that raises: its file, the error's class, and the fixed parts of its message, joined by `…`."""

    file: str
    error: str
    message: str

    def is_in(self, text: str) -> bool:
        """Whether a text has the fixed parts of the message, in their order."""
        position = 0
        for part in self.message.split("…"):
            found = text.find(part, position)
            if found < 0:
                return False
            position = found + len(part)
        return True


def kinds() -> Iterator[Kind]:
    """Every kind of error with a message of its own."""
    for part in PARTS:
        for path in sorted((SOURCE / part).glob("*.py")):
            if not path.name.startswith(OTHERS):
                yield from _kinds_of(path)


def _kinds_of(path: Path) -> Iterator[Kind]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
            message = fixed_text(node.args[0])
            error = node.func.id
            if error.endswith("Error") and not error.startswith(("_", "Assertion")) and len(message.strip("…")) > 10:
                yield Kind(f"{path.parent.name}/{path.name}", error, message)


def fixed_text(node: ast.expr) -> str:
    """The fixed text of an expression, `…` in place of whatever is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(fixed_text(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return fixed_text(node.left) + fixed_text(node.right)
    return "…"
