"""What may appear nowhere in the tree: calls that run or trust foreign text, other people's hosts, our machines' paths.

ruff bans the calls where it sees imports; this test also reads attribute chains, templates, TypeScript and texts.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.project import ROOT

BINARY = {".safetensors", ".png", ".ico", ".svg", ".bin", ".npz", ".webp"}
BANNED_IMPORTS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load",
    "mark_safe", "SafeString", "csrf_exempt", "shared_task", "os.system", "os.popen", "np.load", "numpy.load",
}  # fmt: skip
BANNED_KEYWORDS = {"shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False}
BANNED_IN_PAGES = {
    "HTML from strings": r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|\{@html",
    "text as code": r"\beval\(|new Function\(",
    "unescaped template text": r"\|\s*safe\b|autoescape off|safeseq",
    "a file from another host": r"""(src|href|url\(|import|from)\s*=?\s*["'(]*(https?:)?//""",
}
BANNED_IN_HTML = {
    "inline script": r"<script(?![^>]*(src=|type=\"application/json\"))",
    "inline handler": r"\son(click|load|error|submit|change|input)=",
    "inline style": r"<style|\sstyle=",
}
ELSEWHERE = {
    "a machine path": r"(?<![\w/.:-])/(work|root|home/\w+|Users/\w+)/\w",
    "a file from a content network": r"cdn\.|unpkg\.com|jsdelivr|googleapis\.com|cdnjs",
    "a package index": r"pypi\.org|pythonhosted|registry\.npmjs|download\.pytorch\.org",
    "a left-over": r"\b(TODO|FIXME|XXX|HACK)\b",
}


def tracked(*suffixes: str) -> list[Path]:
    """Files of the project as git knows them, new ones included, ignored ones not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


PYTHON = [path for path in tracked(".py") if "tests" not in path.parts]
PAGES = [path for path in tracked(".html", ".ts", ".svelte", ".css", ".mjs") if "tests" not in path.parts]
OURSELVES = Path(__file__)
TEXTS = [path for path in tracked() if path.suffix not in BINARY and path not in (OURSELVES, ROOT / "LICENSE")]


def hits(texts: dict[Path, str], patterns: dict[str, str]) -> set[str]:
    """`file: what: the text` for every match."""
    return {
        f"{relative(path)}: {what}: {match[0]}"
        for path, text in texts.items()
        for what, pattern in patterns.items()
        for match in re.finditer(pattern, text)
    }


def dotted(node: ast.expr) -> str:
    """`torch.load` of the expression torch.load; empty where it is not a plain chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def broken_bans(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in BANNED_IMPORTS)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} | {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & BANNED_CALLS
            if (node.module or "").split(".")[0] in BANNED_IMPORTS:
                yield str(node.module)
        elif isinstance(node, ast.Call):
            if dotted(node.func) in BANNED_CALLS:
                yield dotted(node.func)
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if value is not None and BANNED_KEYWORDS.get(keyword.arg or "") == value:
                    yield f"{keyword.arg}={value}"
        elif isinstance(node, ast.Attribute | ast.Name) and dotted(node) in {"mark_safe", "csrf_exempt", "torch.load"}:
            yield dotted(node)


def test_python_holds_no_banned_call() -> None:
    found = {relative(path): set(broken_bans(ast.parse(path.read_text()))) for path in PYTHON}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch; torch.load('x')",
        "from torch import load as torch_load; from torch.serialization import load; import torch; f = torch.load",
        "eval('1')",
        "from django.utils.safestring import mark_safe",
        "subprocess.run('ls', shell=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "np.load('x')",
    ],
)
def test_the_ban_sees_what_it_should(source: str) -> None:
    assert list(broken_bans(ast.parse(source)))


def test_pages_and_scripts_build_no_html_from_text_and_load_nothing_from_elsewhere() -> None:
    lint_rules = ROOT / "frontend/eslint.config.js"  # it names what it bans
    texts = {path: re.sub(r"http://www\.w3\.org/[\w/]+", "", path.read_text()) for path in PAGES if path != lint_rules}
    assert hits(texts, BANNED_IN_PAGES) == set()


def test_pages_hold_no_inline_script_or_handler() -> None:
    assert hits({path: path.read_text() for path in tracked(".html")}, BANNED_IN_HTML) == set()


def test_no_text_names_our_machines_or_other_peoples_hosts() -> None:
    assert hits({path: path.read_text(errors="replace") for path in TEXTS}, ELSEWHERE) == set()


def test_no_model_weights_but_safetensors_are_in_the_tree() -> None:
    assert tracked(".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npy") == []


def test_no_tracked_file_is_large() -> None:
    assert {relative(path) for path in tracked() if path.stat().st_size > 6 * 2**20} == set()
