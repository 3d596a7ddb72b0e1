"""The rules of the house that no linter can see: what a running process has loaded, and how the tree is laid out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.project import ROOT

TOP_LEVEL = {
    "manage.py", "pyproject.toml", "interp_app", "tracing", "frontend", "templates", "tests", "docker", "README.md",
    "Makefile", "requirements.lock", ".ci", ".gitignore", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
    "THREAT_MODEL.md", "benchmarks", "docs", "mkdocs.yml",
}  # fmt: skip
HEAVY = ("torch", "transformers")

WEB = """
import interp_app.asgi
from django.urls import get_resolver
def walk(patterns):
    for pattern in patterns:
        walk(getattr(pattern, "url_patterns", []))
walk(get_resolver().url_patterns)
"""
QUEUE = "import interp_app.celery, django; django.setup(); import interp_app.runs.tasks"
SPECS = "import tracing.experiments, tracing.prompts, tracing.tokens; assert tracing.experiments.methods()"


def loaded_by(code: str, tmp_path: Path) -> set[str]:
    """Top-level packages that a fresh process has loaded after running `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={
            **os.environ,
            "PATCHBAY_MODE": "embedded",
            "PATCHBAY_DATA_DIR": str(tmp_path),
            "DJANGO_SETTINGS_MODULE": "",
        }
        | {"DJANGO_SETTINGS_MODULE": "interp_app.settings.embedded"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("code", [WEB, QUEUE, SPECS], ids=["web process", "celery parent", "method specs"])
def test_processes_that_do_not_compute_never_load_torch(code: str, tmp_path: Path) -> None:
    assert loaded_by(code, tmp_path) & set(HEAVY) == set()


def test_tracing_loads_no_web_framework(tmp_path: Path) -> None:
    found = loaded_by("import tracing, tracing.models, tracing.patching, tracing.experiments", tmp_path)
    assert found & {"django", "celery", "channels", "interp_app", "redis", "psycopg"} == set()


def test_the_top_level_is_the_agreed_one() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {Path(name).parts[0] for name in names} - TOP_LEVEL == set()


@pytest.mark.parametrize("package", ["tracing", "interp_app"])
def test_every_module_says_what_it_is_for(package: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts
        and path.read_text().strip()
        and not path.read_text().startswith(('"""', 'r"""'))
    ]
    assert silent == []


@pytest.mark.parametrize("package", ["tracing", "interp_app", ".ci", "tests", "benchmarks", "docs"])
def test_no_file_is_too_long_to_read(package: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in (ROOT / package).rglob("*.py")
        if "migrations" not in path.parts
    }
    assert {name: lines for name, lines in lengths.items() if lines > 420} == {}
