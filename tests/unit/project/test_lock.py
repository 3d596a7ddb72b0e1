"""pyproject and the lock name the same packages, in versions that agree, from no particular index."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.project import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
LOCKED = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LOCK_LINES}
DECLARED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]


def test_every_declared_package_is_locked_within_its_bounds() -> None:
    for declared in map(Requirement, DECLARED):
        locked = LOCKED[canonicalize_name(declared.name)]
        [pin] = locked.specifier
        assert declared.specifier.contains(pin.version), declared
        assert str(declared.marker or "") == str(locked.marker or "")


def test_every_dependency_is_bounded_above() -> None:
    bounds = ("<", "<=", "~=", "==")
    requirements = map(Requirement, PROJECT["dependencies"])
    assert [str(r) for r in requirements if not any(clause.operator in bounds for clause in r.specifier)] == []


def test_the_lock_pins_one_version_and_names_no_host_or_file() -> None:
    assert [line for line in LOCK_LINES if not re.fullmatch(r"[\w.-]+==[\w.]+( ; [\w .\"=]+)?", line)] == []


def test_torch_is_locked_without_its_build() -> None:
    assert str(LOCKED[canonicalize_name("torch")]) == "torch==2.13.0"


def test_the_project_itself_is_not_in_the_lock() -> None:
    assert canonicalize_name(PROJECT["name"]) not in LOCKED


def test_redis_stays_below_8_where_its_client_breaks_the_channel_layer() -> None:
    assert not Requirement(next(text for text in DECLARED if text.startswith("redis"))).specifier.contains("8.0")


def test_lock_files_hold_no_machine_paths() -> None:
    for path in (ROOT / "requirements.lock", ROOT / "frontend/package-lock.json"):
        assert "file:" not in Path(path).read_text()


def test_the_browser_lock_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "frontend/package-lock.json").read_text()
