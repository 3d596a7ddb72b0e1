"""The Makefile lists itself, and `make test` adds its suites up without losing a failure."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.project import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
PROMISED = {"help", "up", "test", "lint", "bench", "demo-model", "clean"}

Totals = Callable[..., tuple[int, str, str]]

PASSES = '<testcase classname="tests.a" name="test_one"/>'
FAILS = '<testcase classname="tests.a" name="test_two"><failure message="no"/></testcase>'
BREAKS = '<testcase classname="tests.a" name="test_three"><error message="no"/></testcase>'
SKIPS = '<testcase classname="tests.a" name="test_four"><skipped message="no ../shared folder here"/></testcase>'


def listed() -> set[str]:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"^  ([a-z0-9-]+) ", done.stdout, re.M))


def test_help_is_what_make_alone_does() -> None:
    alone = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "make <command>" in alone.stdout


def test_help_lists_the_promised_commands() -> None:
    assert listed() >= PROMISED


def test_every_command_is_phony_so_that_a_file_of_its_name_cannot_hide_it() -> None:
    phony = set(" ".join(re.findall(r"^\.PHONY:(.*)$", MAKEFILE, re.M)).split())
    linters = re.search(r"^LINTERS := ((?:.*\\\n)*.*)", MAKEFILE, re.M)
    assert linters is not None
    phony |= set(linters[1].replace("\\\n", " ").split())
    assert listed() - phony == set()


def test_lint_runs_every_linter() -> None:
    assert {name for name in listed() if name.startswith("lint-")} <= set(MAKEFILE.split("LINTERS :=")[1].split())


@pytest.fixture
def totals(tmp_path: Path) -> Totals:
    """Run suites.py on reports of our own making; returns (exit status, last line, all output)."""

    def run(*, cases: str, code: int = 0, ci: bool = False, write: bool = True) -> tuple[int, str, str]:
        report = (
            f"open(r'{tmp_path}/fake.xml', 'w').write('''<testsuites><testsuite>{cases}</testsuite></testsuites>''')"
        )
        child = f"{report if write else 'pass'}; raise SystemExit({code})"
        script = f"""
import os, sys, pathlib
sys.path.insert(0, {str(ROOT / ".ci")!r})
import suites
suites.RESULTS = pathlib.Path({str(tmp_path)!r})
os.environ.pop("CI", None)
if {ci}: os.environ["CI"] = "1"
suite = suites.Suite("fake", [sys.executable, "-c", {child!r}], 20)
raise SystemExit(suites.report([suites.run(suite, dict(os.environ))]))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.splitlines()[-1], done.stdout + done.stderr

    return run


def test_all_passed_is_the_last_line_and_status_zero(totals: Totals) -> None:
    assert totals(cases=PASSES)[:2] == (0, "1 passed, 0 failed")


def test_failures_and_errors_are_both_failed(totals: Totals) -> None:
    status, line, output = totals(cases=PASSES + FAILS + BREAKS, code=1)
    assert (status, line) == (1, "1 passed, 2 failed")
    assert "tests.a::test_two" in output


def test_skips_are_counted_but_do_not_fail(totals: Totals) -> None:
    assert totals(cases=PASSES + SKIPS)[:2] == (0, "1 passed, 0 failed, 1 skipped")


def test_a_skip_for_whatever_reason_fails_in_ci(totals: Totals) -> None:
    silent = SKIPS.replace("shared", "browser")
    assert totals(cases=PASSES + silent, ci=True)[:2] == (1, "1 passed, 1 failed, 1 skipped")


def test_a_crash_after_the_last_test_fails(totals: Totals) -> None:
    assert totals(cases=PASSES, code=3)[:2] == (1, "1 passed, 1 failed")


def test_a_suite_that_ran_nothing_fails(totals: Totals) -> None:
    assert totals(cases="", write=False)[:2] == (1, "0 passed, 1 failed")
