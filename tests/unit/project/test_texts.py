"""The README's examples run, its commands exist, and no link of our texts leads nowhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import get_commands

from tests.unit.project import ROOT

README = (ROOT / "README.md").read_text()
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "THREAT_MODEL.md")]
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
LONG_ENOUGH_FOR_THREE_MINUTES = 1100


def test_the_notebook_examples_run_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(blocks) == 3
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY_", "DJANGO_"))},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" Paris\n")
    assert "'layer': 2, 'position': 10, 'label': ' gave'" in done.stdout
    assert "activation_patching" in done.stdout


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_the_make_commands_of_a_text_exist(path: Path) -> None:
    named = set(re.findall(r"(?:^|`|&& )make ([a-z][a-z-]+)", path.read_text(), re.M))
    assert named <= TARGETS, named - TARGETS


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_the_management_commands_of_a_text_exist(path: Path) -> None:
    named = set(re.findall(r"\bmanage(?:\.py)? ([a-z]\w+)", path.read_text()))
    assert path.name != "README.md" or named >= {"add_user", "set_role", "register_model", "disallow_model"}
    assert named <= set(get_commands()), named - set(get_commands())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_the_files_and_folders_of_a_text_exist(path: Path) -> None:
    text = path.read_text()
    links = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
    folders = "tracing|interp_app|frontend|templates|tests|docker|benchmarks"
    quoted = set(re.findall(rf"`((?:{folders})/[\w./-]*)`", text)) - {"docker/.env"}
    assert {name for name in links | quoted if not (ROOT / name).exists()} == set()


def test_the_variables_of_the_readme_are_read_somewhere() -> None:
    settings = "".join(path.read_text() for path in (ROOT / "interp_app").rglob("*.py"))
    named = set(re.findall(r"PATCHBAY_[A-Z_]+", README))
    assert {name for name in named if name not in settings} == set()


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    assert len(prose.split()) < LONG_ENOUGH_FOR_THREE_MINUTES


def test_the_licence_is_the_whole_apache_licence() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert len(licence.splitlines()) > 190


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
