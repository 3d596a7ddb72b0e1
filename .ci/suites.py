"""`make test`: every suite as a process of its own, then one closing line such as `412 passed, 0 failed`.

System tests kill servers and browser tests may not share a process with the database layer, so each suite runs alone:

    python .ci/suites.py                  all of them
    python .ci/suites.py unit browser     some of them
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local_services import Missing, services

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "test-results"
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Suite:
    """One command that writes a JUnit report to test-results/<name>.xml."""

    name: str
    command: Sequence[str]
    limit_seconds: int
    folder: Path = ROOT

    @property
    def report(self) -> Path:
        return RESULTS / f"{self.name}.xml"


def pytest(name: str, *arguments: str, limit_seconds: int) -> Suite:
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={RESULTS / name}.xml", *arguments]
    return Suite(name=name, command=command, limit_seconds=limit_seconds)


SUITES = (
    Suite(
        name="browser",
        command=[
            "npx", "--no-install", "vitest", "run",
            "--reporter=default", "--reporter=junit", f"--outputFile.junit={RESULTS / 'browser.xml'}",
        ],
        limit_seconds=180,
        folder=ROOT / "frontend",
    ),
    pytest("unit", "tests/unit", "tests/parity", "tests/api", "tests/ws", "-n", "2", limit_seconds=1500),
    pytest("system", "tests/system", limit_seconds=1200),
    pytest("e2e", "tests/e2e", limit_seconds=600),
)  # fmt: skip


@dataclass
class Outcome:
    """What one suite did. `problems` are failures that no test stands for: a crash, a timeout, a forbidden skip."""

    name: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_report(suite: Suite, outcome: Outcome) -> None:
    """Count the cases of the report. A case that both failed and errored in teardown counts once."""
    for case in ElementTree.parse(suite.report).iter("testcase"):  # noqa: S314 (our own test runner wrote it)
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
            outcome.failures.append(name)
        elif skip is None:
            outcome.passed += 1
        else:
            outcome.skipped += 1
            if os.environ.get("CI"):
                reason = skip.get("message") or "no reason given"
                outcome.problems.append(f"{name} was skipped in CI: {reason}")


def run(suite: Suite, environment: dict[str, str]) -> Outcome:
    """Run one suite; whatever goes wrong becomes part of its outcome."""
    outcome = Outcome(suite.name)
    print(f"\n== {suite.name} {'=' * (70 - len(suite.name))}", flush=True)
    suite.report.unlink(missing_ok=True)
    started = time.monotonic()
    process = subprocess.Popen(
        suite.command, cwd=suite.folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code = process.wait(suite.limit_seconds)
    except BaseException as error:  # also Ctrl-C and SIGTERM: never leave the suite's processes behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # pytest then ends its fixtures and writes its report
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        code = 1
        outcome.problems.append(f"{suite.name} did not end within {suite.limit_seconds} s")
    outcome.seconds = time.monotonic() - started
    if suite.report.exists():
        read_report(suite, outcome)
    if code and not outcome.failed and not outcome.problems:
        outcome.problems.append(f"{suite.name} ended with exit status {code}")
    if not code and not outcome.passed:
        outcome.problems.append(f"{suite.name} ran no test")
    return outcome


def report(outcomes: Sequence[Outcome]) -> int:
    """Print one line a suite, what failed, and the closing line. Returns the exit status."""
    print(f"\n== summary {'=' * 63}")
    for outcome in outcomes:
        counts = f"{outcome.passed:5} passed {outcome.failed:4} failed {outcome.skipped:4} skipped"
        print(f"{outcome.name:8} {counts} {outcome.seconds:7.1f} s")
    for outcome in outcomes:
        for line in [*outcome.failures, *outcome.problems]:
            print(f"FAILED {outcome.name}: {line}")
    passed, skipped = sum(o.passed for o in outcomes), sum(o.skipped for o in outcomes)
    failed = sum(o.failed + len(o.problems) for o in outcomes)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed else 0


def end(*_: object) -> None:
    raise SystemExit(143)


def main(names: Sequence[str]) -> int:
    unknown = set(names) - {suite.name for suite in SUITES}
    if unknown:
        print(f"No suite {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in SUITES)}.")
        return 2
    signal.signal(signal.SIGTERM, end)
    RESULTS.mkdir(exist_ok=True)
    if os.environ.get("CI") and not SHARED.is_dir():
        return report([Outcome("shared", problems=["../shared is absent, and CI may not skip its tests"])])
    try:
        with services() as found:
            # Tiny models gain nothing from more threads, and two test processes would fight for two cores.
            fixed = {"PATCHBAY_MODE": "test", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
            environment = {**os.environ, **found, **fixed}
            outcomes = [run(suite, environment) for suite in SUITES if not names or suite.name in names]
    except Missing as error:
        print(error)
        return report([Outcome("services", problems=[str(error).splitlines()[0]])])
    return report(outcomes)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
